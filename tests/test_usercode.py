"""Users' functions, and plain ones in threads: what they raise, and what happens when they hang."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from phoneagent import usercode
from phoneagent.usercode import call_user, run_in_thread, signature_problem
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME")


async def test_a_function_runs_beside_the_loop_with_its_context() -> None:
    NAME.set("ann")
    greeting, thread = await run_in_thread(lambda word: (f"{word} {NAME.get()}", threading.current_thread()), "hi")
    assert greeting == "hi ann"
    assert thread is not threading.main_thread()


@pytest.mark.parametrize(
    ("raised", "seen"), [(ValueError, ValueError), (SystemExit, RuntimeError), (StopIteration, RuntimeError)]
)
async def test_what_it_raises_is_raised_here_and_never_ends_the_process(
    raised: type[BaseException], seen: type[Exception]
) -> None:
    def broken() -> None:
        raise raised("wrong")

    with pytest.raises(seen):
        await run_in_thread(broken)


class Rude(BaseException):
    """An error that `except Exception` does not catch."""


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ValueError, "wrong"),
        (SystemExit, "SystemExit"),
        (KeyboardInterrupt, "KeyboardInterrupt"),
        (Rude, "Rude"),
        (asyncio.CancelledError, "CancelledError"),
    ],
)
async def test_a_user_function_never_ends_the_process(kind: str, raised: type[BaseException], words: str) -> None:
    async def asynchronous(word: str) -> None:
        raise raised("wrong")

    def plain(word: str) -> None:
        raise raised("wrong")

    with pytest.raises(ValueError if raised is ValueError else RuntimeError, match=words):
        await call_user(asynchronous if kind == "async" else plain, "hi")


async def test_async_functions_run_in_the_loop_and_plain_ones_in_a_thread() -> None:
    async def later(word: str) -> str:
        return f"{word} {threading.current_thread() is threading.main_thread()}"

    assert await call_user(later, "hi") == "hi True"
    assert await call_user(lambda word: later(word), "hi") == "hi True"
    assert await call_user(lambda: threading.current_thread() is threading.main_thread()) is False


async def test_a_question_that_is_given_up_is_cancelled() -> None:
    begun = asyncio.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    question = asyncio.create_task(call_user(never))
    await begun.wait()
    question.cancel()
    await asyncio.wait([question])
    assert question.cancelled()


async def test_threads_are_counted_also_those_that_were_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usercode, "_free", threading.Semaphore(1))
    hang = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_in_thread(hang.wait, 10)
    with pytest.raises(RuntimeError, match="threads are busy"):
        await run_in_thread(int)
    hang.set()
    async with asyncio.timeout(HANG_SECONDS):
        while not usercode._free.acquire(blocking=False):
            await asyncio.sleep(0.005)
    usercode._free.release()
    assert await run_in_thread(int) == 0


HANGING = """
import asyncio, time
from phoneagent import CallerSpoke, tool
from phoneagent.calls.hooks import Hooks

@tool(timeout=0.1)
def stuck() -> str:
    time.sleep(60)

async def main() -> None:
    from datetime import UTC, datetime
    from phoneagent import Call
    from phoneagent.calls import hooks
    hooks.HOOK_SECONDS = 0.1
    call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
    print(await stuck.run(call, "{}"))
    registry = Hooks()
    registry.add(CallerSpoke, lambda event: time.sleep(60))
    follower = registry.follow()
    follower.tell(CallerSpoke(call_sid="CA1", at_ms=0))
    await follower.close()

asyncio.run(main())
"""


def test_a_process_ends_although_a_tool_and_a_hook_hang() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "took longer than 0.1 s" in done.stdout


# --- functions that would fail in every call ---


def no_arguments() -> None: ...
def one(call: object) -> None: ...
def one_and_more(call: object, more: int = 1) -> None: ...
def any_arguments(*arguments: object, **named: object) -> None: ...
def in_pieces(call: object) -> Iterator[int]:
    yield 1


async def in_pieces_later(call: object) -> AsyncIterator[int]:
    yield 1


class Written:
    def __call__(self, call: object) -> None: ...


@pytest.mark.parametrize("function", [one, one_and_more, any_arguments, Written(), len, functools.partial(one), dict])
def test_functions_that_can_be_called(function: Callable[..., Any]) -> None:
    assert signature_problem(function, "call") is None


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (no_arguments, "cannot be called (too many positional arguments): let it take (call)"),
        (functools.partial(one, 1), "cannot be called (too many positional arguments): let it take (call)"),
        (Written, "cannot be called (too many positional arguments): let it take (call)"),
        (in_pieces, "is a generator: return the value instead of yielding it"),
        (in_pieces_later, "is a generator: return the value instead of yielding it"),
    ],
)
def test_functions_that_cannot_be_called(function: Callable[..., Any], problem: str) -> None:
    assert signature_problem(function, "call") == problem


def test_arguments_by_name() -> None:
    assert signature_problem(any_arguments, "one", named=["call"]) is None
    assert signature_problem(one, "one", named=["call"]) is not None
