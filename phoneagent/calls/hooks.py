"""Hooks: the user's functions that get a call's events, without delaying the call."""

from __future__ import annotations

import asyncio
import logging
import types
import typing
from collections.abc import Callable
from typing import Any

from phoneagent import events
from phoneagent.errors import DefinitionError
from phoneagent.events import Event, ModelEvent
from phoneagent.usercode import call_user, signature_problem

log = logging.getLogger("phoneagent.calls.hooks")

HOOK_SECONDS = 10.0
"""How long a hook may take for one event."""

MAX_WAITING = 2_000
"""How many events of one call may wait for slow hooks. Further events are dropped, and that is logged once."""

_KINDS = frozenset(typing.get_args(events.Event))


def kinds_of(kinds: Any) -> tuple[type, ...]:
    """Return the classes of events that `kinds` names.

    Raises:
        DefinitionError: one of them is not an event.
    """
    joined = typing.get_origin(kinds) in (types.UnionType, typing.Union)
    members = typing.get_args(kinds) if joined else (kinds,)
    for kind in members:
        if not isinstance(kind, type) or kind not in _KINDS:
            named = getattr(kind, "__name__", repr(kind))
            raise DefinitionError(f"app.on({named}) names no event: write a class of phoneagent.events, like CallEnded")
    return members


class Hooks:
    """The hooks of an app."""

    def __init__(self) -> None:
        self._hooks: list[tuple[tuple[type, ...], Callable[[Any], Any]]] = []

    def add(self, kinds: Any, hook: Callable[[Any], Any]) -> None:
        """Call `hook` with every event of these kinds: a class of `phoneagent.events`, or a union of such classes.

        Raises:
            DefinitionError: one of `kinds` is not an event, or the hook cannot be called with one.
        """
        if not callable(hook):
            raise DefinitionError(
                f"app.on(…) decorates {hook!r}, which is not a function: decorate a function that takes the event"
            )
        if (problem := signature_problem(hook, "event")) is not None:
            raise DefinitionError(f"the hook {getattr(hook, '__name__', hook)!r} {problem}")
        self._hooks.append((kinds_of(kinds), hook))

    @property
    def wants_model_events(self) -> bool:
        """Whether a hook wants the model's events as received."""
        return any(ModelEvent in kinds for kinds, _ in self._hooks)

    def follow(self, after: Follower | None = None) -> Follower:
        """Start calling the hooks for a media stream. The events of the call's previous stream, `after`, come first."""
        return Follower(self._hooks, after)


class Follower:
    """Calls the hooks with the events of one media stream, in order, one at a time. `tell` never blocks."""

    def __init__(
        self, hooks: list[tuple[tuple[type, ...], Callable[[Any], Any]]], after: Follower | None = None
    ) -> None:
        self._hooks = hooks
        self._before: asyncio.Task[None] | None = after._task if after is not None else None
        self._lost = 0
        self._closed = False
        self._rest: Follower | None = None
        """The follower of events that come after `close`. The hooks of the call's next stream do not wait for it."""
        self._task: asyncio.Task[None] | None = None
        if hooks:
            self._waiting: asyncio.Queue[Event | None] = asyncio.Queue()
            self._task = asyncio.create_task(self._run())

    def tell(self, event: Event) -> None:
        """Queue an event for the hooks, or drop it if too many wait. After `close`, another `close` must follow."""
        if self._task is None:
            return
        if self._closed:
            self._rest = self._rest or Follower(self._hooks, self)
            self._rest.tell(event)
            return
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put_nowait(event)
            return
        if self._lost == 0:
            log.error(
                "hooks are too slow, so events are being dropped: %d are already waiting",
                MAX_WAITING,
                extra={"call_sid": event.call_sid},
            )
        self._lost += 1

    async def close(self) -> None:
        """Let the hooks finish with the events so far, for up to three times HOOK_SECONDS in all."""
        if self._task is None:
            return
        if not self._closed:
            self._closed = True
            self._waiting.put_nowait(None)
        if not self._task.done():
            try:
                async with asyncio.timeout(3 * HOOK_SECONDS):
                    await self._task
            except TimeoutError:
                log.error("hooks did not finish within %g s after the call", 3 * HOOK_SECONDS)
        if self._rest is not None:
            await self._rest.close()

    async def _run(self) -> None:
        if self._before is not None:
            await asyncio.wait([self._before])
            self._before = None  # else every stream of a call would keep all the streams before it alive
        while (event := await self._waiting.get()) is not None:
            for kinds, hook in self._hooks:
                if isinstance(event, kinds):
                    await self._call(hook, event)

    async def _call(self, hook: Callable[[Any], Any], event: Event) -> None:
        name = getattr(hook, "__name__", repr(hook))
        try:
            async with asyncio.timeout(HOOK_SECONDS) as limit:
                await call_user(hook, event)
        except Exception as error:  # a user's function: its failure is logged and changes nothing
            if isinstance(error, TimeoutError) and limit.expired():  # else the hook raised it
                log.error("hook %s took longer than %g s", name, HOOK_SECONDS, extra={"call_sid": event.call_sid})
            else:
                log.exception("hook %s failed", name, extra={"call_sid": event.call_sid})
