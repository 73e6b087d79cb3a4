"""Wrong parameters are refused before anything is created, and right ones are not.

CloudFormation checks a parameter by its type, AllowedPattern, AllowedValues, lengths and limits; so does this, on the
template as CloudFormation gets it. parameters.json has right and wrong values for each; a test of the code takes the right
ones too (tests/repository/tests/infra.rs).
"""

import json
import pathlib
import re
import unittest

HERE = pathlib.Path(__file__).resolve().parent
TEMPLATE = json.loads((HERE / "template.snapshot.json").read_text(encoding="utf-8"))
EXAMPLES = json.loads((HERE / "parameters.json").read_text(encoding="utf-8"))
PARAMETERS = TEMPLATE["Parameters"]

# What makes a pattern mean something else to CloudFormation (Java) than to Python.
UNCOMMON = re.compile(r"\(\?|\\[A-Zpk]|&&")


def is_taken(parameter, text):
    """Whether CloudFormation takes a value for a parameter."""
    if parameter["Type"] == "Number":
        if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
            return False
        number = float(text)
        if not parameter.get("MinValue", number) <= number <= parameter.get("MaxValue", number):
            return False
    if not parameter.get("MinLength", 0) <= len(text) <= parameter.get("MaxLength", 4096):
        return False
    if "AllowedValues" in parameter and text not in map(str, parameter["AllowedValues"]):
        return False
    return re.fullmatch(parameter.get("AllowedPattern", ".*"), text) is not None


def is_true(condition, values):
    """Evaluates a function of Rules."""
    ((name, operand),) = condition.items()
    value = lambda operand: values[operand["Ref"]] if isinstance(operand, dict) else operand
    if name == "Fn::Equals":
        return value(operand[0]) == value(operand[1])
    if name == "Fn::Not":
        return not is_true(operand[0], values)
    raise AssertionError(f"no {name} in here yet")


def refusals(values):
    """What Rules say to these values."""
    return [
        assertion["AssertDescription"]
        for rule in TEMPLATE["Rules"].values()
        if is_true(rule["RuleCondition"], values)
        for assertion in rule["Assertions"]
        if not is_true(assertion["Assert"], values)
    ]


class Parameters(unittest.TestCase):
    def each(self):
        for name, parameter in PARAMETERS.items():
            with self.subTest(name):
                yield name, parameter

    def test_each_has_right_and_wrong_examples(self):
        self.assertEqual(set(EXAMPLES), set(PARAMETERS))
        for name, _ in self.each():
            self.assertTrue(EXAMPLES[name]["good"] and EXAMPLES[name]["bad"])

    def test_right_values_are_taken_and_wrong_ones_refused(self):
        for name, parameter in self.each():
            for text in EXAMPLES[name]["good"]:
                self.assertTrue(is_taken(parameter, text), text)
            for text in EXAMPLES[name]["bad"]:
                self.assertFalse(is_taken(parameter, text), text)

    def test_defaults_are_right_values(self):
        for _, parameter in self.each():
            if "Default" in parameter:
                self.assertTrue(is_taken(parameter, str(parameter["Default"])))

    def test_each_is_described_limited_and_stands_in_one_group(self):
        groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        grouped = [name for group in groups for name in group["Parameters"]]
        self.assertEqual(sorted(grouped), sorted(PARAMETERS))
        for _, parameter in self.each():
            self.assertTrue(parameter["Description"].strip())
            self.assertLessEqual(len(parameter["Description"]), 4000)
            self.assertTrue({"AllowedPattern", "AllowedValues", "MinValue"} & set(parameter))
            if "AllowedPattern" in parameter:
                self.assertTrue(parameter["ConstraintDescription"].strip())
                self.assertIsNone(UNCOMMON.search(parameter["AllowedPattern"]))
                self.assertTrue(all(part.startswith("^") and part.endswith("$") for part in alternatives(parameter["AllowedPattern"])))

    def test_only_what_nobody_else_can_know_must_be_given(self):
        needed = {name for name, parameter in PARAMETERS.items() if "Default" not in parameter}
        self.assertEqual(needed, {"OpenctiUrl", "ConnectorId", "VmrayInitialFetchDate"})

    def test_no_secret_is_a_parameter(self):
        for name, _ in self.each():
            self.assertIsNone(re.search("Password|Token|ApiKey$|Callers", name))

    def test_cloudformation_takes_the_template(self):
        self.assertLessEqual(len(PARAMETERS), 200)
        self.assertLessEqual(len(TEMPLATE["Resources"]), 500)
        # With room for what `sam deploy` adds; uploaded to S3, as it does.
        self.assertLess((HERE.parent / "template.yaml").stat().st_size, 900_000)


class Rules(unittest.TestCase):
    FIRST = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:first-AbCdEf"
    SECOND = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:second-AbCdEf"

    def test_the_function_that_faces_the_internet_cannot_be_given_the_token(self):
        for ingest, submit, refused in [
            ("", "", False),
            (self.FIRST, "", False),
            ("", self.FIRST, False),
            (self.FIRST, self.SECOND, False),
            (self.FIRST, self.FIRST, True),
        ]:
            with self.subTest(ingest=ingest, submit=submit):
                said = refusals({"IngestSecretArn": ingest, "SubmitSecretArn": submit})
                self.assertEqual(bool(said), refused, said)


def alternatives(pattern):
    """The parts of a pattern between strokes outside brackets."""
    parts, depth, part = [], 0, ""
    for character in pattern:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return [*parts, part]


if __name__ == "__main__":
    unittest.main()
