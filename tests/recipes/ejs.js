// Renders a notifier's template as OpenCTI does before it parses the result as JSON: node ejs.js TEMPLATE < data.json
const ejs = require('ejs');
const fs = require('fs');

// In OpenCTI a text is escaped as the inside of a JSON string, and everything else is written as JSON.
const escape = (value) => {
  const text = JSON.stringify(value) ?? '';
  return text.startsWith('"') ? text.slice(1, -1) : text;
};
const data = JSON.parse(fs.readFileSync(0, 'utf8'));
process.stdout.write(JSON.stringify(JSON.parse(ejs.render(fs.readFileSync(process.argv[2], 'utf8'), data, { escape }))));
