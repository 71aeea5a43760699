"""The calls of one process: their model sessions, opened ahead of the media socket, and the streams they run in."""

from __future__ import annotations

import base64
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from importlib import resources
from typing import TypeVar

from phoneagent.agent.agent import Agent, Answerer
from phoneagent.agent.call import Call
from phoneagent.billing.prices import PRICES, Price
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Policy
from phoneagent.calls.hooks import Follower, Hooks
from phoneagent.calls.opening import EndpointRouter, Opening
from phoneagent.calls.pending import PendingCall
from phoneagent.calls.session import Direction, Session
from phoneagent.calls.state import CallState
from phoneagent.errors import ProtocolError
from phoneagent.events import CallStarted, Event, Journal, Pending, Resume
from phoneagent.model.connection import ModelSession
from phoneagent.model.endpoint import Endpoint
from phoneagent.protocol.carrier import Started
from phoneagent.twilio.parameters import bounded
from phoneagent.twilio.socket import TwilioSocket

log = logging.getLogger("phoneagent.calls.calls")
_T = TypeVar("_T")

MAX_PREPARED = 200
"""Callers that may be between webhook and socket with a session opened ahead; for more it is opened at the socket."""


class Calls:
    """All calls of one process, answered by `answerer`; with a `journal` they can go on in another process.

    Args:
        calls: the live ones by CallSid; kept up to date here.
        emit: takes each event, with the sid of the media stream that it belongs to.
        measure: takes the seconds that a frame took through the process, now and then.
        keep_state: takes the sids of a call and its stream, and the call's state as JSON, for its next stream.
    """

    def __init__(
        self,
        answerer: Answerer,
        endpoints: Sequence[Endpoint],
        *,
        calls: dict[str, Call],
        hooks: Hooks,
        emit: Callable[[Event, str], None],
        journal: Journal | None,
        measure: Callable[[Direction, float], None] | None = None,
        keep_state: Callable[[str, str, str], None] | None = None,
        max_call_seconds: float,
        max_call_cost: Decimal | None = None,
        prices: Mapping[str, Price] = PRICES,
    ) -> None:
        self._answerer = answerer
        self._router = EndpointRouter(endpoints)
        self._live = calls
        self._hooks = hooks
        self._emit = emit
        self._journal = journal
        self._measure = measure
        self._keep_state = keep_state
        self._sessions: dict[str, Session] = {}
        self.pending: dict[str, PendingCall] = {}
        """Calls that were answered and have no media socket yet, by CallSid."""
        self._arrivals: dict[str, int] = {}
        self._arrived = itertools.count(1)
        self._followers: dict[str, Follower] = {}
        self._unfinished = 0
        self._leaving: str | None = None
        apology = resources.files(__package__).joinpath("apology.ulaw").read_bytes()
        self._policy = Policy(
            apology=base64.b64encode(apology).decode(),
            max_call_seconds=max_call_seconds,
            renews=True,
            elsewhere=len(endpoints) > 1,
            max_call_cost=max_call_cost,
            prices=prices,
        )

    # --- a call that begins, or goes on ---

    def expect(self, call: Call, *, prepare: bool, elsewhere: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Expect the media socket of a call that was answered; with `prepare`, open its model session meanwhile.

        `elsewhere` tells whether that has come to another process.
        """
        known = self.pending.get(call.sid)
        if known is not None:  # Twilio asks once more
            known.expect_again(elsewhere)
            return
        ahead = prepare and call.sid not in self._live and len(self.pending) < MAX_PREPARED
        opening = Opening(call, self._answerer, self._router) if ahead else None
        self.pending[call.sid] = PendingCall(call, opening, self.pending, elsewhere)

    @property
    def unfinished(self) -> int:
        """Media streams that are not finished: their handshake, the call itself, its tools, or its hooks."""
        return self._unfinished

    @contextmanager
    def handshake(self) -> Iterator[None]:
        """Count a media socket as unfinished: a drain waits for its handshake too."""
        self._unfinished += 1
        try:
            yield
        finally:
            self._unfinished -= 1

    @property
    def coming(self) -> int:
        """Media sockets that are still to come."""
        return sum(not each.arrived for each in self.pending.values())

    @property
    def carried(self) -> int:
        """Calls whose media socket is here, or still to come."""
        return self.coming + len(self._arrivals)

    @property
    def answered(self) -> dict[str, Call]:
        """The calls that are live, or wait for their media socket, by CallSid."""
        return {sid: each.call for sid, each in self.pending.items()} | self._live

    async def forget(self, call_sid: str) -> None:
        """Stop waiting for the media socket of a call."""
        if (pending := self.pending.get(call_sid)) is not None:
            await pending.close()

    async def close(self) -> None:
        """Stop waiting for all media sockets."""
        for pending in list(self.pending.values()):
            await pending.close()

    def arrived(self, call_sid: str) -> int:
        """Note that a media socket of a call has come; return its number."""
        if (pending := self.pending.get(call_sid)) is not None:
            pending.arrive()
        self._arrivals[call_sid] = number = next(self._arrived)
        return number

    def is_newest(self, call_sid: str, number: int) -> bool:
        """Tell whether no other media socket of the call has come since."""
        return self._arrivals.get(call_sid) == number

    def left(self, call_sid: str, number: int) -> None:
        """Note that the media socket with that number is done."""
        if self.is_newest(call_sid, number):
            del self._arrivals[call_sid]

    async def run(self, call: Call, start: Started, socket: TwilioSocket, past: Past | None) -> None:
        """Run a call in its media stream; returns when nothing of the stream is left.

        If the session was opened ahead, that earlier `Call` is the one used. With a `past`, the call goes on.
        """
        opening: Opening | None = None
        if (pending := self.pending.get(call.sid)) is not None:
            pending.claim()
            pending.call.parameters = bounded({**pending.call.parameters, **call.parameters}, call.sid)
            call, opening = pending.call, pending.opening
        opening = opening or Opening(call, self._answerer, self._router)
        self._unfinished += 1
        try:
            agent = await opening.chosen()
        except BaseException:  # the process ends
            self._unfinished -= 1
            await opening.discard()
            raise
        await self._run(call, agent, opening, start, socket, past)

    async def _run(
        self,
        call: Call,
        agent: Agent,
        opening: Opening,
        start: Started,
        socket: TwilioSocket,
        past: Past | None,
    ) -> None:
        if (older := self._sessions.get(call.sid)) is not None:  # it came while this one was looked up
            older.hand_over_now("a newer media stream took over")
        follower = self._followers[call.sid] = self._hooks.follow(after=self._followers.get(call.sid))
        emit = self._teller(call, start.stream_sid)
        session = Session(
            call=call,
            agent=agent,
            bridge=Bridge(self._policy_of(agent), call_sid=call.sid, past=past),
            caller=socket,
            open_model=self._opener(call, opening),
            emit=emit,
            model_events=self._hooks.wants_model_events,
            journal=self._journal,
            measure=self._measure,
        )
        emit(_started(call, start, resumed=past is not None))
        self._live[call.sid], self._sessions[call.sid] = call, session
        if self._leaving is not None:
            session.hand_over(self._leaving)
        try:
            await session.run(start)
        finally:
            if self._sessions.get(call.sid) is session:  # and not a newer one
                del self._live[call.sid], self._sessions[call.sid]
            try:
                await opening.discard()
                await follower.close()
                await session.finish_tools()
            finally:
                if self._followers.get(call.sid) is follower:
                    del self._followers[call.sid]
                self._unfinished -= 1

    def _teller(self, call: Call, stream_sid: str) -> Callable[[Event], None]:
        """Return the function that takes the events of a media stream."""
        keep = self._keep_state
        state = None if keep is None else CallState(call, partial(keep, call.sid, stream_sid))

        def emit(event: Event) -> None:
            self._emit(event, stream_sid)
            if state is not None:
                state.look(event)
            self._followers[call.sid].tell(event)  # a tool that outlives its stream is reported in the next one

        return emit

    def _opener(self, call: Call, opening: Opening) -> Callable[[bool], Awaitable[ModelSession]]:
        """Return the function that opens a media stream's model sessions; the first one is being opened already."""
        sessions = itertools.count()

        async def open_model(elsewhere: bool) -> ModelSession:
            if next(sessions):  # the one before is gone, did not come, or has its time
                opening.begin_again(elsewhere=elsewhere)
            return await opening.latest()

        return open_model

    def _policy_of(self, agent: Agent) -> Policy:
        """Return the bridge's policy for an agent; `extra` may have changed how turns are found."""
        detection = agent.turn_detection
        return replace(
            self._policy,
            greeting=agent.greeting,
            interruption=agent.interruption,
            server_answers=detection is not None and bool(detection.get("create_response")),
            manual_turns=detection is None,
        )

    # --- a call that ends, or goes on elsewhere ---

    def supersede(self, call_sid: str) -> Pending | None:
        """End the older media stream of a call for a newer one, and return what was open in it.

        Raises:
            ProtocolError: there is no journal with which the call could go on.
        """
        older = self._sessions.get(call_sid)
        if older is None:
            return None
        if self._journal is None:
            raise ProtocolError("the call has a media socket already")
        step = older.hand_over_now("a newer media stream took over")
        if step is None:
            return None
        return step.pending if isinstance(step, Resume) else "unknown"

    def end(self, call_sid: str, reason: str) -> bool:
        """End a call that Twilio reports as over; return whether it was live here."""
        session = self._sessions.get(call_sid)
        if session is not None:
            session.end("caller", reason)
        return session is not None

    def hand_over(self, reason: str) -> None:
        """Let every call go on in another process, at the first moment at which its caller does not notice."""
        self._leaving = reason
        for session in list(self._sessions.values()):
            session.hand_over(reason)

    def hand_over_now(self, call_sid: str, reason: str) -> None:
        """Let a call go on in another process at once."""
        if (session := self._sessions.get(call_sid)) is not None:
            try:
                session.hand_over_now(reason)
            except Exception:  # the other calls are to be handed over as well
                log.exception("the call could not be handed over", extra={"call_sid": call_sid})


def _started(call: Call, start: Started, *, resumed: bool) -> CallStarted:
    return CallStarted(
        call_sid=call.sid,
        stream_sid=start.stream_sid,
        caller=call.caller,
        called=call.called,
        direction=call.direction,
        resumed=resumed,
    )
