"""`phoneagent calls`: what it shows of the records, and what it hides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa
import typer
from click.testing import Result
from typer.testing import CliRunner

from phoneagent.cli.calls import calls
from phoneagent.errors import ConfigurationError, StoreError
from phoneagent.events import (
    AgentAnswered,
    CallEnded,
    CallStarted,
    CallTransferred,
    Cost,
    Event,
    MessageAdded,
    Pause,
    ToolCalled,
    ToolReturned,
    Turn,
    TurnEnded,
    Usage,
    UsageReported,
)
from phoneagent.store import Store, rows
from phoneagent.store.schema import afterwards

INBOUND, OUTBOUND = "CA" + "1" * 32, "CA" + "2" * 32
PERSON, OURS = "+33123456789", "+4930123456"

Invoke = Callable[..., Result]


def turn(
    role: str,
    item_id: str,
    start_ms: int,
    text: str,
    heard_text: str | None = None,
    *,
    agent: str | None = None,
    pauses: tuple[Pause, ...] = (),
) -> TurnEnded:
    heard = text if heard_text is None else heard_text
    return TurnEnded(
        call_sid=INBOUND,
        turn=Turn(
            role=role,  # type: ignore[arg-type]
            item_id=item_id,
            text=text,
            heard_text=heard,
            start_ms=start_ms,
            end_ms=start_ms + 1000,
            said_ms=2500,
            heard_ms=2500 if heard == text else 800,
            interrupted=heard != text,
            agent=agent,
            pauses=pauses,
        ),
    )


PAUSES = (Pause(start_ms=65_100, end_ms=65_700, cause="echo"), Pause(start_ms=65_800, end_ms=65_900, cause="noise"))


def used(number: int, model: str, usage: Usage, cost: Cost) -> UsageReported:
    return UsageReported(
        call_sid=INBOUND,
        at_ms=4000,
        number=number,
        source="response",
        model=model,
        usage=usage,
        cost=cost,
        total=cost,
    )


CALL: list[Event] = [
    CallStarted(call_sid=INBOUND, stream_sid="MZ1", caller=PERSON, called=OURS, direction="inbound"),
    turn("agent", "1", 100, "Good evening!"),
    turn("caller", "2", 2000, ""),
    ToolCalled(call_sid=INBOUND, at_ms=3000, call_id="c1", name="book", arguments='{"guests": 4}'),
    ToolReturned(call_sid=INBOUND, at_ms=3050, call_id="c1", name="book", output="Booked\x1b[2J", ms=50),
    ToolCalled(call_sid=INBOUND, at_ms=3100, call_id="c2", name="pay", arguments="{}"),
    AgentAnswered(call_sid=INBOUND, at_ms=3600, latency_ms=640),
    turn("agent", "3", 3650, "We have one by the window", "We have one"),
    turn("agent", "4", 65_000, "Are you there?", "", pauses=PAUSES),
    used(1, "gpt-realtime-2.1", Usage(text_in=100, text_cached=900, audio_out=70), Cost(Decimal("0.00524"))),
    used(2, "house-recogniser\x1b[2J", Usage(audio_in=40, audio_ms=3200), Cost(at_least=True)),
    CallEnded(
        call_sid=INBOUND,
        ended_by="caller",
        reason="the caller hung up",
        duration_ms=71_200,
        transcript=(),
        dead_air_ms=2_612,
    ),
    CallStarted(call_sid=OUTBOUND, stream_sid="MZ2", caller=OURS, called=None, direction="outbound-api"),
]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Runs a command in an empty folder, where only DATABASE_URL may be set."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "RECORD_DAYS", "PHONEAGENT_ENV_FILE", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    app = typer.Typer()
    app.command()(calls)
    app.callback()(lambda: None)  # so that the command is called by its name
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
def recorded(invoke: Invoke) -> Invoke:
    async def record() -> None:
        async with Store.from_url("sqlite:///phoneagent.db") as store:
            for event in CALL:
                store.tell(event)

    asyncio.run(record())
    return invoke


def test_the_latest_calls_are_listed_with_masked_numbers(recorded: Invoke) -> None:
    result = recorded("calls")
    assert result.exit_code == 0, result.output
    lines = {line.split()[2]: line for line in result.output.splitlines()}
    assert "← +33…89" in lines[INBOUND]
    assert "1:11.2   $0.0052+  by caller: the caller hung up" in lines[INBOUND]
    assert "→ unknown" in lines[OUTBOUND]
    assert lines[OUTBOUND].endswith("not ended")
    assert PERSON not in result.output
    assert PERSON in recorded("calls", "--numbers").output
    assert len(recorded("calls", "--limit", "1").output.splitlines()) == 1


def test_one_call_is_a_readable_transcript(recorded: Invoke) -> None:
    result = recorded("calls", INBOUND)
    assert result.exit_code == 0, result.output
    title, *lines, end, latency, silence, cost, model, recogniser = result.output.splitlines()
    paused = "paused 0.6 s: echo, paused 0.1 s: noise"
    assert "inbound from +33…89 to +49…56" in title
    assert [line.split(maxsplit=1) for line in lines] == [
        ["0:00.1", "agent   Good evening!"],
        ["0:02.0", "caller  (no transcript)"],
        ["0:03.0", 'tool    book {"guests": 4} → Booked [2J  (50 ms)'],
        ["0:03.1", "tool    pay {}  (outcome unknown)"],
        ["0:03.6", "agent   We have one [unheard: by the window]  (after 640 ms, interrupted: heard 800 of 2500 ms)"],
        ["1:05.0", f"agent   [unheard: Are you there?]  ({paused}, interrupted: heard 800 of 2500 ms)"],
    ]
    assert end == "ended by caller after 1:11.2: the caller hung up"
    assert latency == "1 answer, latency 640 ms (median), 640 ms (95 %)"
    assert silence == "longest silence while an answer was due: 2612 ms"
    assert cost == "cost at least $0.0052"
    assert model == "  gpt-realtime-2.1: $0.0052; tokens: text 100 in, 900 cached; audio 70 out"
    assert recogniser == "  house-recogniser [2J: at least $0.0000; tokens: audio 40 in; 3.2 s of audio"
    assert PERSON not in result.output
    assert PERSON in recorded("calls", INBOUND, "--numbers").output


def test_with_several_agents_it_shows_the_speaker_and_the_added_messages(invoke: Invoke) -> None:
    async def record() -> None:
        async with Store.from_url("sqlite:///phoneagent.db") as store:
            store.tell(CALL[0])
            store.tell(turn("agent", "1", 100, "Good evening!", agent="front desk"))
            added = MessageAdded(call_sid=INBOUND, at_ms=1500, number=1, role="system", text="A regular.\x1b[2J")
            store.tell(added)
            store.tell(turn("caller", "2", 2000, "My bill."))
            store.tell(turn("agent", "3", 4000, "Billing here.", agent="billing"))

    asyncio.run(record())
    assert [line.split(maxsplit=1) for line in invoke("calls", INBOUND).output.splitlines()[1:-1]] == [
        ["0:00.1", "agent   [front desk] Good evening!"],
        ["0:01.5", "note    (system) A regular. [2J"],
        ["0:02.0", "caller  My bill."],
        ["0:04.0", "agent   [billing] Billing here."],
    ]
    given = json.loads(invoke("calls", INBOUND, "--json").output)
    assert [each["agent"] for each in given["turns"]] == ["front desk", None, "billing"]
    assert given["messages"] == [{"role": "system", "text": "A regular.\x1b[2J", "at_ms": 1500}]


def test_its_transfers_are_among_the_turns(invoke: Invoke) -> None:
    async def record() -> None:
        async with Store.from_url("sqlite:///phoneagent.db") as store:
            store.tell(CALL[0])
            store.tell(CallTransferred(call_sid=INBOUND, to_name="billing\x1b[2J", outcome="busy", warm=True))

    asyncio.run(record())
    shown = invoke("calls", INBOUND).output
    assert "to      transfer to billing [2J: busy, announced" in shown


def test_on_a_terminal_the_unheard_words_are_struck_out(recorded: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    output = recorded("calls", INBOUND).output
    assert "\x1b[2;9mby the window" in output
    assert "\x1b[2J" not in output  # what a tool has returned does not steer the terminal


def test_a_call_that_has_not_ended(recorded: Invoke) -> None:
    assert recorded("calls", OUTBOUND).output.splitlines()[1:] == ["not ended"]


@pytest.mark.parametrize(
    ("outcome", "error", "lines"),
    [
        (
            {"booked": True, "note": "a\x1b[2Jb", "day": None},
            None,
            ["outcome", "  booked: true", '  note: "a\\u001b[2Jb"', "  day: null"],
        ),
        (None, "guests: too\x1b[2J few", ["outcome not filled in: guests: too [2J few"]),
    ],
)
def test_the_outcome_of_a_call(
    recorded: Invoke, outcome: dict[str, Any] | None, error: str | None, lines: list[str]
) -> None:
    async def write() -> None:
        async with Store.from_url("sqlite:///phoneagent.db") as store:
            await store.outcomes.write(INBOUND, "MZ1", outcome, error)

    assert "\noutcome" not in recorded("calls", INBOUND).output
    asyncio.run(write())
    shown = recorded("calls", INBOUND).output
    assert "\n".join(lines) in shown
    assert "\x1b" not in shown
    record = json.loads(recorded("calls", INBOUND, "--json").output)
    assert (record["outcome"], record["outcome_error"]) == (outcome, error)


def test_json_has_everything(recorded: Invoke) -> None:
    record = json.loads(recorded("calls", INBOUND, "--json").output)
    assert (record["caller"], record["ended_by"], record["duration_ms"]) == (PERSON, "caller", 71_200)
    assert record["turns"][2]["heard_text"] == "We have one"
    assert record["tool_calls"][0]["output"] == "Booked\x1b[2J"
    assert record["cost"] == {"usd": "0.005240000", "at_least": True}
    assert [(each["model"], each["text_cached"], each["audio_ms"]) for each in record["usage"]] == [
        ("gpt-realtime-2.1", 900, 0),
        ("house-recogniser\x1b[2J", 0, 3200),
    ]
    assert record["latency_ms"] == {"response_p50": 640, "response_p95": 640}
    assert {each["call_sid"] for each in json.loads(recorded("calls", "--json").output)} == {INBOUND, OUTBOUND}


def test_a_resumed_call_shows_where_it_went_on(recorded: Invoke) -> None:
    async def resume() -> None:
        async with Store.from_url("sqlite:///phoneagent.db") as store:
            store.tell(ToolCalled(call_sid=OUTBOUND, at_ms=1, call_id="c1", name="look", arguments="{}"))
            before = await store.call(OUTBOUND)
            assert before is not None
            while rows.now() <= before.started_at + timedelta(milliseconds=5):
                await asyncio.sleep(0)
            again = CallStarted(
                call_sid=OUTBOUND, stream_sid="MZ3", caller=OURS, called=None, direction="outbound-api", resumed=True
            )
            store.tell(again)
            store.tell(ToolCalled(call_sid=OUTBOUND, at_ms=10, call_id="c2", name="book", arguments="{}"))

    asyncio.run(resume())
    _, *lines = recorded("calls", OUTBOUND).output.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "tool    look {}  (outcome unknown)",
        "—       the call went on in another media stream",
        "tool    book {}  (it has not returned yet)",
        "ended",
    ]
    streams = json.loads(recorded("calls", OUTBOUND, "--json").output)["streams"]
    assert [stream["stream_sid"] for stream in streams] == ["MZ2", "MZ3"]


def test_an_unknown_call_is_said_to_be_unknown(recorded: Invoke) -> None:
    result = recorded("calls", "CA0")
    assert result.exit_code == 1
    assert "no call CA0 is recorded" in result.output


def test_forgetting(recorded: Invoke) -> None:
    assert recorded("calls", "--forget", OURS).output == "0 calls forgotten\n"
    assert recorded("calls", "--forget", PERSON).output == "1 call forgotten\n"
    assert recorded("calls", "--forget", INBOUND).exit_code == 1
    assert recorded("calls", "--forget", OUTBOUND).exit_code == 0
    assert recorded("calls").output == "no call is recorded yet\n"
    assert "no call is recorded yet" in recorded("calls", "--last").output
    assert recorded("calls", INBOUND, "--forget", PERSON).exit_code == 2


def test_what_is_wrong_with_the_database_is_one_line(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(*arguments: str) -> BaseException | None:
        return invoke(*arguments).exception

    assert isinstance(error("calls"), StoreError)
    monkeypatch.setenv("DATABASE_URL", "mysql://someone:s3cret@host/calls")
    assert isinstance(malformed := error("calls"), ConfigurationError)
    assert "s3cret" not in str(malformed)
    assert "\n" not in str(malformed)


def test_a_call_is_named_by_its_beginning_or_as_the_last_one(recorded: Invoke) -> None:
    shared = "CA"
    for whole in (INBOUND, OUTBOUND):
        assert recorded("calls", whole[: len(shared) + 1]).output == recorded("calls", whole).output
    assert recorded("calls", "--last").output in {recorded("calls", whole).output for whole in (INBOUND, OUTBOUND)}
    result = recorded("calls", shared)
    assert result.exit_code == 1
    assert f"2 calls begin with {shared}: write more of the SID" in result.output
    assert recorded("calls", INBOUND, "--last").exit_code == 2


def test_a_recorded_call_is_drawn(recorded: Invoke, tmp_path: Path) -> None:
    assert recorded("calls", INBOUND, "--svg", "call.svg").exit_code == 0
    picture = ElementTree.fromstring((tmp_path / "call.svg").read_text("utf-8"))
    words = " ".join(picture.itertext())
    with_words = [
        turn for turn in json.loads(recorded("calls", INBOUND, "--json").output)["turns"] if turn["heard_text"]
    ]
    assert with_words
    assert all(turn["heard_text"].split()[0] in words for turn in with_words)
    assert "paused 0.6 s for an echo" in words
    assert recorded("calls", "--svg", "call.svg").exit_code == 2
    assert "name another file" in recorded("calls", INBOUND, "--svg", "no/where.svg").output


def test_a_picture_and_json_at_once(recorded: Invoke, tmp_path: Path) -> None:
    result = recorded("calls", INBOUND, "--svg", "call.svg", "--json")
    assert json.loads(result.output)["call_sid"] == INBOUND
    assert (tmp_path / "call.svg").exists()


def test_a_call_that_has_not_ended_is_drawn_as_such(recorded: Invoke, tmp_path: Path) -> None:
    assert recorded("calls", OUTBOUND, "--svg", "call.svg").exit_code == 0
    picture = (tmp_path / "call.svg").read_text("utf-8")
    assert "not ended yet" in picture
    assert "failed" not in picture


@pytest.mark.parametrize("arguments", [[""], [" "], ["--resend", ""], ["--forget", ""]])
def test_an_empty_name_is_no_call(recorded: Invoke, arguments: list[str]) -> None:
    result = recorded("calls", *arguments)
    assert result.exit_code == 2
    assert "it is empty: name a call" in result.output


def test_what_was_sent_to_the_receiver_is_shown_and_sent_again(recorded: Invoke) -> None:
    """Each state of a call's webhook, in its last line."""

    async def state(**values: Any) -> None:
        async def write(connection: Any) -> None:
            await connection.execute(sa.update(afterwards).values(values))

        async with Store.from_url("sqlite:///phoneagent.db") as store:
            await store._database.write(write)

    def last_line() -> str:
        return recorded("calls", INBOUND).output.splitlines()[-1]

    assert "webhook" not in last_line(), "there was no receiver"
    assert "1 call will be sent again" in recorded("calls", "--resend", INBOUND[:4]).output
    assert last_line().startswith("webhook not delivered yet; 0 attempts, due 2")
    problem = {"attempts": 10, "problem": "office.example answers with HTTP 500\x1b[2J"}
    asyncio.run(state(state="outcome", attempts=1, problem="no endpoint"))
    assert last_line().startswith("outcome not filled in yet; 1 attempt, due 2")
    asyncio.run(state(state="failed", **problem))
    assert last_line() == "webhook given up after 10 attempts: office.example answers with HTTP 500 [2J"
    assert "1 call will be sent again" in recorded("calls", "--resend", "failed").output
    assert "0 calls will be sent again" in recorded("calls", "--resend", "failed").output
    asyncio.run(state(state="delivered", attempts=2))
    assert last_line() == "webhook delivered after 2 attempts"
    asyncio.run(state(state="done"))
    assert "webhook" not in last_line(), "there was no receiver"


def test_what_cannot_be_sent_again(recorded: Invoke) -> None:
    for sid in (OUTBOUND, "CA" + "9" * 32):
        result = recorded("calls", "--resend", sid)
        assert result.exit_code == 1
        assert f"no call {sid} has ended" in result.output
    assert recorded("calls", INBOUND, "--resend", "failed").exit_code == 2
    assert recorded("calls", "--last", "--resend", "failed").exit_code == 2
