"""A user's phone agent on the OpenAI Agents SDK: a RealtimeAgent with a tool, µ-law both ways."""

import asyncio
import base64
import json
import os
import socket

import uvicorn
from agents import function_tool, set_tracing_disabled
from agents.realtime import RealtimeAgent, RealtimeRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

set_tracing_disabled(True)


@function_tool
async def book_table(guests: int, time: str) -> str:
    """Book a table."""
    return f"Number 41 for {guests} at {time}."


RUNNER = RealtimeRunner(
    RealtimeAgent(name="Front desk", instructions="You take table bookings.", tools=[book_table]),
    config={
        "model_settings": {
            "model_name": "gpt-realtime-2.1",
            "audio": {
                "input": {
                    "format": "g711_ulaw",
                    "turn_detection": {"type": "server_vad", "interrupt_response": True},
                    "transcription": {"model": "gpt-4o-mini-transcribe"},
                },
                "output": {"format": "g711_ulaw", "voice": "ash"},
            },
        }
    },
)


async def voice(request: Request) -> Response:
    address = os.environ["PUBLIC_URL"].replace("https", "wss") + "/media"
    twiml = f'<Response><Connect><Stream url="{address}"/></Connect></Response>'
    return Response(twiml, media_type="text/xml")


async def media(socket: WebSocket) -> None:
    await socket.accept()
    config = {"url": os.environ["MODEL_URL"] + "?model=gpt-realtime-2.1", "api_key": "sk-test"}
    sid = ""
    async with await RUNNER.run(model_config=config) as session:

        async def speak() -> None:
            async for event in session:
                if event.type == "audio":
                    payload = base64.b64encode(event.audio.data).decode()
                    message = {"event": "media", "streamSid": sid, "media": {"payload": payload}}
                    await socket.send_text(json.dumps(message))
                elif event.type == "audio_interrupted":
                    await socket.send_text(json.dumps({"event": "clear", "streamSid": sid}))
                elif event.type == "error":
                    print("error of the session:", event.error)

        speaking = None
        try:
            while True:
                message = json.loads(await socket.receive_text())
                if message["event"] == "start":
                    sid = message["streamSid"]
                    speaking = asyncio.create_task(speak())
                    await session.send_message("Greet the caller.")
                elif message["event"] == "media":
                    await session.send_audio(base64.b64decode(message["media"]["payload"]))
                elif message["event"] == "stop":
                    break
        except WebSocketDisconnect:
            pass
        finally:
            if speaking is not None:
                speaking.cancel()


app = Starlette(routes=[Route("/voice", voice, methods=["POST"]), WebSocketRoute("/media", media)])

if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener]))
