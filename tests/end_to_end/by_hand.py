"""Twilio's requests one by one, signed, for what its simulator does not do; and what a model session was told."""

from __future__ import annotations

import json
import re

import aiohttp
from twilio.request_validator import RequestValidator
from websockets.asyncio.client import ClientConnection, connect

from phoneagent.sim.model.session import SimulatedSession
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, PUBLIC_URL, World

CALL_SID = "CA" + "5" * 32
STREAM_SID = "MZ" + "5" * 32


def told(session: SimulatedSession) -> list[str]:
    """What a session was told and said, as `who: text`."""
    return [
        f"{item['role']}: {part.get('text') or part.get('transcript')}"
        for item in session.items
        for part in item.get("content", ())
    ]


async def post(w: World, path: str, call_sid: str, **fields: str) -> str:
    form = {"CallSid": call_sid, "AccountSid": ACCOUNT_SID, **fields}
    signature = RequestValidator(AUTH_TOKEN).compute_signature(f"{PUBLIC_URL}{path}", form)
    headers = {"X-Twilio-Signature": signature}
    async with aiohttp.ClientSession() as http, http.post(w.url + path, data=form, headers=headers) as answer:
        assert answer.status in (200, 204)
        return await answer.text()


async def after(w: World, call_sid: str, status: str = "in-progress") -> str:
    return await post(w, "/twilio/after", call_sid, CallStatus=status)


async def dial(w: World, path: str) -> ClientConnection:
    signature = RequestValidator(AUTH_TOKEN).compute_signature(PUBLIC_URL.replace("https", "wss") + path, {})
    return await connect(w.url.replace("http", "ws") + path, additional_headers={"X-Twilio-Signature": signature})


def start(call_sid: str, stream_sid: str = STREAM_SID, **custom: str) -> str:
    details = {
        "accountSid": ACCOUNT_SID,
        "streamSid": stream_sid,
        "callSid": call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": custom,
    }
    return json.dumps({"event": "start", "sequenceNumber": "1", "start": details, "streamSid": stream_sid})


async def open_stream(w: World, twiml: str, stream_sid: str = STREAM_SID, **custom: str) -> ClientConnection:
    """Do what Twilio does with `<Connect><Stream>`."""
    path = re.search(r'url="[^"]*(/twilio/media/[^"]*)', twiml)
    assert path is not None, twiml
    socket = await dial(w, path[1])
    await socket.send(start(CALL_SID, stream_sid, **custom))
    return socket


async def listen(socket: ClientConnection) -> None:
    """Hear everything at once: give every mark back, until the socket is closed."""
    async for message in socket:
        if json.loads(message)["event"] == "mark":
            await socket.send(message)


def stop(stream_sid: str = STREAM_SID) -> str:
    details = {"accountSid": ACCOUNT_SID, "callSid": CALL_SID}
    return json.dumps({"event": "stop", "sequenceNumber": "9", "stop": details, "streamSid": stream_sid})
