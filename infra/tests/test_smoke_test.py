"""The smoke test says what works and what does not, against a deployment that is made up."""

import http.server
import os
import pathlib
import stat
import subprocess
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEY = "the-key-of-a-caller"

# Answers for `aws cloudformation describe-stacks` and `aws lambda invoke ... FILE`.
AWS = """#!/bin/sh
case "$1 $2" in
"cloudformation describe-stacks") printf 'SubmitUrl\\t%s\\nIngestFunctionName\\tingest\\nDashboardUrl\\thttps://dashboard\\n' "$FAKE_URL" ;;
"lambda invoke")
    for last; do :; done
    case "$*" in
    *heartbeat*) echo '{"status":"heartbeat","run_id":"1"}' >"$last" ;;
    *) echo "$FAKE_RUN" >"$last" ;;
    esac ;;
*) exit 1 ;;
esac
"""


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(200 if self.headers["x-api-key"] == KEY else 401)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class SmokeTest(unittest.TestCase):
    def setUp(self):
        self.api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
        threading.Thread(target=self.api.serve_forever, daemon=True).start()
        self.folder = tempfile.TemporaryDirectory()
        aws = pathlib.Path(self.folder.name, "aws")
        aws.write_text(AWS, encoding="utf-8")
        aws.chmod(aws.stat().st_mode | stat.S_IXUSR)

    def tearDown(self):
        self.api.shutdown()
        self.api.server_close()
        self.folder.cleanup()

    def smoke_test(self, key=KEY, run='{"status":"done","samples":3}'):
        environment = {
            "PATH": f"{self.folder.name}:{os.environ['PATH']}",
            "NO_PROXY": "127.0.0.1",
            "FAKE_URL": f"http://127.0.0.1:{self.api.server_address[1]}",
            "FAKE_RUN": run,
            "CALLER_KEY": key,
        }
        return subprocess.run([ROOT / "infra/smoke-test"], env=environment, capture_output=True, text=True, check=False)

    def test_a_deployment_that_works(self):
        done = self.smoke_test()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count("ok  "), 6, done.stdout)
        self.assertIn("everything works; https://dashboard", done.stdout)

    def test_the_key_may_be_left_out(self):
        done = self.smoke_test(key="")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("left out", done.stdout)

    def test_what_does_not_work_is_named_with_its_answer(self):
        failed = '{"errorType":"VmrayUnauthorized","errorMessage":"{\\\\"status\\\\":..}"}'
        done = self.smoke_test(key="another", run=failed)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("FAILED   API with your key      401, expected 200", done.stdout)
        self.assertIn("VmrayUnauthorized", done.stdout)
        self.assertNotIn("another", done.stdout)


if __name__ == "__main__":
    unittest.main()
