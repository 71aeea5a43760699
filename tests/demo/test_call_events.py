"""The view and the report that are made of an app's events."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from phoneagent import events
from phoneagent.demo.call_events import CallEvents
from phoneagent.demo.report import BargeIn, ToolCall
from phoneagent.events import (
    AgentAnswered,
    AgentResumed,
    CallEnded,
    KeyPressed,
    Pause,
    SilenceFilled,
    ToolCalled,
    ToolReturned,
    Trouble,
    Turn,
    TurnEnded,
)
from phoneagent.protocol.audio import tone

pytestmark = pytest.mark.anyio

CALL = {"call_sid": "CA1"}


def turn(role: str, item_id: str, text: str, start_ms: int, end_ms: int, *, heard: str | None = None) -> TurnEnded:
    length = end_ms - start_ms
    said = length if heard is None else 3 * length
    return TurnEnded(
        **CALL,
        turn=Turn(
            role=role,
            item_id=item_id,
            text=text,
            heard_text=text if heard is None else heard,
            start_ms=start_ms,
            end_ms=end_ms,
            said_ms=said,
            heard_ms=length,
            interrupted=heard is not None,
        ),
    )


CALLED = ToolCalled(**CALL, at_ms=4000, call_id="c1", name="book", arguments='{"guests": 4}')
RETURNED = ToolReturned(**CALL, at_ms=4040, call_id="c1", name="book", output="Booked [for 4].", ms=40)
BARGE_IN = events.BargeIn(**CALL, at_ms=2500, item_id="a2", audio_end_ms=480, said_ms=3000, reaction_ms=90)


class Seen:
    """A view, and what it prints."""

    def __init__(self) -> None:
        self.console = Console(file=io.StringIO(), width=120, highlight=False)
        self.events = CallEvents(self.console)

    async def lines(self, *shown) -> list[str]:
        for each in shown:
            await self.events.see(each)
        return [" ".join(line.split()) for line in self.console.file.getvalue().splitlines()]


async def test_each_event_is_a_line():
    lines = await Seen().lines(
        turn("agent", "a1", "Good [day]!", 100, 1000),
        AgentAnswered(**CALL, at_ms=2000, latency_ms=650),
        turn("agent", "a2", "It is a long story.", 2000, 2500, heard="It is a"),
        AgentResumed(**CALL, at_ms=2400, paused_ms=900, cause="backchannel"),
        BARGE_IN,
        turn("caller", "u1", "Wait!", 2400, 3500),
        turn("caller", "u2", "", 3600, 3700),
        CALLED,
        RETURNED,
        KeyPressed(**CALL, at_ms=5000, digit="#"),
        KeyPressed(**CALL, at_ms=5050, digit=""),
        SilenceFilled(**CALL, at_ms=5050, silent_ms=2500, sound="filler"),
        Trouble(**CALL, at_ms=5100, what="the model was slow"),
    )
    assert lines == [
        "0:00.1 agent Good [day]!",
        "0:02.0 agent +0.65 s It is a long story.",
        "0:02.4 pause 900 ms the agent went on: backchannel",
        "0:02.5 barge-in 3.00 s said; the model was told 0.48 s heard",
        "0:02.4 caller Wait!",
        "0:04.0 tool 40 ms book(guests=4) → Booked [for 4].",
        "0:05.0 key #",
        "0:05.0 key (gathered)",
        "0:05.0 filler after 2500 ms of silence",
        "0:05.1 trouble the model was slow",
    ]


async def test_unheard_words_are_struck_through():
    seen = Seen()
    seen.console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    seen.events = CallEvents(seen.console)
    await seen.lines(turn("agent", "a2", "It is a long story.", 2000, 2500, heard="It is a"))
    shown = seen.console.file.getvalue()
    struck = shown[shown.index("\x1b[2;9m") :]
    assert struck.startswith("\x1b[2;9m long story.")


async def test_the_report_joins_the_app_s_words_and_the_phone_s_times(handmade):
    seen = Seen()
    handmade.agent("a1", "Hello!", tone(300, 900), 100)
    handmade.agent("a2", "It is a long story.", tone(400, 3000), 2000)
    handmade.clear(2500)
    handmade.end(6000)
    await seen.lines(
        turn("caller", "u1", "Wait!", 2400, 3500),
        turn("agent", "a1", "Hello!", 102, 1002),
        turn("agent", "a2", "It is a long story.", 2002, 2482, heard="It"),
        BARGE_IN,
        SilenceFilled(**CALL, at_ms=3900, silent_ms=2540, sound="apology"),
        AgentResumed(**CALL, at_ms=900, paused_ms=300, cause="noise"),
        CALLED,
        RETURNED,
        CallEnded(
            **CALL, ended_by="agent", reason="the agent hung up", duration_ms=6000, transcript=(), dead_air_ms=640
        ),
    )
    report = seen.events.report(handmade.line)
    assert [(each.role, each.start_ms) for each in report.turns] == [("agent", 102), ("agent", 2002), ("caller", 2400)]
    assert report.barge_ins == [BargeIn("a2", 480, pytest.approx(498, abs=2), 90)]
    assert report.tool_calls == [ToolCall("book", {"guests": 4}, "Booked [for 4].", 40)]
    assert seen.events.notes() == [(3900, "apology after 2.5 s of silence"), (4000, "book(guests=4) → Booked [for 4].")]
    assert seen.events.failure is None
    assert report.latency_ms.first_audio == 102
    assert report.dead_air_ms == 640
    assert report.pauses == [Pause(start_ms=600, end_ms=900, cause="noise")]


async def test_a_tool_that_never_returned_and_arguments_that_are_no_json(handmade):
    seen = Seen()
    handmade.end(1000)
    await seen.lines(ToolCalled(**CALL, at_ms=1, call_id="c1", name="book", arguments="{"))
    assert seen.events.report(handmade.line).tool_calls == [ToolCall("book", "{", None, None)]
    assert seen.events.failure is None


@pytest.mark.parametrize("ended_by", ["error", "line"])
async def test_a_call_that_failed_has_the_app_s_reason(ended_by):
    seen = Seen()
    await seen.lines(CallEnded(**CALL, ended_by=ended_by, reason="the model is away", duration_ms=60, transcript=()))
    assert seen.events.failure == "the model is away"
