"""A user's LiveKit agent without a room: its session's audio comes from and goes to a Twilio media stream."""

import asyncio
import audioop
import base64
import json
import os
import socket

import uvicorn
from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice.io import AudioInput, AudioOutput, AudioOutputCapabilities
from livekit.plugins.openai.realtime import RealtimeModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

RATE = 8000


class FrontDesk(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="You take table bookings.")

    @function_tool
    async def book_table(self, guests: int, time: str) -> str:
        """Book a table."""
        return "Number 41."


class Caller(AudioInput):
    """What the caller says."""

    def __init__(self) -> None:
        super().__init__(label="Twilio")
        self.frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()

    async def __anext__(self) -> rtc.AudioFrame:
        return await self.frames.get()

    def heard(self, payload: str) -> None:
        pcm = audioop.ulaw2lin(base64.b64decode(payload), 2)
        self.frames.put_nowait(rtc.AudioFrame(pcm, RATE, 1, len(pcm) // 2))


class Phone(AudioOutput):
    """What the caller hears. A mark that comes back tells how far."""

    def __init__(self, websocket: WebSocket) -> None:
        super().__init__(label="Twilio", capabilities=AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.websocket = websocket
        self.sid = ""
        self.pushed_seconds = 0.0
        self.cut = False
        self.pending: set[asyncio.Task[None]] = set()

    async def send(self, event: str, **body: object) -> None:
        await self.websocket.send_text(json.dumps({"event": event, "streamSid": self.sid, **body}))

    def send_soon(self, event: str, **body: object) -> None:
        task = asyncio.create_task(self.send(event, **body))
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self.pushed_seconds += frame.duration
        ulaw = audioop.lin2ulaw(bytes(frame.data), 2)
        await self.send("media", media={"payload": base64.b64encode(ulaw).decode()})

    def flush(self) -> None:
        super().flush()
        if self.pushed_seconds:
            self.send_soon("mark", mark={"name": str(self.pushed_seconds)})

    def clear_buffer(self) -> None:
        self.cut = bool(self.pushed_seconds)
        self.send_soon("clear")

    def played(self, name: str) -> None:
        self.on_playback_finished(playback_position=float(name), interrupted=self.cut)
        self.pushed_seconds, self.cut = 0.0, False


async def voice(request: Request) -> Response:
    address = os.environ["PUBLIC_URL"].replace("https", "wss") + "/media"
    twiml = f'<Response><Connect><Stream url="{address}"/></Connect></Response>'
    return Response(twiml, media_type="text/xml")


async def media(websocket: WebSocket) -> None:
    await websocket.accept()
    base = os.environ["MODEL_URL"].replace("ws", "http", 1).removesuffix("/realtime")
    session = AgentSession(llm=RealtimeModel(model="gpt-realtime-2.1", api_key="sk-test", base_url=base))
    caller, phone = Caller(), Phone(websocket)
    session.input.audio, session.output.audio = caller, phone
    try:
        while True:
            message = json.loads(await websocket.receive_text())
            if message["event"] == "start":
                phone.sid = message["streamSid"]
                await session.start(agent=FrontDesk())
                session.generate_reply(instructions="Greet the caller.")
            elif message["event"] == "media":
                caller.heard(message["media"]["payload"])
            elif message["event"] == "mark":
                phone.played(message["mark"]["name"])
            elif message["event"] == "stop":
                break
    except WebSocketDisconnect:
        pass
    await session.aclose()


app = Starlette(routes=[Route("/voice", voice, methods=["POST"]), WebSocketRoute("/media", media)])

if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener]))
