#!/usr/bin/env python3
"""Submits URLs to VMRay Bridge and waits for the verdicts. Python 3.9 or newer, standard library only.

    export VMRAY_BRIDGE=https://vmray-bridge.example.com VMRAY_BRIDGE_KEY=vmb_...
    python3 submit_urls.py https://a.example/login 'hxxp://b[.]example'
    python3 submit_urls.py --tags phishing,mail --max-wait 600 < urls.txt

Prints a line for each URL: status, verdict, score, sample, URL. The exit code is 0 if every URL has a verdict, 1 if not,
2 if the call was refused as a whole.
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

ATTEMPTS = 5


class Refused(Exception):
    """The call as a whole was refused: what the server said."""


def call(method, path, body=None, headers=None):
    """One call, repeated while the server is away or asks to wait. Gives headers and JSON."""
    request = urllib.request.Request(os.environ["VMRAY_BRIDGE"].rstrip("/") + path, method=method)
    request.add_header("x-api-key", os.environ["VMRAY_BRIDGE_KEY"])
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    for attempt in range(1, ATTEMPTS + 1):
        pause = 2**attempt
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.headers, json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            pause = int(error.headers.get("Retry-After") or pause)
            # A pause of hours is a daily limit.
            if error.code not in (429, 502, 503, 504) or pause > 120 or attempt == ATTEMPTS:
                raise Refused(f"HTTP {error.code}: {text}") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            if attempt == ATTEMPTS:
                raise Refused(str(error)) from error
        time.sleep(pause)


def submit(urls, options, max_wait):
    """Gives the batch when it is done, or as it stands after `max_wait` seconds."""
    until = time.monotonic() + max_wait
    # The same key for each attempt: if only the answer was lost, nothing is submitted again.
    key = {"Idempotency-Key": str(uuid.uuid4())}
    headers, batch = call("POST", "/v1/submissions?wait=20", {"urls": urls, "options": options}, key)
    while not batch["done"] and time.monotonic() < until:
        time.sleep(int(headers.get("Retry-After") or 15))
        headers, batch = call("GET", f"/v1/submissions/{batch['batch_id']}?fields=summary")
    return batch["batch_id"], batch["done"]


def results(batch_id):
    """All results, page by page."""
    cursor = ""
    while cursor is not None:
        page = f"?cursor={cursor}" if cursor else ""
        _, batch = call("GET", f"/v1/submissions/{batch_id}{page}")
        yield from batch["results"]
        cursor = batch["next_cursor"]


def main():
    parser = argparse.ArgumentParser(description="Submits URLs to VMRay Bridge and waits for the verdicts.")
    parser.add_argument("urls", nargs="*", metavar="URL", help="without any, one a line from standard input")
    parser.add_argument("--tags", help="tags in VMRay, with commas")
    parser.add_argument("--comment", help="comment in VMRay")
    parser.add_argument("--max-wait", type=int, default=900, metavar="SECONDS", help="default: 900")
    arguments = parser.parse_args()
    urls = arguments.urls or [line.strip() for line in sys.stdin if line.strip()]
    given = {"tags": arguments.tags, "comment": arguments.comment}
    options = {name: value for name, value in given.items() if value}
    try:
        batch_id, done = submit(urls, options, arguments.max_wait)
        rows = list(results(batch_id))
    except Refused as problem:
        print(problem, file=sys.stderr)
        return 2
    for row in rows:
        verdict = row["verdict"] or row["error_code"] or "-"
        columns = (row["status"], verdict, row["score"], row["sample_id"], row["input"])
        print("\t".join("-" if column is None else str(column) for column in columns))
    if not done:
        print(f"not done yet; go on with batch {batch_id}", file=sys.stderr)
    return 0 if all(row["status"] == "finished" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
