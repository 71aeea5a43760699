"""The opening of a call: the choice of its agent, and its model session, from the first endpoint that gives one."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from phoneagent.agent.agent import Agent, Answerer, choose_answer
from phoneagent.agent.call import Call
from phoneagent.agent.handoffs import INSTRUCTIONS_SECONDS
from phoneagent.agent.options import Hearing
from phoneagent.agent.transcriber import Transcriber
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable
from phoneagent.model.connection import ModelSession, open_session
from phoneagent.model.endpoint import Endpoint

log = logging.getLogger("phoneagent.calls.opening")
_T = TypeVar("_T")

FAILOVER_SECONDS = 3.0
"""How long an endpoint may take to give a session if another one could be tried. One that neither announces nor
acknowledges the session takes 2.5 s and its handshake; see `negotiation`."""

FAILED_SECONDS = 60.0
"""How long an endpoint that gave no session is tried last."""

BRIEF_SECONDS = 5.0
"""A session that is lost within this time counts as not given."""

_NO_AGENT = Agent(instructions="")


class EndpointRouter:
    """The endpoints of a process, and which of them have failed lately: what one call finds out, all calls know.

    An endpoint that has failed is tried last. After FAILED_SECONDS one call tries it, and the others follow if that
    call gets a session.

    `endpoint_for` may return another endpoint for a call, in place of each.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], endpoint_for: Callable[[Call, Endpoint], Endpoint] | None = None
    ) -> None:
        self._endpoints = endpoints
        self._endpoint_for = endpoint_for
        self._failed_at: dict[int, float] = {}  # by identity

    def route(self) -> deque[Endpoint]:
        """Return the endpoints in the order in which a call prefers them."""
        return deque(self._in_order(self._endpoints))

    def failed(self, endpoint: Endpoint) -> None:
        """Note that an endpoint gave no session, or an unusable one."""
        self._failed_at[id(endpoint)] = time.monotonic()

    async def open_first(
        self, call: Call, hearing: Hearing, session: Mapping[str, Any], route: deque[Endpoint]
    ) -> ModelSession:
        """Open a session at the first endpoint that gives one; that endpoint moves to the front of `route`.

        The session may be one that only transcribes. `hearing` has the recognizers to use.

        Raises:
            EndpointError: no endpoint gives one; EndpointUnreachable if one of them may do so later.
        """
        failed: EndpointError | None = None
        in_order = self._in_order(route)
        for tried in in_order:
            endpoint = tried if self._endpoint_for is None else self._endpoint_for(call, tried)
            is_own = endpoint is not tried  # what happens there says nothing to other calls
            if session["type"] == "transcription":
                endpoint = endpoint.for_transcription()
            last = tried is in_order[-1]
            if (models := hearing.transcription_models) is not None:
                endpoint = replace(endpoint, transcription_models=models)
            if id(tried) in self._failed_at:
                self.failed(tried)  # other calls try it last until it works again
            try:
                opened = await open_session(endpoint, session, call, within=None if last else FAILOVER_SECONDS)
            except EndpointError as error:
                if not is_own:
                    self.failed(tried)
                if len(route) > 1:
                    log.error("an endpoint did not open a session: %s", error, extra={"call_sid": call.sid})
                if not isinstance(failed, EndpointUnreachable):
                    failed = error
            else:
                self._failed_at.pop(id(tried), None)
                while route[0] is not tried:
                    route.rotate(-1)
                return opened
        assert failed is not None
        raise failed

    def _in_order(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        lately = time.monotonic() - FAILED_SECONDS
        return sorted(endpoints, key=lambda each: self._failed_at.get(id(each), -math.inf) > lately)


class Opening:
    """The agent of a call while it is being chosen, and the call's model session while it is being opened.

    Both begin at once. The agent's session configuration stays the same for the media stream.
    """

    def __init__(self, call: Call, answerer: Answerer, router: EndpointRouter) -> None:
        self._call = call
        self._router = router
        self._route = router.route()
        self._session: Mapping[str, Any] | None = None
        self._opened_at = -math.inf
        until = asyncio.get_running_loop().time() + INSTRUCTIONS_SECONDS
        choice = self._ask(partial(choose_answer, answerer, call), "the choice of the agent", until)
        self._agent = asyncio.create_task(choice)
        self._model = asyncio.create_task(self._open(until))

    def begin_again(self, *, elsewhere: bool) -> None:
        """Open another model session, with `elsewhere` at another endpoint if possible."""
        now = asyncio.get_running_loop().time()
        if now - self._opened_at < BRIEF_SECONDS:
            self._router.failed(self._route[0])
        if elsewhere:
            self._route.rotate(-1)
        self._model = asyncio.create_task(self._open(now + INSTRUCTIONS_SECONDS))

    async def chosen(self) -> Agent | Transcriber:
        """Wait for the answerer. If the choice failed, the opening fails too, and the caller hears the apology."""
        await asyncio.wait([self._agent])
        failed = self._agent.cancelled() or self._agent.exception() is not None
        return _NO_AGENT if failed else self._agent.result()

    async def latest(self) -> ModelSession:
        """Return the model session that was opened last.

        Raises:
            EndpointError: the session was not opened, for whatever reason.
        """
        return await self._model

    async def discard(self) -> None:
        """Cancel unfinished work, and close the model session if it was opened."""
        tasks = (self._model, self._agent)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, ModelSession):
                await result.close()

    async def _open(self, until: float) -> ModelSession:
        """Open the call's model session. Every failure is an EndpointError here too."""
        agent = await self._agent
        if isinstance(agent, Transcriber):
            raise EndpointRefused("a call that is transcribed has no agent's session")
        try:
            if self._session is None:
                asked = partial(agent.instructions_for, self._call)
                self._session = agent.session(await self._ask(asked, "the agent's instructions", until))
            self._opened_at = -math.inf
            opened = await self._router.open_first(self._call, agent.hearing, self._session, self._route)
            self._opened_at = asyncio.get_running_loop().time()
            return opened
        except EndpointError:
            raise
        except Exception as error:  # unforeseen: a proxy set in the environment, a session that is not JSON
            log.exception("the model session could not be opened", extra={"call_sid": self._call.sid})
            raise EndpointRefused(f"the model session could not be opened: {type(error).__name__}") from error

    async def _ask(self, question: Callable[[], Awaitable[_T]], what: str, until: float) -> _T:
        """Wait for a user function. Every failure becomes an EndpointError, so that the caller hears the apology."""
        try:
            async with asyncio.timeout_at(until) as limit:
                return await question()
        except Exception as error:  # a user's function
            if limit.expired():
                raise EndpointRefused(f"{what} took longer than {INSTRUCTIONS_SECONDS:g} s") from None
            log.exception("%s failed", what, extra={"call_sid": self._call.sid})
            raise EndpointRefused(f"{what} failed: {type(error).__name__}") from error
