"""The baseline: a bridge as tutorials show it, in one file, written for this comparison.

One WebSocket from Twilio, one to the model, two tasks, JSON parsed and written for each message, a mark after each
piece of audio, and at a barge-in a `clear` for Twilio and a truncation for the model. It checks no signature, keeps no
record, and knows what was heard only from Twilio's timestamps.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque

import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

MODEL_URL = os.environ.get("REALTIME_URL", "wss://api.openai.com/v1/realtime?model=gpt-realtime")
API_KEY = os.environ.get("OPENAI_API_KEY", "")
GREETING = "Greet the caller: hello, this is a benchmark."


async def answer(request: Request) -> Response:
    """Answer the voice webhook."""
    host = request.headers["host"]
    form = await request.form()
    return Response(
        f'<?xml version="1.0" encoding="UTF-8"?><Response><Connect><Stream url="wss://{host}/media-stream">'
        f'<Parameter name="caller" value="{form.get("From", "")}"/></Stream></Connect></Response>',
        media_type="application/xml",
    )


async def media_stream(websocket: WebSocket) -> None:
    """Bridge one call."""
    await websocket.accept()
    while (message := json.loads(await websocket.receive_text()))["event"] != "start":
        pass
    stream_sid, call_sid = message["start"]["streamSid"], message["start"]["callSid"]
    headers = {"Authorization": f"Bearer {API_KEY}", "X-Bench-Call": call_sid}
    async with websockets.connect(MODEL_URL, additional_headers=headers) as model:
        await configure(model)
        state: dict[str, object] = {"item": None, "started": None, "latest": 0}
        marks: deque[str] = deque()
        caller = asyncio.create_task(from_caller(websocket, model, state, marks))
        agent = asyncio.create_task(from_model(websocket, model, stream_sid, state, marks))
        await asyncio.wait((caller, agent), return_when=asyncio.FIRST_COMPLETED)
        for task in (caller, agent):
            task.cancel()


async def configure(model: websockets.ClientConnection) -> None:
    """Configure the session, and have the agent speak first."""
    session = {
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": "You answer the phone of a benchmark.",
        "audio": {
            "input": {"format": {"type": "audio/pcmu"}, "turn_detection": {"type": "server_vad"}},
            "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
        },
    }
    await model.send(json.dumps({"type": "session.update", "session": session}))
    await model.send(json.dumps({"type": "response.create", "response": {"instructions": GREETING}}))


async def from_caller(
    websocket: WebSocket, model: websockets.ClientConnection, state: dict[str, object], marks: deque[str]
) -> None:
    """Carry the caller's audio to the model."""
    try:
        async for message in websocket.iter_text():
            data = json.loads(message)
            if data["event"] == "media":
                state["latest"] = int(data["media"]["timestamp"])
                append = {"type": "input_audio_buffer.append", "audio": data["media"]["payload"]}
                await model.send(json.dumps(append))
            elif data["event"] == "mark":
                if marks:
                    marks.popleft()
            elif data["event"] == "stop":
                return
    except WebSocketDisconnect:
        return


async def from_model(
    websocket: WebSocket,
    model: websockets.ClientConnection,
    stream_sid: str,
    state: dict[str, object],
    marks: deque[str],
) -> None:
    """Carry the agent's audio to the caller."""
    async for message in model:
        event = json.loads(message)
        if event["type"] == "response.output_audio.delta":
            media = {"event": "media", "streamSid": stream_sid, "media": {"payload": event["delta"]}}
            await websocket.send_text(json.dumps(media))
            if state["item"] != event["item_id"]:
                state["item"], state["started"] = event["item_id"], state["latest"]
            mark = {"event": "mark", "streamSid": stream_sid, "mark": {"name": "responsePart"}}
            await websocket.send_text(json.dumps(mark))
            marks.append("responsePart")
        elif event["type"] == "input_audio_buffer.speech_started" and state["item"] is not None and marks:
            heard = int(str(state["latest"])) - int(str(state["started"]))
            await websocket.send_text(json.dumps({"event": "clear", "streamSid": stream_sid}))
            truncate = {
                "type": "conversation.item.truncate",
                "item_id": state["item"],
                "content_index": 0,
                "audio_end_ms": max(heard, 0),
            }
            await model.send(json.dumps(truncate))
            marks.clear()
            state["item"] = state["started"] = None


app = Starlette(
    routes=[Route("/voice", answer, methods=["GET", "POST"]), WebSocketRoute("/media-stream", media_stream)]
)
