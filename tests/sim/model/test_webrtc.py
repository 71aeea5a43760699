"""A call by WebRTC at the simulated model, made with another implementation's client in place of a browser."""

from __future__ import annotations

import asyncio
import fractions
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from phoneagent.protocol.audio import decode_ulaw, silence, tone
from phoneagent.sim import Faults, Model, Script
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur
from tests.patience import HANG_SECONDS

aiortc = pytest.importorskip("aiortc", reason="the extra `web` is not installed")
av = pytest.importorskip("av")
pytestmark = [pytest.mark.anyio, pytest.mark.real_time]
SCRIPT = """
[[turn]]
caller = "Hello?"
say = "Good day, this is a long answer that nobody hears to its end, because it goes on and on."
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Speech(aiortc.MediaStreamTrack):  # type: ignore[misc, name-defined]
    """A microphone: silence, and what is said."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.ulaw = b""
        self._frames = 0
        self._began_at = time.monotonic()

    async def recv(self) -> Any:
        await asyncio.sleep(max(0.0, self._began_at + self._frames * 0.02 - time.monotonic()))
        piece, self.ulaw = self.ulaw[:160], self.ulaw[160:]
        frame = av.AudioFrame(format="s16", layout="mono", samples=160)
        frame.planes[0].update(decode_ulaw(piece + silence(20)[len(piece) :]))
        frame.sample_rate, frame.pts, frame.time_base = 8000, self._frames * 160, fractions.Fraction(1, 8000)
        self._frames += 1
        return frame


class Page:
    """The far end of a call."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.microphone = Speech()
        self.events: list[dict[str, Any]] = []
        self.channel = self.peer.createDataChannel("oai-events")
        self.channel.on("message", lambda message: self.events.append(json.loads(message)))
        self.call_id = ""

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def send(self, **event: Any) -> None:
        self.channel.send(json.dumps(event))

    async def call(self, secret: str) -> None:
        self.peer.addTrack(self.microphone)
        await self.peer.setLocalDescription(await self.peer.createOffer())
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/sdp"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                f"{self.model.base_url}/realtime/calls", data=self.peer.localDescription.sdp, headers=headers
            ) as response,
        ):
            assert response.status == 201
            assert response.headers["Access-Control-Expose-Headers"] == "Location"
            self.call_id = response.headers["Location"].rpartition("/")[2]
            answer = await response.text()
        await self.peer.setRemoteDescription(aiortc.RTCSessionDescription(answer, "answer"))
        await self.until(lambda: "session.created" in self.kinds())

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def called(session: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Page]:
    async with Model(Script.parse(SCRIPT), voice=Murmur(), vad=EnergyGate, api_key="key", **options) as model:
        body = {"session": {"type": "realtime", "instructions": "Be brief.", **(session or {})}}
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as http,
            http.post(f"{model.base_url}/realtime/client_secrets", json=body) as response,
        ):
            secret = (await response.json())["value"]
        page = Page(model)
        try:
            await page.call(secret)
            yield page
        finally:
            await page.peer.close()


async def test_speech_is_answered_and_an_interrupted_answer_is_cut_where_it_was_heard() -> None:
    async with called() as page:
        assert page.events[0]["session"]["instructions"] == "Be brief."
        page.microphone.ulaw = tone(300, 600)
        await page.until(lambda: "output_audio_buffer.started" in page.kinds())
        assert "response.output_audio.delta" not in page.kinds()  # it is heard, and not an event
        await page.until(lambda: "response.done" in page.kinds())  # long before it is played
        page.microphone.ulaw = tone(300, 600)
        await page.until(lambda: "output_audio_buffer.cleared" in page.kinds())
        (session,) = page.model.sessions
        (truncation,) = session.truncations
        assert truncation.ok
        assert 0 < truncation.audio_end_ms < session.audio_items[0].sent_ms
        assert page.model.violations == []


async def test_the_tools_of_its_mcp_servers_are_listed() -> None:
    server = {"type": "mcp", "server_label": "shop", "server_url": "https://shop.example/mcp"}
    async with called({"tools": [server]}) as page:
        await page.until(lambda: "mcp_list_tools.completed" in page.kinds())


async def test_the_client_may_stop_what_is_played() -> None:
    async with called() as page:
        page.send(type="response.create")
        await page.until(lambda: "output_audio_buffer.started" in page.kinds())
        page.send(type="output_audio_buffer.clear")
        await page.until(lambda: "output_audio_buffer.cleared" in page.kinds())
        assert page.model.violations == []


async def test_a_side_band_stops_what_is_played() -> None:
    async with called() as page:
        url = f"{page.model.url}?call_id={page.call_id}"
        async with connect(url, additional_headers={"Authorization": "Bearer key"}) as side_band:
            await side_band.send(json.dumps({"type": "response.create"}))
            await page.until(lambda: "output_audio_buffer.started" in page.kinds())
            await side_band.send(json.dumps({"type": "response.cancel"}))
            await side_band.send(json.dumps({"type": "output_audio_buffer.clear"}))
            await page.until(lambda: "output_audio_buffer.cleared" in page.kinds())
            await side_band.send(json.dumps({"type": "output_audio_buffer.clear"}))  # of nothing
            await asyncio.sleep(0.3)
        (session,) = page.model.sessions
        (truncation,) = session.truncations
        assert truncation.ok
        assert 0 < truncation.audio_end_ms < session.audio_items[0].sent_ms
        playback = [kind for kind in page.kinds() if kind.startswith("output_audio_buffer.")]
        assert playback == ["output_audio_buffer.started", "output_audio_buffer.cleared"]
        assert "error" not in page.kinds()
        assert page.model.violations == []


async def test_audio_that_comes_after_an_interruption_is_not_played() -> None:
    async with called(faults=Faults(stray_deltas=3), speed=1.2) as page:
        page.send(type="response.create")
        await page.until(lambda: "output_audio_buffer.started" in page.kinds())
        page.microphone.ulaw = tone(300, 600)

        def begun() -> list[str]:
            return [each["response_id"] for each in page.events if each["type"] == "output_audio_buffer.started"]

        await page.until(lambda: len(set(begun())) == 2)  # the answer to what interrupted
        assert len(begun()) == 2


async def test_a_side_band_sees_and_does_what_the_page_does() -> None:
    async with called() as page:
        url = f"{page.model.url}?call_id={page.call_id}"
        async with connect(url, additional_headers={"Authorization": "Bearer key"}) as side_band:
            assert json.loads(await side_band.recv())["type"] == "session.created"
            await side_band.send(json.dumps({"type": "session.update", "session": {"type": "realtime", "tools": []}}))
            assert json.loads(await side_band.recv())["type"] == "session.updated"
            await page.until(lambda: "session.updated" in page.kinds())
            async with (
                aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as http,
                http.post(f"{page.model.base_url}/realtime/calls/{page.call_id}/hangup") as response,
            ):
                assert response.status == 200
            async for _ in side_band:
                pass  # until it is closed
        await page.until(lambda: page.channel.readyState == "closed")


async def test_a_page_that_goes_away_ends_its_session() -> None:
    async with called() as page:
        (session,) = page.model.sessions
        await page.peer.close()
        await page.until(lambda: session.closed)
