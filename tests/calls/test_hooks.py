"""Hooks: told in order, off the path, and harmless."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Union

import pytest

from phoneagent import CallerSpoke, DefinitionError, KeyPressed, ModelEvent
from phoneagent.calls import hooks
from phoneagent.calls.hooks import Hooks, kinds_of
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


def spoke(at_ms: int) -> CallerSpoke:
    return CallerSpoke(call_sid="CA1", at_ms=at_ms)


async def test_hooks_get_their_kinds_in_order() -> None:
    registry, seen = Hooks(), []

    async def asynchronous(event: Any) -> None:
        await asyncio.sleep(0)
        seen.append(("async", event.at_ms))

    def plain(event: Any) -> None:
        assert threading.current_thread() is not threading.main_thread()
        seen.append(("plain", event.at_ms))

    registry.add(CallerSpoke | KeyPressed, asynchronous)
    registry.add(KeyPressed, plain)
    follower = registry.follow()
    follower.tell(spoke(1))
    follower.tell(KeyPressed(call_sid="CA1", at_ms=2, digit="5"))
    await follower.close()
    assert seen == [("async", 1), ("async", 2), ("plain", 2)]


def no_event() -> None: ...
def any_event(event: Any) -> None: ...


@pytest.mark.parametrize(
    ("kinds", "hook", "words"),
    [
        ("CallerSpoke", any_event, "app.on.'CallerSpoke'. names no event"),
        ([CallerSpoke, KeyPressed], any_event, "names no event"),
        (int | KeyPressed, any_event, "app.on.int. names no event"),
        (CallerSpoke, no_event, "the hook 'no_event' cannot be called .*: let it take .event."),
        (CallerSpoke, 5, "app.on.…. decorates 5, which is not a function: decorate a function that takes the event"),
    ],
)
def test_a_hook_that_cannot_be_told_is_refused(kinds: Any, hook: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        Hooks().add(kinds, hook)


def test_kinds_may_be_joined_in_either_way() -> None:
    assert kinds_of(Union[CallerSpoke, KeyPressed]) == kinds_of(CallerSpoke | KeyPressed) == (CallerSpoke, KeyPressed)  # noqa: UP007


async def test_a_failing_hook_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    registry, seen = Hooks(), []

    def broken(event: Any) -> None:
        raise ValueError("oops")

    registry.add(CallerSpoke, broken)
    registry.add(CallerSpoke, seen.append)
    follower = registry.follow()
    follower.tell(spoke(1))
    await follower.close()
    assert seen == [spoke(1)]
    assert "hook broken failed" in caplog.text


async def test_a_hook_that_is_cancelled_or_leaves_does_not_keep_the_rest_from_others() -> None:
    registry, seen = Hooks(), []

    async def cancelled(event: Any) -> None:
        raise asyncio.CancelledError

    async def leaves(event: Any) -> None:
        raise SystemExit(3)

    async def rude(event: Any) -> None:
        raise BaseException

    for hook in (cancelled, leaves, rude, seen.append):
        registry.add(CallerSpoke, hook)
    follower = registry.follow()
    follower.tell(spoke(1))
    follower.tell(spoke(2))
    await follower.close()
    assert seen == [spoke(1), spoke(2)]


async def test_a_slow_hook_is_cut_off(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "HOOK_SECONDS", 0.02)
    registry, never = Hooks(), asyncio.Event()

    async def slow(event: Any) -> None:
        await never.wait()

    registry.add(CallerSpoke, slow)
    follower = registry.follow()
    follower.tell(spoke(1))
    await follower.close()
    assert "hook slow took longer" in caplog.text
    for number in range(20):
        follower.tell(spoke(number))


async def test_a_time_out_of_a_hooks_own_is_a_failure_with_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def connects(event: CallerSpoke) -> None:
        raise TimeoutError("no answer from the CRM")

    registry = Hooks()
    registry.add(CallerSpoke, connects)
    follower = registry.follow()
    follower.tell(spoke(1))
    await follower.close()
    (record,) = caplog.records
    assert record.getMessage() == "hook connects failed"
    assert "no answer from the CRM" in str(record.exc_info)


async def test_too_many_events_are_dropped_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "MAX_WAITING", 3)
    registry, seen = Hooks(), []

    async def note(event: Any) -> None:
        seen.append(event.at_ms)

    registry.add(CallerSpoke, note)
    follower = registry.follow()
    for number in range(10):
        follower.tell(spoke(number))
    await follower.close()
    assert seen == [0, 1, 2]
    assert caplog.text.count("events are being dropped") == 1


async def test_without_hooks_nothing_runs() -> None:
    follower = Hooks().follow()
    before = len(asyncio.all_tasks())
    follower.tell(spoke(1))
    await follower.close()
    assert len(asyncio.all_tasks()) == before


@pytest.mark.parametrize("kind", [int, "CallerSpoke", CallerSpoke | int])
def test_only_events_can_be_hooked(kind: Any) -> None:
    with pytest.raises(DefinitionError, match="names no event"):
        Hooks().add(kind, print)


def test_raw_events_are_only_made_when_wanted() -> None:
    registry = Hooks()
    assert not registry.wants_model_events
    registry.add(ModelEvent, print)
    assert registry.wants_model_events


async def test_a_streams_hooks_run_after_those_of_the_stream_before() -> None:
    registry, seen, go_on = Hooks(), [], asyncio.Event()

    async def note(event: Any) -> None:
        await go_on.wait()
        seen.append(event.at_ms)

    registry.add(CallerSpoke, note)
    first = registry.follow()
    second = registry.follow(after=first)
    second.tell(spoke(2))
    first.tell(spoke(1))
    await asyncio.sleep(0)
    go_on.set()
    await first.close()
    await second.close()
    assert seen == [1, 2]


async def test_what_is_told_after_the_end_comes_last_and_delays_no_later_stream() -> None:
    registry, seen, go_on = Hooks(), [], asyncio.Event()

    async def note(event: Any) -> None:
        if event.at_ms == 2:
            await go_on.wait()
        seen.append(event.at_ms)

    registry.add(CallerSpoke, note)
    first = registry.follow()
    first.tell(spoke(1))
    closing = asyncio.create_task(first.close())
    await asyncio.sleep(0)
    first.tell(spoke(2))  # a tool returns, in the middle of the end
    second = registry.follow(after=first)
    second.tell(spoke(3))
    await second.close()
    assert seen == [1, 3]
    first.tell(spoke(4))
    go_on.set()
    await closing
    first.tell(spoke(5))  # and another one after it
    await first.close()
    assert seen == [1, 3, 2, 4, 5]


async def test_a_stream_that_has_begun_keeps_the_one_before_it_no_longer() -> None:
    registry = Hooks()
    registry.add(CallerSpoke, lambda event: None)
    first = registry.follow()
    await first.close()
    second = registry.follow(after=first)
    second.tell(spoke(1))
    await second.close()
    assert second._before is None


async def test_the_end_of_a_call_waits_for_hooks_but_not_forever(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, never = Hooks(), asyncio.Event()

    async def slow(event: Any) -> None:
        await never.wait()

    registry.add(CallerSpoke, slow)
    follower = registry.follow()
    follower.tell(spoke(1))
    await asyncio.sleep(0)  # the hook runs, with its own limit
    monkeypatch.setattr(hooks, "HOOK_SECONDS", 0.01)
    await follower.close()
    assert "hooks did not finish within 0.03 s" in caplog.text
    never.set()
    monkeypatch.setattr(hooks, "HOOK_SECONDS", HANG_SECONDS)
    follower.tell(spoke(2))
    await follower.close()
    assert caplog.text.count("did not finish") == 1
