"""Twilio's requests one by one: what TwiML answers them."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from starlette.requests import Request

from phoneagent import Agent, Call, Endpoint, RateLimit, RateLimitsUpdated, Settings
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.bridge.steps import Transfer
from phoneagent.calls.calls import Calls
from phoneagent.calls.hooks import Hooks
from phoneagent.calls.journal import MAX_FAULTS, Continuation, Kind
from phoneagent.errors import StoreError
from phoneagent.telemetry import Metrics
from phoneagent.twilio import AFTER_PATH, AMD_PATH, PARTY_PATH, STATUS_PATH, VOICE_PATH
from phoneagent.twilio.parameters import call_of_form, call_of_stream
from phoneagent.twilio.signatures import MediaTokens
from phoneagent.twilio.twiml import APOLOGY
from phoneagent.twilio.verification import Verifier
from phoneagent.webhooks.webhooks import MAX_RETRIES, Webhooks
from tests.asgi import scope

pytestmark = pytest.mark.anyio

SID = "CA" + "5" * 32
ANNA, OURS, FALLBACK = "+15550100001", "+15550100002", "+15550100009"
FORM = {"CallSid": SID, "From": ANNA, "To": OURS, "Direction": "inbound"}


class Journal:
    """What is written of calls: how one goes on, and what it is told."""

    def __init__(self, kind: Kind | None = None, stream_sid: str = "MZ1", state: str | None = None) -> None:
        self.goes_on = None if kind is None else Continuation(kind, stream_sid, state)
        self.settled: list[tuple[str, str, str]] = []

    async def answer(self, call_sid: str) -> Continuation:
        assert self.goes_on is not None
        return self.goes_on

    async def comes_back(self, call_sid: str) -> Continuation | None:
        return self.goes_on

    async def went_on(self, call_sid: str, after: str) -> bool:
        return False

    async def settle(self, call_sid: str, ended_by: str, reason: str) -> None:
        self.settled.append((call_sid, ended_by, reason))


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
@pytest.mark.parametrize("path", [VOICE_PATH, AFTER_PATH, STATUS_PATH, PARTY_PATH])
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


async def test_a_withheld_number_is_none_in_each_spelling_and_a_denied_one_is_denied(twilio: Any) -> None:
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


@pytest.mark.parametrize("why", ["full", "caller", "draining"])
async def test_a_live_call_that_comes_to_the_number_again_is_not_turned_away_as_a_new_one(
    twilio: Any, why: str
) -> None:
    limits = {"full": {"max_calls": 1}, "caller": {"max_calls_per_caller": 1}, "draining": {}}
    there = twilio(Journal("resume", "MZ7"), **limits[why])
    other = call_of_form("CA" + "6" * 32, FORM)
    there.live[other.sid] = other
    fields = {}
    if why == "draining":
        there.draining, fields = True, {"again": str(MAX_RETRIES)}
    assert there.ticket(await there.voice("in-progress", **fields)).resumes
    assert verbs(await there.voice("ringing", **fields))[0].startswith("Reject"), "a new call is"


async def test_a_call_of_ours_that_is_answered_in_a_drain_does_not_count_as_answered(twilio: Any) -> None:
    """It would be forwarded to people who do not know whom the app has called."""

    told: list[tuple[str, str]] = []

    class Outbound:
        async def attach(self, call: Call, *, answered: bool = False) -> bool:
            return True

        async def turned_away(self, call: Call, why: str) -> None:
            told.append((call.sid, why))

    there = twilio(Journal(), draining=True, fallback_number=FALLBACK)
    there.webhooks._outbound = Outbound()
    fields = {"dial": "id", "Direction": "outbound-api"}
    assert verbs(await there.voice("in-progress", **fields))[0] != f"Say {APOLOGY}", "another process may take it"
    answer = await there.voice("in-progress", **fields, again=str(MAX_RETRIES))
    assert (verbs(answer), told) == ([f"Say {APOLOGY}", "Hangup"], [(SID, "draining")])


async def test_a_denied_caller_is_turned_away_whatever_is_recorded_of_the_call(twilio: Any) -> None:
    there = twilio(Journal("resume", "MZ7"), deny_callers=["+1555*"])
    assert verbs(await there.voice("in-progress")) == ["Hangup"]


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
        ("apologize", FALLBACK, [f"Say {APOLOGY}", f"Dial {FALLBACK}"]),
        ("apologize", None, [f"Say {APOLOGY}", "Hangup"]),
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


async def test_the_numbers_fallback_goes_on_after_a_request_that_was_not_answered(twilio: Any) -> None:
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


class Forgetful(Journal):
    """A journal whose database is away for the first end."""

    away = True

    async def settle(self, call_sid: str, ended_by: str, reason: str) -> None:
        if self.away:
            self.away = False
            raise StoreError("it is away")
        await super().settle(call_sid, ended_by, reason)


async def test_twilio_sends_an_end_again_that_the_database_has_not_taken(
    twilio: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made, form = twilio(journal := Forgetful()), {**FORM, "CallStatus": "completed"}
    assert (await made.send(STATUS_PATH, form))[0] == 503
    assert "a webhook at /twilio/status failed because the database did not answer" in caplog.text
    assert await made.send(STATUS_PATH, form) == (204, "")
    assert len(journal.settled) == 1


async def test_a_call_that_is_over_after_its_stream_needs_no_database(
    twilio: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end is reported at STATUS_PATH as well. Without an answer, Twilio would ask the number's fallback."""
    assert verbs(await twilio(Forgetful()).after("completed")) == []
    assert "the end of the call was not recorded: it is away" in caplog.text


@pytest.mark.parametrize("path", [STATUS_PATH, AMD_PATH])
async def test_twilio_sends_a_report_about_a_call_of_ours_again_that_the_database_has_not_taken(
    twilio: Any, path: str
) -> None:
    class Outbound:
        away = True

        async def tell(self, form: dict[str, str]) -> None:
            if self.away:
                raise StoreError("it is away")

        amd = tell

    made = twilio(journal := Journal())
    made.webhooks._outbound = outbound = Outbound()
    form = {**FORM, "CallStatus": "completed", "dial": "id"}
    assert (await made.send(path, form))[0] == 503
    assert bool(journal.settled) is (path == STATUS_PATH), "the call has ended in this process"
    outbound.away = False
    assert (await made.send(path, form))[0] == 204


async def test_an_error_of_a_stream_is_logged_and_ends_no_call(twilio: Any, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    form = {**FORM, "CallStatus": "completed", "StreamEvent": "stream-error", "StreamError": "31921" + "x" * 1000}
    assert (await twilio(journal).send(STATUS_PATH, form))[0] == 204
    assert journal.settled == []
    assert "Twilio lost the media stream: 31921" in caplog.text
    assert len(caplog.records[-1].getMessage()) < 300


# --- transfers ---


class Transferred(Journal):
    """A call whose next step is a transfer; `told` is what became of it."""

    def __init__(self, step: Transfer) -> None:
        super().__init__()
        self.goes_on = Continuation("transfer", "MZ1", None, step)
        self.told: list[tuple[str, str]] = []

    async def transferred(self, call_sid: str, stream_sid: str, outcome: str) -> Continuation:
        assert self.goes_on is not None
        self.told.append((stream_sid, outcome))
        step, self.goes_on = self.goes_on.transfer, self.goes_on._replace(transfer=None)
        return Continuation("hang_up" if outcome == "completed" else "resume", stream_sid, None, step)


NUMBER = "+12025550107"


def dial_of(twiml: str) -> tuple[dict[str, str], ET.Element]:
    (dial,) = ET.fromstring(twiml)
    assert dial.tag == "Dial"
    return dial.attrib, dial[0]


@pytest.mark.parametrize(
    ("step", "form", "caller_id"),
    [
        (Transfer(to=NUMBER), {}, None),
        (Transfer(to=NUMBER, caller_id="called"), {}, OURS),
        (Transfer(to=NUMBER, caller_id="called"), {"To": "client:anna"}, "+15550100005"),
        (Transfer(to=NUMBER), {"From": "anonymous"}, OURS),
        (Transfer(to=NUMBER, caller_id="called"), {"Direction": "outbound-api"}, None),
    ],
)
async def test_a_transfer_is_dialed_with_the_chosen_caller_id(
    twilio: Any, step: Transfer, form: dict[str, str], caller_id: str | None
) -> None:
    made = twilio(Transferred(step), twilio_phone_number="+15550100005")
    attributes, party = dial_of(await made.after(faults="0", since="5", **form))
    assert (party.tag, party.text) == ("Number", NUMBER)
    assert attributes.get("callerId") == caller_id
    assert (attributes["timeout"], attributes["answerOnBridge"]) == ("20", "true")
    assert dict(parse_qsl(urlsplit(attributes["action"]).query)) == {"faults": "0", "since": "5", "dialed": "MZ1"}
    assert await made.after(faults="0", since="5", **form) == await made.after(faults="0", since="5", **form)


@pytest.mark.parametrize(
    ("to", "tag", "text"),
    [
        ("client:anna", "Client", "anna"),
        ("sip:desk@pbx.example", "Sip", "sip:desk@pbx.example"),
        (NUMBER, "Number", NUMBER),
    ],
)
async def test_a_screened_party_is_asked_before_it_gets_the_caller(twilio: Any, to: str, tag: str, text: str) -> None:
    made = twilio(Transferred(Transfer(to=to, name="billing", screen=True)))
    _, party = dial_of(await made.after())
    assert (party.tag, party.text) == (tag, text)
    address = urlsplit(party.attrib["url"])
    assert address.path == PARTY_PATH
    assert next_step(await made.after())["screened"] == "1"
    code, asked = await made.send(PARTY_PATH, {**FORM, **dict(parse_qsl(address.query))})
    assert code == 200
    assert "A call for billing. Press 1" in asked
    assert verbs((await made.send(PARTY_PATH, {**FORM, "Digits": "1"}))[1]) == []
    assert verbs((await made.send(PARTY_PATH, {**FORM, "Digits": "5"}))[1]) == ["Hangup"]


async def test_a_screened_party_may_be_asked_in_another_language(twilio: Any) -> None:
    step = Transfer(to=NUMBER, name="billing", screen=True, ask="Drücken Sie die Eins.", language="de-DE")
    made = twilio(Transferred(step))
    address = urlsplit(dial_of(await made.after())[1].attrib["url"])
    _, asked = await made.send(PARTY_PATH, {**FORM, **dict(parse_qsl(address.query))})
    assert asked.count('<Say language="de-DE">Drücken Sie die Eins.</Say>') == 2
    assert "Press" not in asked


@pytest.mark.parametrize(
    ("form", "outcome"),
    [
        ({"DialCallStatus": "completed", "DialBridged": "true"}, "completed"),
        ({"DialCallStatus": "answered"}, "completed"),
        ({"DialCallStatus": "completed", "DialBridged": "false", "screened": "1"}, "declined"),
        ({"DialCallStatus": "completed", "DialBridged": "true", "screened": "1"}, "completed"),
        ({"DialCallStatus": "answered", "DialBridged": "false"}, "completed"),
        ({"DialCallStatus": "busy"}, "busy"),
        ({"DialCallStatus": "no-answer"}, "no-answer"),
        ({"DialCallStatus": "failed"}, "failed"),
        ({"DialCallStatus": "canceled"}, "canceled"),
        ({"DialCallStatus": "another"}, "unknown"),
        ({}, "unknown"),
    ],
)
async def test_what_becomes_of_a_transfer(twilio: Any, form: dict[str, str], outcome: str) -> None:
    journal = Transferred(Transfer(to=NUMBER, name="billing"))
    made = twilio(journal)
    answer = await made.after(dialed="MZ1", **form)
    assert journal.told == [("MZ1", outcome)]
    assert verbs(answer) == (["Hangup"] if outcome == "completed" else ["Connect"])
    if outcome != "completed":
        assert "Dial" not in str(ET.tostring(ET.fromstring(answer)))  # nothing of it is a parameter of the call


async def test_a_caller_who_comes_back_while_the_process_drains_goes_to_another_one(twilio: Any) -> None:
    journal = Transferred(Transfer(to=NUMBER, name="billing"))
    made = twilio(journal, draining=True)
    answer = await made.after(dialed="MZ1", since="5", DialCallStatus="busy")
    assert verbs(answer)[0] == "Pause"
    assert "since=5" in verbs(answer)[1]
    assert "dialed" not in verbs(answer)[1]  # the outcome is written down


async def test_a_party_waits_while_the_database_is_away(twilio: Any) -> None:
    class Away:
        async def answer(self, form: dict[str, str]) -> str:
            raise StoreError("it is away")

    made = twilio()
    made.webhooks._warm = Away()
    code, _ = await made.send(PARTY_PATH, {**FORM, "transfer": "t1"})
    assert code == 503
