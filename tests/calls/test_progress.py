"""What is kept of a turn before it is over: how often, and of which calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.steps import Pending
from phoneagent.calls import progress
from phoneagent.calls.progress import FULL_PART, LOOK_SECONDS, PARTS, Progress, _CallProgress
from phoneagent.events import CallerSpoke, Turn, TurnEnded
from phoneagent.protocol import realtime
from tests.bridge.rig import STREAM, Rig
from tests.patience import HANG_SECONDS

Kept = list[tuple[str, str, list[Turn], Pending | None]]


class Observed:
    """A call on a bench that is looked at."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.kept: Kept = []
        self._call = _CallProgress("CA1", self.rig.bridge, self.keep)

    def keep(self, call_sid: str, stream_sid: str, turns: Sequence[Turn], pending: Pending | None) -> None:
        self.kept.append((call_sid, stream_sid, list(turns), pending))

    def look(self) -> Kept:
        """Look once, and return what is kept of it."""
        self.kept.clear()
        self._call.look(self.rig.now)
        return list(self.kept)

    def speak(self) -> None:
        self.rig.created()
        self.rig.model(realtime.TranscriptDelta(response_id="r1", item_id="i1", delta="one two three four"))
        self.rig.audio(2000)


# --- one call ---


def test_what_the_agent_is_saying_is_kept_with_the_words_heard_and_what_is_open() -> None:
    call = Observed()
    call.speak()
    call.look()
    call.rig.wait(0.2)  # no mark comes back: more than up to the first one is not known to be heard
    ((call_sid, stream_sid, (turn,), pending),) = call.look()
    assert (call_sid, stream_sid, pending) == ("CA1", STREAM, None)
    assert (turn.item_id, turn.heard_text, turn.heard_ms, turn.interrupted) == ("i1", "", 120, True)
    call.rig.mark("1.10")  # a mark follows each 120 ms
    call.rig.wait(0.02)
    ((_, _, (turn,), _),) = call.look()
    assert (turn.heard_text, turn.heard_ms) == ("one two", pytest.approx(1220, abs=1))


def test_nothing_is_kept_while_nothing_changes() -> None:
    call = Observed()
    assert call.look() == [("CA1", STREAM, [], "nothing")]
    assert call.look() == []
    call.speak()
    assert call.look() == [("CA1", STREAM, [], "answer")]
    call.rig.wait(0.2)
    assert len(call.look()) == 1
    call.rig.wait(0.9)  # no mark comes back
    assert call.look() == []


def test_that_the_caller_speaks_is_kept_and_then_their_turn_until_it_has_a_text() -> None:
    call = Observed()
    call.look()
    call.rig.speech()
    assert call.look() == [("CA1", STREAM, [], "words")]
    call.rig.turn("u1")
    ((_, _, (turn,), pending),) = call.look()
    assert (turn.role, turn.item_id, turn.text, pending) == ("caller", "u1", "", None)
    assert call.look() == []
    call.rig.model(realtime.InputTranscript(item_id="u1", transcript="A table."))
    assert call.look() == [("CA1", STREAM, [], "answer")]


def test_nothing_is_kept_before_the_stream_or_after_its_end() -> None:
    call = Observed()
    call.rig.stop()
    assert call.look() == []
    call.rig = Rig(start=False)
    assert _CallProgress("CA1", call.rig.bridge, call.keep).look(call.rig.now) is None
    assert call.kept == []


# --- all calls ---


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.009)


async def until(condition: object) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


class Timers:
    """The timers that look at calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[asyncio.TimerHandle] = []
        loop = asyncio.get_running_loop()
        call_at = loop.call_at

        def watched(due: float, callback: object, *args: object, **options: object) -> asyncio.TimerHandle:
            handle = call_at(due, callback, *args, **options)  # type: ignore[arg-type]
            if getattr(callback, "__func__", None) is Progress._look:
                self.all.append(handle)
            return handle

        monkeypatch.setattr(loop, "call_at", watched)


def started_bridge() -> Bridge:
    return Rig().bridge


@pytest.mark.anyio
async def test_every_call_is_looked_at_by_one_timer_that_ends_with_the_last_call(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    followed = Progress(lambda call_sid, *_: seen.append(call_sid))
    timers = Timers(monkeypatch)
    leaves = [followed.follow(f"CA{number}", started_bridge()) for number in range(2 * FULL_PART + 1)]
    assert len(timers.all) == 1
    await until(lambda: len(seen) == 2 * FULL_PART + 1)
    assert len(set(seen)) == 2 * FULL_PART + 1
    for leave in leaves:
        leave()
    assert timers.all[-1].cancelled()


@pytest.mark.anyio
async def test_few_calls_are_looked_at_together_and_many_in_parts_of_the_same_size() -> None:
    followed, bridge = Progress(lambda *_: None), started_bridge()
    leaves = [followed.follow("CA1", bridge) for _ in range(FULL_PART + 1)]
    assert [len(part) for part in followed._parts] == [FULL_PART, 1] + [0] * (PARTS - 2)
    leaves += [followed.follow("CA1", bridge) for _ in range(FULL_PART * (PARTS - 1))]
    assert {len(part) for part in followed._parts} == {FULL_PART, FULL_PART + 1}
    for leave in leaves:
        leave()


@pytest.mark.anyio
async def test_a_look_that_is_late_makes_the_next_one_no_later(monkeypatch: pytest.MonkeyPatch) -> None:
    timers, loop = Timers(monkeypatch), asyncio.get_running_loop()
    clock = [loop.time()]
    monkeypatch.setattr(loop, "time", lambda: clock[0])
    began, step = clock[0], LOOK_SECONDS / PARTS
    followed = Progress(lambda *_: None)
    leave = followed.follow("CA1", started_bridge())
    for late_seconds in (0.005, 0.06, 0.0, 2.5 * step):
        timers.all[-1].cancel()  # it fires here
        clock[0] = timers.all[-1].when() + late_seconds
        followed._look()
    leave()
    assert [handle.when() - began for handle in timers.all] == pytest.approx(
        [step, 2 * step, 3 * step, 4 * step, 6.5 * step]
    )


@pytest.mark.anyio
async def test_a_call_that_cannot_be_looked_at_harms_no_other(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def keep(call_sid: str, *_: object) -> None:
        seen.append(call_sid)
        if call_sid == "CA0":
            raise ValueError

    followed = Progress(keep)
    leaves = [
        followed.follow(f"CA{number}", Bridge(Policy()) if number == 2 else started_bridge()) for number in (0, 1, 2)
    ]
    await until(lambda: {"CA0", "CA1"} <= set(seen))
    for leave in leaves:
        leave()
    assert "the progress of the call was not kept" in caplog.text
    assert "CA2" not in seen


@pytest.mark.anyio
async def test_a_call_that_begins_or_whose_turn_ends_is_looked_at_next(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    seen: list[str] = []
    followed, rigs = Progress(lambda call_sid, *_: seen.append(call_sid)), [Rig(), Rig()]

    def look() -> list[str]:
        seen.clear()
        timers.all[-1].cancel()  # it fires here
        followed._look()
        return list(seen)

    leave = followed.follow("CA0", rigs[0].bridge)
    assert look() == ["CA0"]
    leave_other = followed.follow("CA1", rigs[1].bridge)
    assert look() == ["CA1"]
    for rig in rigs:
        rig.speech()
    turn = Turn(role="caller", item_id="i", text="", heard_text="", start_ms=0, end_ms=0, said_ms=0, heard_ms=0)
    followed.tell(CallerSpoke(call_sid="CA0", at_ms=0))
    for call_sid in ("CA1", "CA9"):
        followed.tell(TurnEnded(call_sid=call_sid, turn=turn))
    assert look() == ["CA1"]
    assert [look() for _ in range(PARTS - 3)] == [[]] * (PARTS - 3)
    assert look() == ["CA0"]
    leave()
    leave_other()


def test_that_it_is_unknown_what_is_open_is_not_kept_over_what_is_known() -> None:
    call = Observed()
    call.rig = Rig(past=Past(before_crash="words"), connect=False)
    call._call = _CallProgress("CA1", call.rig.bridge, call.keep)
    assert call.rig.bridge.pending(call.rig.now) == "unknown"
    assert call.look() == []
    call.rig.connect()
    assert call.look() == [("CA1", STREAM, [], "answer")]
