"""Twilio's requests one by one: what TwiML answers them, and which media sockets become calls."""

from __future__ import annotations

import asyncio
import json
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from starlette.requests import Request
from starlette.websockets import WebSocket

from phoneagent import Agent, Call, Endpoint, RateLimit, RateLimitsUpdated, RequestRefused, Settings
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.calls.calls import Calls
from phoneagent.calls.hooks import Hooks
from phoneagent.calls.journal import MAX_FAULTS, Continuation, Kind, RecordedPast
from phoneagent.errors import StoreError
from phoneagent.telemetry import Metrics
from phoneagent.twilio.parameters import call_of_form, call_of_stream
from phoneagent.twilio.signatures import MediaTokens
from phoneagent.twilio.twiml import APOLOGY
from phoneagent.twilio.verification import Verifier
from phoneagent.webhooks import (
    AFTER_PATH,
    MAX_RETRIES,
    MEDIA_PATH,
    STATUS_PATH,
    VOICE_PATH,
    MediaSockets,
    Webhooks,
)
from tests.asgi import Socket, scope

pytestmark = pytest.mark.anyio

SID = "CA" + "5" * 32
ANNA, OURS, FALLBACK = "+15550100001", "+15550100002", "+15550100009"
FORM = {"CallSid": SID, "From": ANNA, "To": OURS, "Direction": "inbound"}


class Journal:
    """What is written of calls: how one goes on, and what it is told."""

    def __init__(self, kind: Kind | None = None, stream_sid: str = "MZ1", state: str | None = None) -> None:
        self.goes_on = None if kind is None else Continuation(kind, stream_sid, state)
        self.settled: list[tuple[str, str, str]] = []
        self.past_or_error: RecordedPast | Exception | None = None

    async def answer(self, call_sid: str) -> Continuation:
        assert self.goes_on is not None
        return self.goes_on

    async def comes_back(self, call_sid: str) -> Continuation | None:
        return self.goes_on

    async def went_on(self, call_sid: str, after: str) -> bool:
        return False

    async def settle(self, call_sid: str, ended_by: str, reason: str) -> None:
        self.settled.append((call_sid, ended_by, reason))

    async def past(self, call_sid: str, pending: Any = None) -> RecordedPast | None:
        if isinstance(self.past_or_error, Exception):
            raise self.past_or_error
        return self.past_or_error


@dataclass
class Twilio:
    """Sends webhooks to an app whose journal, settings and load a test chooses."""

    journal: Journal | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    draining: bool = False
    worker: int | None = None

    def __post_init__(self) -> None:
        settings = Settings(**{"insecure": True, "realtime_url": "ws://unused/?model=m", **self.changes})
        self.tokens = MediaTokens(settings.auth_tokens)
        self.metrics = Metrics()
        self.reserve = RateLimitReserve(settings.rate_limit_reserve)
        self.live: dict[str, Call] = {}
        self.calls = Calls(
            Agent(instructions="x"),
            [Endpoint("ws://unused/?model=m")],
            calls=self.live,
            hooks=Hooks(),
            emit=lambda event, stream_sid: None,
            journal=None,
            max_call_seconds=60,
        )
        self.webhooks = Webhooks(
            settings,
            verifier=Verifier(settings, None),
            calls=self.calls,
            journal=self.journal,  # type: ignore[arg-type]
            reserve=self.reserve,
            metrics=self.metrics,
            draining=lambda: self.draining,
            worker=self.worker,
        )

    async def send(self, path: str, form: dict[str, str], **options: Any) -> tuple[int, str]:
        """Send a webhook, and return the status and the text of its answer."""
        request = Request({**scope("http", path, query=urlencode(form), **options), "method": "POST"}, _no_body)
        response = await self.webhooks.answer(request, path)
        return response.status_code, bytes(response.body).decode()

    async def voice(self, status: str = "ringing", **fields: str) -> str:
        return await self._twiml(VOICE_PATH, status, fields)

    async def after(self, status: str = "in-progress", **fields: str) -> str:
        return await self._twiml(AFTER_PATH, status, fields)

    async def _twiml(self, path: str, status: str, fields: dict[str, str]) -> str:
        code, text = await self.send(path, {**FORM, "CallStatus": status, **fields})
        assert code == 200
        return text

    def ticket(self, twiml: str) -> Any:
        """Return what the token of a `<Stream>` says."""
        (stream,) = ET.fromstring(twiml).iter("Stream")
        return self.tokens.redeem(stream.attrib["url"].rpartition("/")[2], time.time())


@pytest.mark.parametrize(("worker", "ahead"), [(None, False), (0, True), (1, True)])
async def test_a_session_is_opened_ahead_if_the_media_socket_comes_here(
    twilio: Any, worker: int | None, ahead: bool
) -> None:
    made = twilio()
    made.worker = worker
    made.__post_init__()
    assert made.ticket(await made.voice()).worker == worker
    (pending,) = made.calls.pending.values()
    assert (pending.opening is not None) is ahead


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


@pytest.fixture
async def twilio() -> AsyncIterator[Any]:
    """Make a Twilio; the calls that it announces are given up at the end."""
    made: list[Twilio] = []

    def make(journal: Journal | None = None, *, draining: bool = False, **changes: Any) -> Twilio:
        # With several processes no model session is opened ahead.
        made.append(Twilio(journal, {"web_concurrency": 2, **changes}, draining))
        return made[-1]

    yield make
    for each in made:
        await each.calls.close()


def verbs(twiml: str) -> list[str]:
    """Return the verbs of an answer, with what matters of each."""
    return [" ".join([each.tag, *filter(None, [each.text, each.get("reason")])]) for each in ET.fromstring(twiml)]


def next_step(twiml: str) -> dict[str, str]:
    """Return what the address says to which Twilio comes when the stream has ended."""
    return dict(parse_qsl(urlsplit(ET.fromstring(twiml)[0].attrib["action"]).query))


# --- what is read of a request ---


@pytest.mark.parametrize("sid", [None, "", "CA1", "CA" + "x" * 32, "CA<script>", SID + "\n", "ca" + "5" * 32])
@pytest.mark.parametrize("path", [VOICE_PATH, AFTER_PATH, STATUS_PATH])
async def test_a_webhook_without_a_call_is_refused(twilio: Any, path: str, sid: str | None) -> None:
    status, text = await twilio().send(path, {} if sid is None else {"CallSid": sid})
    assert (status, text) == (400, "CallSid is missing\n")


@pytest.mark.parametrize("options", [{"client": ("10.0.0.1", 1)}, {"headers": {"Origin": "http://127.0.0.1"}}])
async def test_a_webhook_that_is_not_twilios_is_refused_and_counted(twilio: Any, options: dict[str, Any]) -> None:
    there = twilio()
    assert await there.send(VOICE_PATH, FORM, **options) == (403, "forbidden\n")
    assert there.calls.answered == {}
    assert b'phoneagent_requests_refused_total{what="webhook"} 1.0' in there.metrics.text()


# --- a call comes in ---


async def test_a_call_is_connected_to_its_media_socket(twilio: Any) -> None:
    there = twilio()
    twiml = await there.voice()
    assert verbs(twiml) == ["Connect"]
    ticket = there.ticket(twiml)
    assert (ticket.call_sid, ticket.resumes) == (SID, False)
    given = {each.attrib["name"]: each.attrib["value"] for each in ET.fromstring(twiml).iter("Parameter")}
    assert given == {"caller": ANNA, "called": OURS, "direction": "inbound"}
    assert "action" not in ET.fromstring(twiml)[0].attrib  # nothing is recorded: the call ends with its stream


async def test_a_call_has_the_parameters_of_its_webhook_and_the_stream_carries_them(twilio: Any) -> None:
    there = twilio()
    given_here = {"tenant": "7", "CallerName": "ANNA", "SipHeader_X_Queue": '<"&', "caller": "x"}
    twiml = await there.voice(FromCity="", again="1", **given_here)
    assert there.calls.pending[SID].call.parameters == given_here
    given = {each.attrib["name"]: each.attrib["value"] for each in ET.fromstring(twiml).iter("Parameter")}
    assert call_of_stream(SID, given).parameters == given_here
    assert "ANNA" not in repr(there.calls.pending[SID].call)


async def test_a_call_keeps_its_parameters_when_it_continues(twilio: Any) -> None:
    kept = {"phoneagent.parameters": {"tenant": "7", "CallerName": "OLD"}, "name": "Anna"}
    there = twilio(Journal("resume", "MZ1", json.dumps(kept)))
    twiml = await there.after(CallerName="ANNA", faults="0", since="1700000000")
    call = there.calls.pending[SID].call
    assert call.parameters == {"tenant": "7", "CallerName": "ANNA"}
    assert call.state == {"name": "Anna"}
    given = {each.attrib["name"]: each.attrib["value"] for each in ET.fromstring(twiml).iter("Parameter")}
    assert call_of_stream(SID, given).parameters == call.parameters
    assert next_step(twiml).keys() == {"faults", "since", "after"}


async def test_a_withheld_number_is_nobody_in_each_spelling_and_a_denied_one_is_denied(twilio: Any) -> None:
    there = twilio(max_calls_per_caller=1, deny_callers=[ANNA])
    for number, address in enumerate(("anonymous", "+266696687", "sip:anonymous@anonymous.invalid", "Restricted")):
        sid = f"CA{number:032}"
        assert verbs(await there.voice(From=address, CallSid=sid)) == ["Connect"]
        call = there.calls.pending[sid].call
        assert (call.caller, call.parameters) == (None, {"From": address})
    for address in (ANNA[1:], f"sip:{ANNA}@pbx.example:5061;transport=tls", f"tel:{ANNA}", f"whatsapp:{ANNA}"):
        assert verbs(await there.voice(From=address)) == ["Reject rejected"]


async def test_a_recorded_call_comes_back_when_its_stream_has_ended(twilio: Any) -> None:
    begun = int(time.time())
    twiml = await twilio(Journal()).voice()
    step = next_step(twiml)
    assert step["faults"] == "0"
    assert begun <= int(step["since"]) <= time.time()
    (stream,) = ET.fromstring(twiml).iter("Stream")
    assert urlsplit(stream.attrib["statusCallback"]).path == STATUS_PATH


async def test_a_webhook_that_comes_twice_is_one_call(twilio: Any) -> None:
    there = twilio(max_calls=1)
    for _ in range(2):
        assert verbs(await there.voice()) == ["Connect"]
    assert list(there.calls.pending) == [SID]


async def test_a_live_call_that_comes_to_the_number_again_goes_on(twilio: Any) -> None:
    there = twilio(Journal("resume", "MZ7", '{"name": "Anna"}'))
    twiml = await there.voice("in-progress")
    assert there.ticket(twiml).resumes
    assert next_step(twiml)["after"] == "MZ7"
    assert there.calls.pending[SID].call.state == {"name": "Anna"}


async def test_a_ringing_call_begins_whatever_is_recorded_of_its_sid(twilio: Any) -> None:
    there = twilio(Journal("resume"))
    assert not there.ticket(await there.voice("ringing")).resumes


@pytest.mark.parametrize(("status", "answer"), [("ringing", "Reject rejected"), ("in-progress", "Hangup")])
async def test_a_denied_caller_is_rejected_and_counted(twilio: Any, status: str, answer: str) -> None:
    there = twilio(deny_callers=["+1555*"], fallback_number=FALLBACK)
    assert verbs(await there.voice(status)) == [answer]
    assert b'phoneagent_calls_turned_away_total{reason="denied"} 1.0' in there.metrics.text()
    assert there.calls.pending == {}


@pytest.mark.parametrize(
    ("fallback", "status", "answer"),
    [
        (None, "ringing", ["Reject busy"]),
        (FALLBACK, "ringing", [f"Dial {FALLBACK}"]),
        (None, "in-progress", [f"Say {APOLOGY}", "Hangup"]),
        (FALLBACK, "in-progress", [f"Say {APOLOGY}", f"Dial {FALLBACK}"]),
    ],
)
async def test_one_call_too_many(twilio: Any, fallback: str | None, status: str, answer: list[str]) -> None:
    there = twilio(max_calls=1, fallback_number=fallback)
    there.live["CA1"] = call_of_form("CA1", {"From": "+15550100007"})
    assert verbs(await there.voice(status)) == answer


@pytest.mark.parametrize(
    ("caller", "called", "shown"),
    [
        (ANNA, OURS, None),
        (f"sip:{ANNA}@pbx.example", OURS, None),
        ("anonymous", OURS, OURS),
        ("client:anna", OURS, OURS),
        ("sip:1001@pbx.example", "sip:desk@ours.sip.twilio.com", "+15550100003"),
    ],
)
@pytest.mark.parametrize("status", ["ringing", "in-progress"])
async def test_a_forward_shows_a_number_that_twilio_takes(
    twilio: Any, caller: str, called: str, shown: str | None, status: str
) -> None:
    there = twilio(max_calls=1, fallback_number=FALLBACK, twilio_phone_number="+15550100003")
    there.live["CA1"] = call_of_form("CA1", {"From": "+15550100007"})
    for twiml in (await there.voice(status, From=caller, To=called), await there.after(From=caller, To=called)):
        (dial,) = ET.fromstring(twiml).iter("Dial")
        assert dial.get("callerId") == shown


async def test_rate_limits_turn_new_calls_away_and_none_that_is_up(twilio: Any) -> None:
    there = twilio(rate_limit_reserve=0.5)
    limit = RateLimit(name="tokens", limit=100, remaining=1, reset_seconds=3600)
    there.reserve.update(RateLimitsUpdated(call_sid="CA1", at_ms=0, model="m", limits=(limit,)), time.monotonic())
    assert verbs(await there.voice("ringing")) == ["Reject busy"]
    assert b'reason="limited"} 1.0' in there.metrics.text()
    assert verbs(await there.voice("in-progress")) == ["Connect"]


# --- while the process drains ---


async def test_a_call_is_sent_round_while_the_process_drains(twilio: Any) -> None:
    twiml = await twilio(draining=True).voice()
    assert [verb.split()[0] for verb in verbs(twiml)] == ["Pause", "Redirect"]
    address = urlsplit(ET.fromstring(twiml)[1].text or "")
    assert (address.path, address.query) == (VOICE_PATH, "again=1")


async def test_a_call_that_is_sent_round_takes_the_query_of_its_webhook_along(twilio: Any) -> None:
    there = twilio(draining=True)
    twiml = await there.voice(tenant="a&b c", SipHeader_X="1", CallerName="ANNA", again="1")
    query = urlsplit(ET.fromstring(twiml)[1].text or "").query
    assert query == "SipHeader_X=1&again=2&tenant=a%26b%20c"
    there.draining = False
    await there.voice(CallerName="ANNA", **dict(parse_qsl(query)))
    expected = {"tenant": "a&b c", "SipHeader_X": "1", "CallerName": "ANNA"}
    assert there.calls.pending[SID].call.parameters == expected


async def test_after_some_rounds_it_is_turned_away(twilio: Any) -> None:
    there = twilio(draining=True)
    twiml = await there.voice(again=str(MAX_RETRIES - 1))
    assert f"again={MAX_RETRIES}" in twiml
    assert verbs(await there.voice(again=str(MAX_RETRIES))) == ["Reject busy"]
    assert b'reason="draining"} 1.0' in there.metrics.text()


async def test_a_denied_caller_is_not_sent_round(twilio: Any) -> None:
    there = twilio(draining=True, deny_callers=[ANNA])
    assert verbs(await there.voice()) == ["Reject rejected"]


async def test_a_call_under_way_takes_what_is_known_of_it_round(twilio: Any) -> None:
    twiml = await twilio(Journal("recover"), draining=True).after(faults="2", since="1700000000", after="MZ1")
    address = urlsplit(ET.fromstring(twiml)[1].text or "")
    assert address.path == AFTER_PATH
    assert dict(parse_qsl(address.query)) == {"faults": "2", "since": "1700000000", "after": "MZ1", "again": "1"}


async def test_a_call_that_is_to_end_is_not_sent_round(twilio: Any) -> None:
    assert verbs(await twilio(Journal("hang_up"), draining=True).after()) == ["Hangup"]


# --- a media stream has ended ---


@pytest.mark.parametrize(
    ("kind", "fallback", "answer"),
    [
        ("hang_up", FALLBACK, ["Hangup"]),
        ("fall_back", FALLBACK, [f"Dial {FALLBACK}"]),
        ("fall_back", None, ["Hangup"]),
        ("apologise", FALLBACK, [f"Say {APOLOGY}", f"Dial {FALLBACK}"]),
        ("apologise", None, [f"Say {APOLOGY}", "Hangup"]),
        ("resume", None, ["Connect"]),
        ("recover", None, ["Connect"]),
    ],
)
async def test_a_call_goes_on_as_it_is_written(
    twilio: Any, kind: Kind, fallback: str | None, answer: list[str]
) -> None:
    assert verbs(await twilio(Journal(kind), fallback_number=fallback).after()) == answer


async def test_without_a_journal_only_an_apology_is_left(twilio: Any) -> None:
    assert verbs(await twilio().after()) == [f"Say {APOLOGY}", "Hangup"]


@pytest.mark.parametrize(("kind", "faults"), [("resume", "3"), ("recover", "4")])
async def test_only_a_fault_is_counted(twilio: Any, kind: Kind, faults: str) -> None:
    since = str(int(time.time()) - 60)
    there = twilio(Journal(kind, "MZ1"))
    twiml = await there.after(faults="3", since=since, after="MZ0")
    assert next_step(twiml) == {"faults": faults, "since": since, "after": "MZ1"}
    assert there.ticket(twiml).resumes


async def test_a_hand_over_that_led_to_no_new_stream_is_a_fault(twilio: Any) -> None:
    twiml = await twilio(Journal("resume", "MZ1")).after(faults="0", since=str(int(time.time())), after="MZ1")
    assert next_step(twiml)["faults"] == "1"


async def test_a_call_that_breaks_again_and_again_is_given_up(twilio: Any, caplog: pytest.LogCaptureFixture) -> None:
    long_ago = str(int(time.time()) - 100_000)
    there = twilio(Journal("recover"))
    assert verbs(await there.after(faults=str(MAX_FAULTS - 1), since=long_ago)) == ["Connect"]
    assert verbs(await there.after(faults=str(MAX_FAULTS), since=long_ago)) == [f"Say {APOLOGY}", "Hangup"]
    assert "giving up" in caplog.text


@pytest.mark.parametrize("nonsense", ["", "-1", "1e3", "1" * 12, "0x10"])
async def test_a_number_that_we_did_not_write_counts_as_none(twilio: Any, nonsense: str) -> None:
    twiml = await twilio(Journal("recover")).after(faults=nonsense, since=nonsense)
    step = next_step(twiml)
    assert step["faults"] == "1"
    assert abs(int(step["since"]) - time.time()) < 60


async def test_the_numbers_fallback_goes_on_where_nobody_answered(twilio: Any) -> None:
    since = str(int(time.time()) - 60)
    failed = f"https://agent.example{AFTER_PATH}?faults=2&since={since}&after=MZ0"
    there = twilio(Journal("recover", "MZ1"))
    twiml = await there.voice("in-progress", ErrorUrl=failed)
    assert next_step(twiml) == {"faults": "3", "since": since, "after": "MZ1"}


async def test_a_call_that_is_over_is_settled(twilio: Any) -> None:
    journal = Journal()
    there = twilio(journal)
    await there.voice()
    assert verbs(await there.after("completed")) == []
    assert journal.settled == [(SID, "caller", "Twilio reports that it is completed")]
    assert there.calls.pending == {}  # its media socket is not waited for


# --- the status of a call ---


@pytest.mark.parametrize(
    ("status", "settled"),
    [
        ("completed", True),
        ("busy", True),
        ("failed", True),
        ("no-answer", True),
        ("canceled", True),
        ("in-progress", False),
        ("ringing", False),
        ("", False),
    ],
)
async def test_a_status_says_whether_a_call_is_over(twilio: Any, status: str, settled: bool) -> None:
    journal = Journal()
    assert await twilio(journal).send(STATUS_PATH, {**FORM, "CallStatus": status}) == (204, "")
    assert bool(journal.settled) is settled


async def test_an_error_of_a_stream_is_logged_and_ends_no_call(twilio: Any, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    form = {**FORM, "CallStatus": "completed", "StreamEvent": "stream-error", "StreamError": "31921" + "x" * 1000}
    assert (await twilio(journal).send(STATUS_PATH, form))[0] == 204
    assert journal.settled == []
    assert "Twilio lost the media stream: 31921" in caplog.text
    assert len(caplog.records[-1].getMessage()) < 300


# --- media sockets ---


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
    def handshake(self) -> Iterator[None]:
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
    async with asyncio.timeout(10):
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


async def test_a_call_that_goes_on_has_its_past_and_its_state() -> None:
    journal = Journal()
    journal.past_or_error = RecordedPast(state='{"name": "Anna"}')
    there = await opened(Live(), start(), journal=journal, resumes=True)
    ((call, past, _),) = there.calls.ran
    assert past is journal.past_or_error
    assert call.state == {"name": "Anna"}


async def test_a_call_whose_stream_was_superseded_goes_on_though_its_token_begins_one() -> None:
    calls, journal = Live(), Journal()
    calls.pending = "answer"
    journal.past_or_error = RecordedPast()
    there = await opened(calls, start(), journal=journal)
    assert there.calls.ran[0][1] is journal.past_or_error


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
    journal = Journal()
    journal.past_or_error = error
    there = await opened(Live(), start(), journal=journal, resumes=True)
    assert there.calls.ran == []
    assert there.socket.did == ["accept", "close"]
    assert str(error) in caplog.text


async def test_the_end_of_the_process_is_no_error_of_a_call(caplog: pytest.LogCaptureFixture) -> None:
    calls = Live()
    calls.cancelled = True
    await opened(calls, start())
    assert "cut off: the process ends" in caplog.text
