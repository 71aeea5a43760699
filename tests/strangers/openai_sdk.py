"""A user's phone agent on the official openai SDK: events passed between the two sockets by hand.

Its TwiML speaks before the stream, as Twilio's samples do.
"""

import asyncio
import json
import os
import socket

import uvicorn
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Connect, VoiceResponse

SESSION = {
    "type": "realtime",
    "instructions": "You take table bookings.",
    "audio": {
        "input": {
            "format": {"type": "audio/pcmu"},
            "turn_detection": {"type": "server_vad"},
            "transcription": {"model": "gpt-4o-mini-transcribe"},
        },
        "output": {"format": {"type": "audio/pcmu"}, "voice": "alloy"},
    },
    "tools": [
        {
            "type": "function",
            "name": "book_table",
            "parameters": {
                "type": "object",
                "properties": {"guests": {"type": "integer"}, "time": {"type": "string"}},
            },
        }
    ],
}


async def voice(request: Request) -> Response:
    form = dict(await request.form())
    validator = RequestValidator(os.environ["AUTH_TOKEN"])
    url = f"{request.headers['x-forwarded-proto']}://{request.headers['host']}{request.url.path}"
    if not validator.validate(url, form, request.headers["x-twilio-signature"]):
        return Response("", 403)
    answer = VoiceResponse()
    answer.say("One moment, please.")
    connect = Connect()
    connect.stream(url=f"wss://{request.headers['host']}/media")
    answer.append(connect)
    return Response(str(answer), media_type="application/xml")


async def media(socket: WebSocket) -> None:
    await socket.accept()
    base = os.environ["MODEL_URL"].removesuffix("/realtime")
    client = AsyncOpenAI(api_key="sk-test", base_url=base.replace("ws", "http", 1), websocket_base_url=base)
    async with client, client.realtime.connect(model="gpt-realtime-2.1") as model:
        await model.session.update(session=SESSION)
        sid = ""

        async def listen() -> None:
            nonlocal sid
            try:
                while True:
                    message = json.loads(await socket.receive_text())
                    if message["event"] == "start":
                        sid = message["streamSid"]
                    elif message["event"] == "media":
                        await model.input_audio_buffer.append(audio=message["media"]["payload"])
                    elif message["event"] == "stop":
                        break
            except WebSocketDisconnect:
                pass
            await model.close()

        listening = asyncio.create_task(listen())
        async for event in model:
            if event.type == "response.output_audio.delta":
                message = {"event": "media", "streamSid": sid, "media": {"payload": event.delta}}
                await socket.send_text(json.dumps(message))
            elif event.type == "input_audio_buffer.speech_started":
                await socket.send_text(json.dumps({"event": "clear", "streamSid": sid}))
            elif event.type == "response.function_call_arguments.done":
                output = {"type": "function_call_output", "call_id": event.call_id, "output": "Number 41."}
                await model.conversation.item.create(item=output)
            elif event.type == "response.done" and any(
                each.type == "function_call" for each in event.response.output or []
            ):
                await model.response.create()
            elif event.type == "error":
                print("error of the model:", event.error)
        await listening


app = Starlette(routes=[Route("/voice", voice, methods=["POST"]), WebSocketRoute("/media", media)])

if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener]))
