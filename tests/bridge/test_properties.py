"""Random calls between models of both far ends: the invariants of a call, whatever comes and when.

The invariants are asserted where they can break: in `world.py` (the bridge's outputs) and `far_ends.py` (what the far
ends would refuse). Here calls are made up and run, and what must be true when all is quiet is asserted.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from phoneagent.bridge.policy import Floor
from phoneagent.events import CallEnded
from tests.bridge.far_ends import Part, Plan, Running
from tests.bridge.world import Setting, World

QUIET_S = 45.0
"""After so long without anything new, everything that was owed has happened."""

delays = st.integers(0, 300)


def speech(least: int) -> st.SearchStrategy[Part]:
    """An item of at least so many chunks: all at once, as they are played, or slower than that."""
    return st.builds(
        Part,
        chunks_ms=st.lists(st.integers(1, 700), min_size=least, max_size=10).map(tuple),
        gap_ms=st.sampled_from([0, 5, 40, 150, 400, 900]),
        late_done=st.booleans(),
    )


parts = st.one_of(speech(1), st.just(Part(call=True)))
plans = st.builds(
    Plan,
    parts=st.lists(parts, max_size=3).map(tuple),
    status=st.sampled_from(["completed", "completed", "completed", "incomplete", "failed"]),
)
long_plans = st.builds(Plan, parts=st.lists(speech(4), min_size=1, max_size=3).map(tuple))


def places(plans: st.SearchStrategy[list[Plan]]) -> st.SearchStrategy[Setting]:
    return st.builds(
        Setting,
        caller_out_ms=delays,
        caller_back_ms=delays,
        model_out_ms=delays,
        model_back_ms=delays,
        think_ms=st.integers(0, 100),
        tool_ms=st.integers(0, 4000),
        filler_ms=st.sampled_from([None, 0, 500, 1500]),
        plans=plans,
        greeting=st.sampled_from([None, "Good evening!"]),
        greeting_interruptible=st.booleans(),
        barge_in=st.sampled_from([True, True, True, False]),
        server_answers=st.booleans(),
        server_interrupts=st.sampled_from([False, False, True]),
        server_complains=st.booleans(),
    )


any_place = places(st.lists(plans, max_size=6))
doings = st.tuples(
    st.sampled_from(["speak"] * 5 + ["wait", "say", "interrupt", "stall", "hole", "junk"]),
    st.integers(0, 3000),
)
scripts = st.lists(st.tuples(st.integers(0, 2500), doings), max_size=14)
interruptions = st.lists(
    st.tuples(st.integers(300, 2500), st.one_of(st.tuples(st.just("speak"), st.integers(50, 600)), doings)),
    min_size=5,
    max_size=14,
)


def do(world: World, what: str, ms: int) -> None:
    match what:
        case "speak":
            world.server.hear(ms / 1000)
        case "say":
            world.say()
        case "interrupt":
            world.interrupt()
        case "stall":
            world.stall(ms / 1000)
        case "hole":
            world.media_from = world.clock.now + ms / 1000
        case "junk":
            world.junk()
        case _:
            pass


def call(place: Setting, script: list[tuple[int, tuple[str, int]]]) -> World:
    """Run a call up to the last step of its script."""
    world = World(place)
    world.begin()
    world.connect()
    for pause_ms, (what, ms) in script:
        world.run(pause_ms / 1000)
        do(world, what, ms)
    return world


def end(world: World) -> None:
    """Run a call to its end, which comes within bounds, once, and is told last."""
    audio_seconds = (world.queued - world.sent) / 8000 + 12
    world.run(45 + audio_seconds)
    assert world.ended_at is not None
    assert [type(event) for event in world.told].count(CallEnded) == 1
    assert isinstance(world.told[-1], CallEnded)
    world.run(30)


def answered(world: World) -> None:
    """Nothing is owed: the newest turn and every output of a tool have an answer that knows of them."""
    log: list[tuple[str, Any]] = world.server.log
    newest = max(
        (at for at, (what, running) in enumerate(log) if what == "created" and isinstance(running, Running)
         and running.answers),
        default=-1,
    )  # fmt: skip
    assert all(at < newest for at, (what, _) in enumerate(log) if what == "output")
    turns = [at for at, (what, _) in enumerate(log) if what == "committed"]
    interrupted = any(what == "interrupt" for what, _ in log[turns[-1] :]) if turns else True
    assert interrupted or turns[-1] < newest


@settings(max_examples=150)
@given(places(st.lists(long_plans, min_size=4, max_size=8)), interruptions)
def test_what_is_truncated_is_what_was_not_heard(place: Setting, script: Any) -> None:
    world = call(place, script)
    world.run(QUIET_S)
    answered(world)
    assert world.bridge.floor() is Floor.OPEN


@settings(max_examples=150)
@given(any_place, scripts)
def test_a_call_in_which_both_sides_go_on_comes_to_rest_and_ends(place: Setting, script: Any) -> None:
    world = call(place, script)
    world.run(QUIET_S)
    if world.bridge.floor() is not Floor.CLOSING:  # two failures in a row end it before
        assert world.bridge.floor() is Floor.OPEN
        assert world.ended_at is None
        assert world.ran == world.returned == set(world.posted)
        assert len(world.posted) == len(world.ran)
        assert not world.server.calls
        answered(world)
        if place.model_out_ms + place.model_back_ms + place.think_ms == 0:
            assert not world.server.refused  # refusals are races, and without delays there are none
        world.hang_up()
    end(world)


@settings(max_examples=150)
@given(any_place, scripts, scripts)
def test_a_call_ends_after_hang_up_whatever_goes_on(place: Setting, script: Any, afterwards: Any) -> None:
    world = call(place, script)
    world.hang_up()
    for pause_ms, (what, ms) in afterwards:
        world.run(pause_ms / 1000)
        do(world, what, ms)
    end(world)
    assert len(world.posted) <= len(world.ran)


@settings(max_examples=150)
@given(any_place, scripts, scripts, st.sampled_from(["silent", "lost"]))
def test_a_call_ends_when_the_model_is_silent_or_lost(place: Setting, script: Any, afterwards: Any, how: str) -> None:
    world = call(place, script)
    if how == "silent":
        world.server.silent = True
    else:
        world.lose_model()
    for pause_ms, (what, ms) in afterwards:
        world.run(pause_ms / 1000)
        do(world, what, ms)
    world.run(10)
    world.hang_up()
    end(world)


@settings(max_examples=150)
@given(any_place, scripts)
def test_nothing_goes_out_before_start_and_everything_after_it(place: Setting, script: Any) -> None:
    world = World(place)
    world.connect()
    for pause_ms, (what, ms) in script:
        world.run(pause_ms / 1000)
        do(world, what, ms)
    world.begin()
    world.run(QUIET_S)
    end_of_call = world.bridge.floor() is Floor.CLOSING
    assert end_of_call or world.bridge.playback.idle
