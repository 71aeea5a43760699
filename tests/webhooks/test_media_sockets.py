"""Media sockets one by one: which of them become calls."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.websockets import WebSocket

from phoneagent import Call, RequestRefused, Settings
from phoneagent.calls.journal import RecordedPast
from phoneagent.errors import StoreError
from phoneagent.telemetry import Metrics
from phoneagent.twilio import MEDIA_PATH
from phoneagent.twilio.signatures import MediaTokens
from phoneagent.twilio.verification import Verifier
from phoneagent.webhooks.media_sockets import MediaSockets
from tests.asgi import Socket, scope
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

SID = "CA" + "5" * 32
ANNA, OURS = "+15550100001", "+15550100002"


class Journal:
    """What is written of a call that continues."""

    def __init__(self, past: RecordedPast | Exception | None = None) -> None:
        self.recorded = past

    async def past(self, call_sid: str, pending: Any = None) -> RecordedPast | None:
        if isinstance(self.recorded, Exception):
            raise self.recorded
        return self.recorded


class Live:
    """The calls of a process, as far as a media socket knows them."""

    def __init__(self) -> None:
        self.unfinished = 0
        self.pending: str | None = None
        self.newest = True
        self.cancelled = False
        self.arrivals: list[str] = []
        self.ran: list[tuple[Call, Any, int]] = []

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.unfinished += 1
        try:
            yield
        finally:
            self.unfinished -= 1

    def arrived(self, call_sid: str) -> int:
        self.arrivals.append(call_sid)
        return 7

    def is_newest(self, call_sid: str, number: int) -> bool:
        return self.newest

    def left(self, call_sid: str, number: int) -> None:
        assert number == 7
        self.arrivals.remove(call_sid)

    def supersede(self, call_sid: str) -> Any:
        return self.pending

    async def run(self, call: Call, start: Any, socket: Any, past: Any) -> None:
        self.ran.append((call, past, self.unfinished))
        if self.cancelled:
            raise asyncio.CancelledError


@dataclass
class Opened:
    """A media socket that was opened, run and left."""

    calls: Live
    socket: Socket
    metrics: Metrics


def start(call_sid: str = SID, account_sid: str = "AC1") -> str:
    details = {
        "accountSid": account_sid,
        "streamSid": "MZ1",
        "callSid": call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"caller": ANNA, "called": OURS, "direction": "inbound"},
    }
    return json.dumps({"event": "start", "sequenceNumber": "1", "start": details, "streamSid": "MZ1"})


async def opened(
    calls: Live,
    *messages: str,
    journal: Journal | None = None,
    resumes: bool = False,
    token: str | None = None,
    account_sid: str | None = None,
) -> Opened:
    settings = Settings(insecure=True, realtime_url="ws://unused/?model=m")
    metrics, socket = Metrics(), Socket(list(messages))
    sockets = MediaSockets(
        verifier=Verifier(settings, None),
        calls=calls,  # type: ignore[arg-type]
        journal=journal,  # type: ignore[arg-type]
        metrics=metrics,
        account_sid=account_sid,
    )
    token = token or MediaTokens(settings.auth_tokens).issue(SID, time.time(), resumes=resumes)
    path = MEDIA_PATH + token
    websocket = WebSocket({**scope("websocket", path), "path_params": {"token": token}}, socket.receive, socket.send)
    async with asyncio.timeout(HANG_SECONDS):
        await sockets.run(websocket)
    assert calls.unfinished == 0
    assert calls.arrivals == []
    return Opened(calls, socket, metrics)


async def test_a_call_runs_in_its_media_socket() -> None:
    there = await opened(Live(), start())
    ((call, past, unfinished),) = there.calls.ran
    assert (call.sid, call.caller, call.called, past) == (SID, ANNA, OURS, None)
    assert unfinished == 1  # a drain waits for it
    assert there.socket.did == ["accept"]


async def test_a_socket_without_a_good_token_is_refused_before_it_is_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    there = await opened(Live(), start(), token="A" * 90)
    assert there.socket.did == ["close"]
    assert there.calls.ran == []
    assert b'phoneagent_requests_refused_total{what="socket"} 1.0' in there.metrics.text()
    assert "AAAA" not in caplog.text


@pytest.mark.parametrize(
    ("messages", "account_sid"),
    [
        ((), None),
        (("garbage",), None),
        ((start("CA" + "6" * 32),), None),
        ((start(account_sid="AC2"),), "AC1"),
    ],
)
async def test_a_socket_that_does_not_start_as_its_token_says_is_closed(
    messages: tuple[str, ...], account_sid: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    there = await opened(Live(), *messages, account_sid=account_sid)
    assert there.calls.ran == []
    assert there.socket.did[0] == "accept"
    assert "media socket closed" in caplog.text


async def test_a_newer_socket_of_the_call_goes_first(caplog: pytest.LogCaptureFixture) -> None:
    calls = Live()
    calls.newest = False
    there = await opened(calls, start())
    assert there.calls.ran == []
    assert there.socket.did == ["accept", "close"]
    assert "the call has a newer media socket" in caplog.text


async def test_a_call_that_goes_on_has_its_past_and_its_state_and_its_date() -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    journal = Journal(RecordedPast(state='{"name": "Anna"}', started_at=began))
    there = await opened(Live(), start(), journal=journal, resumes=True)
    ((call, past, _),) = there.calls.ran
    assert past is journal.recorded
    assert (call.state, call.started_at) == ({"name": "Anna"}, began)


async def test_a_call_whose_stream_was_superseded_goes_on_though_its_token_begins_one() -> None:
    calls, journal = Live(), Journal(RecordedPast())
    calls.pending = "answer"
    there = await opened(calls, start(), journal=journal)
    assert there.calls.ran[0][1] is journal.recorded


async def test_a_call_that_never_began_begins() -> None:
    there = await opened(Live(), start(), journal=Journal(), resumes=True)
    assert there.calls.ran[0][1] is None


async def test_without_a_journal_no_call_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    there = await opened(Live(), start(), resumes=True)
    assert there.calls.ran == []
    assert there.socket.did == ["accept", "close"]
    assert "give the app a store" in caplog.text


@pytest.mark.parametrize("error", [RequestRefused("the call is over"), StoreError("the database is away")])
async def test_a_call_that_cannot_go_on_is_closed(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    there = await opened(Live(), start(), journal=Journal(error), resumes=True)
    assert there.calls.ran == []
    assert there.socket.did == ["accept", "close"]
    assert str(error) in caplog.text


async def test_the_end_of_the_process_is_no_error_of_a_call(caplog: pytest.LogCaptureFixture) -> None:
    calls = Live()
    calls.cancelled = True
    await opened(calls, start())
    assert "cut off: the process ends" in caplog.text
