"""A user's Twilio Agent Connect server: its own routes and signature checks, the OpenAI Realtime provider."""

import asyncio
import os
import socket

os.environ["TAC_ANALYTICS_DISABLED"] = "true"

import uvicorn
from tac import TAC, TACConfig
from tac.channels.voice import VoiceChannel
from tac.channels.voice.media_streams.openai_realtime import OpenAIRealtimeProviderConfig, provider
from tac.server import TACFastAPIServer
from tac.server.config import TACServerConfig
from tac.tools import function_tool


@function_tool()
async def book_table(guests: int, time: str) -> str:
    """Book a table."""
    return "Number 41."


class Elsewhere:
    """The package's `websockets`, connecting to the test's model: the package has no setting for the address."""

    @staticmethod
    def connect(address: str, **options: object):
        return provider_websockets.connect(os.environ["MODEL_URL"] + "?" + address.partition("?")[2], **options)


provider_websockets = provider.websockets
provider.websockets = Elsewhere()

ULAW = {"type": "audio/pcmu"}
SESSION = {
    "type": "realtime",
    "model": "gpt-realtime-2.1",
    "instructions": "You take table bookings.",
    "audio": {
        "input": {
            "format": ULAW,
            "turn_detection": {"type": "server_vad"},
            "transcription": {"model": "gpt-4o-mini-transcribe"},
        },
        "output": {"format": ULAW, "voice": "alloy"},
    },
    "tools": [book_table.to_realtime_format()],
}

tac = TAC(
    config=TACConfig(
        account_sid=os.environ["ACCOUNT_SID"],
        auth_token=os.environ["AUTH_TOKEN"],
        api_key=os.environ["API_KEY"],
        api_secret=os.environ["API_SECRET"],
        phone_number="+15550100002",
        voice_public_domain=os.environ["PUBLIC_URL"],
    )
)
channel = VoiceChannel(
    tac,
    config=OpenAIRealtimeProviderConfig(
        openai_api_key="sk-test",
        tools=[book_table],
        default_session_config=SESSION,
        welcome_greeting_response={"instructions": "Greet the caller."},
    ),
)
server = TACFastAPIServer(tac=tac, voice_channel=channel, config=TACServerConfig(twiml_path="/voice"))

if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)
    asyncio.run(uvicorn.Server(uvicorn.Config(server.app, log_level="warning")).serve(sockets=[listener]))
