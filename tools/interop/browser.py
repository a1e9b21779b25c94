"""EventSource, WebSocket and fetch of headless Chromium, driven by its DevTools.

A proxy stands between browser and server, so that connections can be cut.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

from websockets.sync.client import connect

from server import Server, check, finish


class Proxy:
    """Passes bytes on, remembers the heads of requests, and cuts everything on demand."""

    def __init__(self, port):
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = []
        self.requests = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self.open += [client, server]
            threading.Thread(target=self.pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, False), daemon=True).start()

    def pump(self, source, target, is_request):
        try:
            while data := source.recv(65536):
                if is_request:
                    self.requests.append(data)
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        sockets, self.open = self.open, []
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Page:
    def __init__(self, browser):
        deadline = time.monotonic() + 30
        while True:
            try:
                with open(os.path.join(browser.dir, "DevToolsActivePort")) as file:
                    port = file.readline().strip()
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                    pages = [one for one in json.load(answer) if one["type"] == "page"]
                if pages:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit("the browser did not start")
            time.sleep(0.05)
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(connect(pages[0]["webSocketDebuggerUrl"], max_size=None))
        self.number = 0

    def ask(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(30))
            if answer.get("id") == self.number:
                return answer["result"]

    def run(self, script):
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, what, script, expected):
        """Evaluates until it is so, or 20 s are over."""
        deadline = time.monotonic() + 20
        while (found := self.run(script)) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        check(what, found, expected)


class Browser:
    def __init__(self):
        binary = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
        if binary is None:
            raise SystemExit("no chromium: apt-get install -y chromium")
        self.dir = tempfile.mkdtemp(prefix="runelog-chromium-")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-port=0", f"--user-data-dir={self.dir}", "about:blank"]
        self.process = subprocess.Popen([binary, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.dir, ignore_errors=True)


WATCH = """
    window.seen = []; window.opens = 0;
    window.source = new EventSource(%s);
    source.onopen = () => opens++;
    for (const kind of ["record", "caught-up", "tombstone", "topic-deleted", "error"])
        source.addEventListener(kind, (event) => event.data && seen.push([kind, event.lastEventId, JSON.parse(event.data)]));
"""
SEQS = 'seen.filter((one) => one[0] == "record").flatMap((one) => one[2].records.map((record) => record.$seq))'


def main(server, page, proxy):
    page.ask("Page.navigate", url=f"http://127.0.0.1:{proxy.port}/v0/health")
    page.until("the page is the server's own", "location.pathname + document.readyState", "/v0/healthcomplete")
    server.append("ledger", 1, 2, 3)
    url = server.session({"ledger": {"from_seq": 1}}, heartbeat_ms=1000)
    page.run(WATCH % json.dumps(url))
    page.until("what was there", SEQS, [2, 3])
    page.until("caught-up", "seen.at(-1)[0]", "caught-up")
    status = page.run(
        """fetch("/v0/topics/ledger", {method: "POST", headers: {"Content-Type": "application/json"},
           body: JSON.stringify({records: [{data: "from the page"}]})}).then((answer) => answer.status)"""
    )
    check("fetch appends", status, 200)
    page.until("and the stream shows it", SEQS, [2, 3, 4])
    time.sleep(1.5)
    check("heartbeats are no events, the connection stays", page.run("[source.readyState, opens]"), [1, 1])

    # Cut three times, with appends while nobody is connected. It comes back after the 2 s of `retry`.
    head = 4
    for turn in range(3):
        proxy.requests.clear()
        proxy.cut()
        server.append("ledger", *range(5))
        head += 5
        page.until(f"cut {turn + 1}: comes back by itself and misses nothing", SEQS, list(range(2, head + 1)))
        sent = b"".join(proxy.requests).lower()
        check(f"cut {turn + 1}: with Last-Event-ID", b"\r\nlast-event-id: " in sent, True)
    page.until("opened again each time", "opens", 4)
    status, _ = server.call("DELETE", "/v0/topics/ledger")
    page.until("deletion", 'seen.at(-1)[0] + seen.at(-1)[2].reason', "topic-deleteddeleted")
    page.run("source.close()")

    # A refusal is final for an EventSource: no reconnecting to a session that is gone.
    page.run(WATCH % '"/v0/watch/wid_AAAAAAAAAAAAAAAAAAAAAA"')
    page.until("an unknown session", "source.readyState", 2)

    page.run(
        f"""window.frames_seen = [];
        window.ws = new WebSocket("ws://127.0.0.1:{proxy.port}/v0/ws");
        ws.onmessage = (event) => frames_seen.push(JSON.parse(event.data));
        ws.onclose = (event) => frames_seen.push({{op: "closed", clean: event.wasClean}});
        ws.onopen = () => {{
            ws.send(JSON.stringify({{op: "publish", topic: "ws", records: [{{data: 1}}, {{data: 2}}]}}));
            ws.send(JSON.stringify({{op: "subscribe", topic: "ws"}}));
        }};"""
    )
    page.until("WebSocket", "frames_seen.map((one) => one.op)", ["ack", "subscribed", "record", "caught_up"])
    page.run("ws.close(1000)")
    page.until("its closing handshake", "frames_seen.at(-1)", {"op": "closed", "clean": True})

    server.append("last", 1)
    page.run(WATCH % json.dumps(server.session({"last": {}})))
    page.until("one more stream", "seen.length", 2)
    stopped = server.stop()
    page.until("told of the stop", 'seen.at(-1)[2].code', "server_shutting_down")
    check("exit status", stopped, 0)


with Server() as server:
    browser = Browser()
    try:
        main(server, Page(browser), Proxy(server.port))
    finally:
        browser.close()
finish()
