"""HTTP/2 with prior knowledge with `httpx` and `h2` (T-1, T-10)."""

import asyncio

import httpx

from server import Server, blocks, check, finish


async def main(server):
    base = f"http://{server.address}"
    async with httpx.AsyncClient(http1=False, http2=True, base_url=base, timeout=30) as client:
        answer = await client.put("/v0/topics/ledger", json={"durability": "fsync"})
        check("PUT", (answer.http_version, answer.status_code), ("HTTP/2", 201))
        answers = await asyncio.gather(
            *(client.post("/v0/topics/ledger", json={"records": [{"data": n}]}) for n in range(200))
        )
        seqs = sorted(answer.json()["first_seq"] for answer in answers)
        check("200 appends at once", seqs, list(range(1, 201)))
        answer = await client.post("/v0/topics/ledger/diff", json={"limit": 1000})
        check("diff", len(answer.json()["records"]), 200)
        waits = [
            asyncio.create_task(client.post("/v0/topics/ledger/diff", json={"from_seq": 200, "wait_ms": 20000}))
            for _ in range(50)
        ]
        await asyncio.sleep(0.2)
        await client.post("/v0/topics/ledger", json={"records": [{"data": "end"}]})
        heads = {(await wait).json()["head_seq"] for wait in waits}
        check("50 long-polls end with one append", heads, {201})
        body = {"records": [{"data": "x" * 1_000_000}] * 6}
        answer = await client.post("/v0/topics/large", json=body)
        check("a body of 6 MB", answer.json()["count"], 6)
        answer = await client.post("/v0/topics/large/diff", json={"max_batch_bytes": 8388608})
        check("an answer of 6 MB", len(answer.json()["records"]), 6)
        for path, status in [("/v0/topics/absent", 404), ("/v0/ws", 405), ("/v0/nope", 404)]:
            check(f"GET {path}", (await client.get(path)).status_code, status)
        answer = await client.head("/v0/topics/ledger")
        check("HEAD", (answer.status_code, answer.content, int(answer.headers["content-length"]) > 0), (200, b"", True))

        async def follow(session, count):
            text, seqs = "", []
            async with client.stream("GET", session) as stream:
                check("headers of a stream", stream.headers["content-type"], "text/event-stream")
                async for part in stream.aiter_text():
                    text += part
                    seqs = [
                        record["$seq"]
                        for _, kind, data in blocks(text[: text.rfind("\n\n") + 2])
                        if kind == "record"
                        for record in data["records"]
                    ]
                    if len(seqs) >= count:
                        return seqs

        sessions = [server.session({"ledger": {"tail": True}}) for _ in range(5)]
        readers = [asyncio.create_task(follow(session, 30)) for session in sessions]
        await asyncio.sleep(0.2)
        for number in range(30):
            await client.post("/v0/topics/ledger", json={"records": [{"data": number}]})
        seqs = await asyncio.gather(*readers)
        check("5 event streams beside requests", seqs, [list(range(202, 232))] * 5)


with Server() as server:
    asyncio.run(main(server))
    check("exit status", server.stop(), 0)
finish()
