"""Users' functions, called so that they hold nothing back: plain ones in threads.

A function that hangs cannot be stopped. In the event loop's own pool it would take a place for ever, and name look-ups
run there too: a few such functions, and no call reaches its model any more. It would also keep the process from ending.
So each function gets a thread of its own, which ends with the process at the latest.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

MAX_THREADS = 256
"""How many may run at once, those that hang included."""

_T = TypeVar("_T")
_free = threading.Semaphore(MAX_THREADS)


async def call_user(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the user's, an async one here and a plain one in a thread, and return its answer.

    Raises:
        RuntimeError: it tried to end the process, or was cancelled from inside.
        Exception: whatever the function raises.
    """
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        answer = await run_in_thread(function, *args)
        return await answer if inspect.isawaitable(answer) else answer
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
            raise  # nobody waits for the answer
        raise RuntimeError(f"it raised {type(error).__name__}") from error


async def run_in_thread(function: Callable[..., _T], *args: Any) -> _T:
    """Call a plain function in a thread. When the caller is cancelled, the thread is left to itself.

    Raises:
        RuntimeError: `MAX_THREADS` are busy, or the function tried to end the process.
        Exception: whatever the function raises.
    """
    if not _free.acquire(blocking=False):
        raise RuntimeError(f"{MAX_THREADS} threads are busy: functions hang, or take too long")
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
        except Exception as error:  # noqa: BLE001 - it is raised where the function was called
            failure = error
        except BaseException as error:  # noqa: BLE001 - a SystemExit in there must not end all calls
            failure = RuntimeError(f"it raised {type(error).__name__}")
        finally:
            _free.release()
        if isinstance(failure, StopIteration):  # no future takes one
            failure = RuntimeError("it raised StopIteration")
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        threading.Thread(target=work, name=f"phoneagent {getattr(function, '__name__', '')}", daemon=True).start()
    except RuntimeError:  # the system gives no thread
        _free.release()
        raise
    return await done
