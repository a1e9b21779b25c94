"""A server for one script, requests over the standard library, and what a check prints."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time

failures = 0


def check(what, found, expected):
    """Prints one line; a difference makes the script fail at its end."""
    global failures
    if found == expected:
        print(f"ok    {what}")
    else:
        failures += 1
        print(f"FAIL  {what}\n      found    {found!r}\n      expected {expected!r}")


def finish():
    sys.exit(1 if failures else 0)


class Server:
    def __init__(self, **settings):
        self.dir = tempfile.TemporaryDirectory(prefix="runelog-interop-")
        port_file = os.path.join(self.dir.name, "port")
        environment = dict(
            os.environ,
            RUNELOG_HOST="127.0.0.1",
            RUNELOG_PORT="0",
            RUNELOG_PORT_FILE=port_file,
            RUNELOG_DATA_DIR=os.path.join(self.dir.name, "data"),
            RUNELOG_SHARDS="2",
            RUST_LOG="warn",
            **settings,
        )
        self.process = subprocess.Popen([os.environ["RUNELOG"], "serve"], env=environment)
        deadline = time.monotonic() + 30
        while not os.path.exists(port_file):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start")
            time.sleep(0.01)
        with open(port_file) as file:
            self.address = file.read()
        self.port = int(self.address.rsplit(":", 1)[1])

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if content else None

    def append(self, topic, *data):
        status, answer = self.call("POST", f"/v0/topics/{topic}", {"records": [{"data": d} for d in data]})
        assert status in (200, 201), answer
        return answer

    def session(self, topics, **options):
        status, answer = self.call("POST", "/v0/watch", {"topics": topics, **options})
        assert status == 200, answer
        return answer["stream_url"]

    def stop(self):
        """SIGTERM; the exit status (SH-1)."""
        self.process.terminate()
        return self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.dir.cleanup()


def blocks(text):
    """The events of a whole event stream: (id, event, data)."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "event" in fields:
            events.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
    return events
