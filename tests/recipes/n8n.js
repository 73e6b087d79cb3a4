// A stand-in for n8n that knows the nodes of our workflow: node n8n.js WORKFLOW SERVER KEY. Writes the last items.
const fs = require('fs');

const [file, server, key] = process.argv.slice(2);
const text = fs.readFileSync(file, 'utf8').replaceAll('https://vmray-bridge.example.com', server);
const { nodes, connections } = JSON.parse(text);
const byName = new Map(nodes.map((node) => [node.name, node]));

// A parameter: plain, one expression, or a text with expressions inside.
const value = (parameter, $json) => {
  if (typeof parameter !== 'string' || !parameter.startsWith('=')) return parameter;
  const evaluate = (code) => new Function('$json', `return (${code});`)($json);
  const whole = /^={{(.*)}}$/s.exec(parameter);
  if (whole && !whole[1].includes('}}')) return evaluate(whole[1]);
  return parameter.slice(1).replace(/{{(.*?)}}/gs, (_, code) => evaluate(code));
};

const request = async (node, $json) => {
  const p = node.parameters;
  if (p.genericAuthType !== 'httpHeaderAuth' || !node.credentials.httpHeaderAuth) throw new Error(`${node.name}: no header`);
  const url = new URL(value(p.url, $json));
  for (const { name, value: given } of p.sendQuery ? p.queryParameters.parameters : []) url.searchParams.set(name, value(given, $json));
  const init = { method: p.method, headers: { 'x-api-key': key, accept: 'application/json,text/html,*/*' } };
  if (p.sendBody) {
    init.body = JSON.stringify(value(p.jsonBody, $json));
    init.headers['content-type'] = 'application/json';
  }
  const response = await fetch(url, { ...init, signal: AbortSignal.timeout(p.options.timeout) });
  if (!response.ok) throw new Error(`${node.name}: ${response.status} ${await response.text()}`);
  return response.json();
};

// Gives the items of each output.
const run = async (node, items) => {
  const p = node.parameters;
  switch (node.type.replace('n8n-nodes-base.', '')) {
    case 'manualTrigger':
      return [[{ json: {} }]];
    case 'code':
      return [new Function('$input', p.jsCode)({ all: () => items })];
    case 'httpRequest':
      return [await Promise.all(items.map(async ({ json }) => ({ json: await request(node, json) })))];
    case 'if': {
      const [condition] = p.conditions.conditions;
      const passes = ({ json }) => value(condition.leftValue, json) === true;
      return [items.filter(passes), items.filter((item) => !passes(item))];
    }
    case 'wait':
      await new Promise((resolve) => setTimeout(resolve, p.amount * 1000));
      return [items];
    case 'splitOut':
      return [items.flatMap(({ json }) => json[p.fieldToSplitOut].map((one) => ({ json: one })))];
    default:
      throw new Error(`${node.name}: ${node.type} is not known here`);
  }
};

const follow = async (name, items) => {
  const outputs = await run(byName.get(name), items);
  const targets = connections[name]?.main;
  if (!targets) return outputs[0];
  for (const [index, output] of outputs.entries()) {
    for (const { node } of output.length > 0 ? (targets[index] ?? []) : []) return follow(node, output);
  }
  throw new Error(`${name}: nothing comes out`);
};

follow(nodes.find((node) => node.type.endsWith('Trigger')).name, []).then(
  (items) => process.stdout.write(JSON.stringify(items.map((item) => item.json))),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
