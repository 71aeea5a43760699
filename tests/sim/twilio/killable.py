"""A server to be killed: `python killable.py PORT`. It listens when told to, and its agent hums without end.

Several may share the port, so that another one is there when one dies.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys

from aiohttp import WSMsgType, web

HUM = base64.b64encode(bytes(range(0x80, 0x90)) * 10).decode()


def page(request: web.Request) -> web.Response:
    status = f"http://{request.host}/status#rc=5&amp;rp=all"
    stream = f'<Stream url="ws://{request.host}/media" statusCallback="{status}"/>'
    connect = f'<Connect action="/after#rc=5&amp;rp=ct,5xx,rt">{stream}</Connect>'
    return web.Response(text=f"<Response>{connect}</Response>", content_type="text/xml")


async def voice(request: web.Request) -> web.Response:
    return page(request)


async def after(request: web.Request) -> web.Response:
    form = await request.post()
    print(json.dumps({"after": dict(form)}, default=str), flush=True)
    return page(request)


async def status(request: web.Request) -> web.Response:
    form = await request.post()
    print(json.dumps({"status": dict(form)}, default=str), flush=True)
    return web.Response(status=204)


async def media(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    sid = ""
    async for message in ws:
        if message.type != WSMsgType.TEXT:
            break
        data = json.loads(message.data)
        if data["event"] == "start":
            sid = data["streamSid"]
        elif data["event"] == "media":
            await ws.send_json({"event": "media", "streamSid": sid, "media": {"payload": HUM}})
        elif data["event"] == "dtmf":
            await ws.close()
    return ws


async def main(port: int) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    app = web.Application()
    app.add_routes([web.post("/voice", voice), web.post("/after", after), web.post("/status", status)])
    app.add_routes([web.get("/media", media)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await web.SockSite(runner, listener).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
