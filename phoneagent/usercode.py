"""Calls of users' functions: async ones on the event loop, plain ones in threads that block nothing else.

A function that hangs cannot be stopped. In the event loop's own thread pool it would occupy a thread forever, and DNS
lookups use that pool too: after a few such functions, no call would reach its model. A hanging pool thread would also
keep the process from exiting. So each function gets its own daemon thread, which ends with the process at the latest.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

MAX_THREADS = 256
"""How many threads may run at once, including those that hang."""

_T = TypeVar("_T")
_free = threading.Semaphore(MAX_THREADS)


def signature_problem(function: Callable[..., Any], *positional: str, named: Sequence[str] = ()) -> str | None:
    """Return why a user's function would fail in every call; None if nothing shows that.

    `positional` names the arguments that it gets by position, for the message only; it gets those of `named` by name.
    """
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        return "is a generator: return the value instead of yielding it"
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return None  # written in C, without a signature
    try:
        signature.bind(*positional, **dict.fromkeys(named))
    except TypeError as error:
        wanted = ", ".join((*positional, *named))
        return f"cannot be called ({error}): let it take ({wanted})"
    return None


async def call_user(function: Callable[..., Any], *args: Any) -> Any:
    """Call a user's function, an async one here and a plain one in a thread, and return its result.

    Raises:
        RuntimeError: the function tried to end the process, or canceled itself.
        Exception: any exception that the function raises.
    """
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        result = await run_in_thread(function, *args)
        return await result if inspect.isawaitable(result) else result
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
            raise  # this task was canceled: the result is no longer wanted
        raise RuntimeError(f"it raised {type(error).__name__}") from error


async def run_in_thread(function: Callable[..., _T], *args: Any) -> _T:
    """Call a plain function in a thread. If the caller is canceled, the thread keeps running.

    Raises:
        RuntimeError: `MAX_THREADS` threads are busy, or the function tried to end the process.
        Exception: any exception that the function raises.
    """
    if not _free.acquire(blocking=False):
        raise RuntimeError(f"all {MAX_THREADS} threads are busy: functions hang or take too long")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: _T | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = context.run(function, *args)
        except Exception as error:  # noqa: BLE001 - raised again where the function was called
            failure = error
        except BaseException as error:  # noqa: BLE001 - a SystemExit in one function must not end every call
            failure = RuntimeError(f"it raised {type(error).__name__}")
        finally:
            _free.release()
        if isinstance(failure, StopIteration):  # a future cannot take one
            failure = RuntimeError("it raised StopIteration")
        with suppress(RuntimeError):  # the loop is closed, and so is the caller
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        threading.Thread(target=work, name=f"phoneagent {getattr(function, '__name__', '')}", daemon=True).start()
    except RuntimeError:  # the system has no thread left
        _free.release()
        raise
    return await done
