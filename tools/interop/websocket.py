"""The WebSocket data plane with the `websockets` library (§9)."""

import json

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from server import Server, check, finish


def ask(socket, **command):
    socket.send(json.dumps(command))
    return json.loads(socket.recv(20))


with Server() as server:
    server.append("ledger", 1, 2, 3)
    url = f"ws://{server.address}/v0/ws"
    with connect(url, max_size=None) as socket:
        check("no subprotocol, no extension", (socket.subprotocol, socket.response.headers.get("Sec-WebSocket-Extensions")), (None, None))
        check("ping command", ask(socket, op="ping", request_id={"a": [1]}), {"op": "pong", "request_id": {"a": [1]}})
        shown = ask(socket, op="subscribe", request_id=1, topic="ledger", from_seq=1)
        check("subscribed", shown["topics"], {"ledger": {"from_seq": 1, "head_seq": 3, "earliest_seq": 1}})
        record = json.loads(socket.recv(20))
        check("record", [one["$seq"] for one in record["records"]], [2, 3])
        check("caught_up", json.loads(socket.recv(20)), {"op": "caught_up", "topic": "ledger", "head_seq": 3})
        for number in range(100):
            server.append("ledger", number)
        seqs = []
        while len(seqs) < 100:
            frame = json.loads(socket.recv(20))
            if frame["op"] == "record":
                seqs += [one["$seq"] for one in frame["records"]]
        check("100 appends over HTTP arrive in order", seqs, list(range(4, 104)))
        while frame["op"] != "caught_up" or frame["head_seq"] != 103:
            frame = json.loads(socket.recv(20))
        socket.send(json.dumps({"op": "publish", "topic": "other", "records": [{"data": "x" * 900_000}] * 5}))
        ack = json.loads(socket.recv(20))
        check("publish of 4.5 MB", (ack["op"], ack["count"], ack["created"]), ("ack", 5, True))
        socket.send(['{"op":"pi', 'ng","reques', 't_id":7}'])
        check("fragments", json.loads(socket.recv(20)), {"op": "pong", "request_id": 7})
        socket.send(b"\x00")
        check("binary", json.loads(socket.recv(20))["code"], "unsupported_message")
        socket.send("{")
        check("not JSON", json.loads(socket.recv(20))["code"], "invalid_json")
        check("protocol ping", socket.ping(b"abc").wait(20), True)
        shown = ask(socket, op="subscribe", topic="other")
        while True:
            frame = json.loads(socket.recv(20))
            if frame["op"] == "caught_up":
                break
        check("delivery of 4.5 MB", frame, {"op": "caught_up", "topic": "other", "head_seq": 5})
        socket.close()
        check("closing handshake", socket.close_code, 1000)
    with connect(url) as socket:
        ask(socket, op="ping")
        server.process.terminate()
        check("stop", json.loads(socket.recv(20))["code"], "server_shutting_down")
        try:
            socket.recv(20)
            check("end", "another message", "closed")
        except ConnectionClosed:
            check("end", "closed", "closed")
    check("exit status", server.process.wait(30), 0)
finish()
