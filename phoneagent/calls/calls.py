"""The calls of one process: their model sessions, opened ahead of the media socket, and the streams they run in."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

from phoneagent.agent.agent import Agent, Answerer, choose_answer
from phoneagent.agent.call import Call
from phoneagent.agent.transcriber import Transcriber
from phoneagent.billing.prices import PRICES, Price
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Floor, Policy, Silence
from phoneagent.bridge.steps import Pending, Resume
from phoneagent.bridge.tracks import TranscribedCall
from phoneagent.calls.hooks import Follower, Hooks
from phoneagent.calls.listening import Listener
from phoneagent.calls.messages import MessageLogs
from phoneagent.calls.next_step import Journal
from phoneagent.calls.opening import EndpointRouter, Opening
from phoneagent.calls.pending import PendingCall
from phoneagent.calls.progress import Keep, Progress
from phoneagent.calls.session import Direction, Session
from phoneagent.calls.streams import Streams, shipped_clip
from phoneagent.calls.transcription import Transcription
from phoneagent.calls.warm import WarmTransfers
from phoneagent.calls.web_calls import DIRECTION as WEB
from phoneagent.calls.web_calls import WebCalls
from phoneagent.errors import ProtocolError
from phoneagent.events import CallStarted, ControlOperation, Event
from phoneagent.model.endpoint import Endpoint
from phoneagent.protocol.carrier import Started
from phoneagent.store.recordings import Recordings
from phoneagent.twilio.parameters import bounded
from phoneagent.twilio.socket import TwilioSocket

if TYPE_CHECKING:
    from phoneagent.calls.outbound import Outbound

log = logging.getLogger("phoneagent.calls.calls")
_T = TypeVar("_T")

MAX_PREPARED = 200
"""How many calls may have a session opened ahead, between webhook and socket; any others open theirs at the socket."""

CHOICE_SECONDS = 2.0
"""How long the webhook waits for a function that may choose a transcriber. Nothing else could begin in that time: the
model session waits for the same choice."""


class Calls:
    """All calls of one process, answered by `answerer`; with a `journal` they can go on in another process.

    Args:
        calls: the live ones by CallSid; kept up to date here.
        emit: takes each event, with the sid of the media stream that it belongs to.
        endpoint_for: returns the endpoint that a call uses in place of a given one.
        silence: the silence handling of agents that do not set their own.
        recordings: where calls are recorded, if they are.
        measure: takes the seconds that a frame took through the process, now and then.
        keep_state: takes the sids of a call and its stream, and the call's state as JSON, for its next stream.
        warm: calls other parties while a caller stays with the agent; None where there is no REST API.
        outbound: the calls that the app makes.
        team: the agents that such a call may be made for, by name.
        keep_unfinished: takes what is being said, about once a second, for the next stream after a crash.
        messages: keeps the messages of each call; None to keep none.
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
        endpoint_for: Callable[[Call, Endpoint], Endpoint] | None = None,
        measure: Callable[[Direction, float], None] | None = None,
        keep_state: Callable[[str, str, str], None] | None = None,
        keep_unfinished: Keep | None = None,
        silence: Silence | None = None,
        recordings: Recordings | None = None,
        warm: WarmTransfers | None = None,
        max_call_seconds: float,
        max_call_cost: Decimal | None = None,
        prices: Mapping[str, Price] = PRICES,
        messages: MessageLogs | None = None,
        outbound: Outbound | None = None,
        team: Mapping[str, Agent] | None = None,
    ) -> None:
        self._answerer = answerer
        self._team = team or {}
        self._outbound = outbound
        self._router = EndpointRouter(endpoints, endpoint_for)
        self._live = calls
        self._hooks = hooks
        self._emit = emit
        self._journal = journal
        self._sessions: dict[str, Session] = {}
        self._transcriptions: dict[str, Transcription] = {}
        self.pending: dict[str, PendingCall] = {}
        """Calls that were answered and have no media socket yet, by CallSid."""
        self._arrivals: dict[str, int] = {}
        self._arrived = itertools.count(1)
        self._followers: dict[str, Follower] = {}
        self._unfinished = 0
        self._told: set[asyncio.Task[None]] = set()
        self._leaving: str | None = None
        clip, several = shipped_clip("apology"), len(endpoints) > 1
        policy = Policy(apology=clip, renews=True, elsewhere=several, prices=prices)
        self._policy = replace(policy, max_call_seconds=max_call_seconds, max_call_cost=max_call_cost)
        self._streams = Streams(
            self._policy,
            silence or Silence(),
            followers=self._followers,
            emit=emit,
            hooks=hooks,
            journal=journal,
            measure=measure,
            keep_state=keep_state,
            progress=None if keep_unfinished is None else Progress(keep_unfinished),
            recordings=recordings,
            warm=warm,
            outbound=outbound,
            messages=messages,
        )

    # --- a call that begins, or goes on ---

    def expect(self, call: Call, *, prepare: bool, elsewhere: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Expect the media socket of a call that was answered; with `prepare`, open its model session in the meantime.

        `elsewhere` tells whether the socket has come to another process.
        """
        known = self.pending.get(call.sid)
        if known is not None:  # Twilio asks again
            known.expect_again(elsewhere)
            return
        ahead = prepare and call.sid not in self._live and len(self.pending) < MAX_PREPARED
        opening = Opening(call, self._answerer_of(call), self._router) if ahead else None
        self.pending[call.sid] = PendingCall(call, opening, self.pending, elsewhere)

    def _answerer_of(self, call: Call) -> Answerer:
        """Return the agent that a call was made for, else the one that answers every call."""
        name = None if self._outbound is None else self._outbound.agent_of(call)
        return self._answerer if name is None else self._team.get(name, self._answerer)

    async def transcriber(self, call: Call) -> Transcriber | None:
        """Return the transcriber of an expected call; None if an agent answers it, or the answerer is not known."""
        if not callable(self._answerer):
            return self._answerer if isinstance(self._answerer, Transcriber) else None
        if (pending := self.pending.get(call.sid)) is None:
            return None
        choice = choose_answer(self._answerer_of(call), call) if pending.opening is None else pending.opening.chosen()
        try:
            async with asyncio.timeout(CHOICE_SECONDS):
                answer = pending.answer = await choice
        except TimeoutError:
            return None
        except Exception:  # a user's function: the media socket calls it again, and its caller hears the apology
            log.exception("the choice of the agent failed", extra={"call_sid": call.sid})
            return None
        return answer if isinstance(answer, Transcriber) else None

    @property
    def unfinished(self) -> int:
        """The number of unfinished media sockets, and of events that hooks are still told between them.

        A media socket is unfinished from its handshake until its call's tools and hooks are done.
        """
        return self._unfinished + len(self._told)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a media socket as unfinished, from its handshake until nothing of its call is left."""
        self._unfinished += 1
        try:
            yield
        finally:
            self._unfinished -= 1

    @property
    def coming(self) -> int:
        """The number of media sockets that are still to come."""
        return sum(not each.arrived for each in self.pending.values())

    @property
    def carried(self) -> int:
        """The number of calls whose media socket is here, or still to come."""
        return self.coming + len(self._arrivals)

    @property
    def answered(self) -> dict[str, Call]:
        """The calls that are live, or wait for their media socket, by CallSid."""
        return {sid: each.call for sid, each in self.pending.items()} | self._live

    def look(self, call_sid: str) -> tuple[Floor, Agent] | None:
        """Return which side of a live call has the floor, and the agent that has the call; None if it is not live."""
        session = self._sessions.get(call_sid)
        return None if session is None else (session.bridge.floor(), session.agent)

    def leaving(self, call_sid: str) -> bool:
        """Tell whether a live call is over here, or goes on elsewhere, and only its media stream is still closing."""
        session = self._sessions.get(call_sid)
        return session is not None and session.over

    def max_seconds(self, call: Call) -> float:
        """Return how long a call may last."""
        return self._streams.max_seconds(call)

    def controlled(self, call_sid: str, operation: ControlOperation) -> None:
        """Report that a live call is acted on from outside."""
        if (session := self._sessions.get(call_sid)) is not None:
            session.controlled(operation)

    def listen(self, call_sid: str) -> AbstractContextManager[Listener] | None:
        """Return the context in which one more listener hears a live call; None if it is not live."""
        session = self._sessions.get(call_sid)
        return None if session is None else session.listen()

    async def forget(self, call_sid: str) -> None:
        """Stop waiting for the media socket of a call."""
        if (pending := self.pending.get(call_sid)) is not None:
            await pending.close()

    async def close(self) -> None:
        """Stop waiting for all media sockets, and end the calls of web pages."""
        await asyncio.gather(*(pending.close() for pending in self.pending.values()))
        await self.web_calls.close()

    def arrived(self, call_sid: str) -> int:
        """Note that a media socket of a call has arrived; return its number."""
        if (pending := self.pending.get(call_sid)) is not None:
            pending.arrive()
        self._arrivals[call_sid] = number = next(self._arrived)
        return number

    def is_newest(self, call_sid: str, number: int) -> bool:
        """Tell whether no other media socket of the call has arrived since."""
        return self._arrivals.get(call_sid) == number

    def left(self, call_sid: str, number: int) -> None:
        """Note that the media socket with that number is done."""
        if self.is_newest(call_sid, number):
            del self._arrivals[call_sid]

    async def run(self, call: Call, start: Started, socket: TwilioSocket, past: Past | None) -> None:
        """Run a call in its media stream; returns when the stream and its work have ended. Run it inside `counted`.

        If the session was opened ahead, that earlier `Call` is the one used. With a `past`, the call goes on.
        """
        opening: Opening | None = None
        chosen: Agent | Transcriber | None = None
        if (pending := self.pending.get(call.sid)) is not None:
            pending.claim()
            pending.call.context = pending.call.context or call.context  # the database may not have answered before
            pending.call.started_at = min(pending.call.started_at, call.started_at)  # an earlier stream began it
            pending.call.parameters = bounded({**pending.call.parameters, **call.parameters}, call.sid)
            call, opening, chosen = pending.call, pending.opening, pending.answer
        opening = opening or Opening(call, chosen or self._answerer_of(call), self._router)
        try:
            answer = await opening.chosen()
            if isinstance(answer, Transcriber) and not start.both_tracks:
                raise ProtocolError(
                    "a transcribed call needs a stream with both tracks: return the Transcriber sooner "
                    f"(within {CHOICE_SECONDS:g} s)"
                )
            if (older := self._sessions.get(call.sid)) is not None:  # it arrived while this one was looked up
                older.hand_over_now("a newer media stream took over")
            async with self._following(call.sid) as follower:
                if isinstance(answer, Transcriber):
                    await opening.discard()
                    await self._transcribe(call, answer, start, socket, past)
                else:
                    await self._run(call, answer, opening, start, socket, past, follower)
        except BaseException:  # the process ends, the stream is unusable, or a bug
            await opening.discard()
            raise

    @asynccontextmanager
    async def _following(self, call_sid: str) -> AsyncIterator[Follower]:
        """Call the hooks with the events of a media stream, and let them finish in the end."""
        follower = self._followers[call_sid] = self._hooks.follow(after=self._followers.get(call_sid))
        try:
            yield follower
        finally:
            try:
                await follower.close()
            finally:
                if self._followers.get(call_sid) is follower:  # and not a newer one
                    del self._followers[call_sid]

    async def _transcribe(
        self, call: Call, transcriber: Transcriber, start: Started, socket: TwilioSocket, past: Past | None
    ) -> None:
        """Transcribe a call between two people in its media stream."""
        emit = self._streams.teller(call, start.stream_sid)
        session, route = transcriber.session(), self._router.route()
        transcribed = TranscribedCall(
            call.sid,
            session["audio"]["input"]["turn_detection"],
            self._policy.prices,
            cost=None if past is None else past.cost,
            max_cost=self._policy.max_call_cost,
        )
        running = Transcription(
            call.sid,
            transcribed,
            socket,
            lambda: self._router.open_first(call, transcriber.hearing, session, route),
            emit,
            max_seconds=self.max_seconds(call),
            model_events=self._hooks.wants_model_events,
        )
        emit(_started(call, start, resumed=past is not None))
        self._live[call.sid], self._transcriptions[call.sid] = call, running
        try:
            await running.run()
        finally:
            if self._transcriptions.get(call.sid) is running:  # and not a newer one
                del self._live[call.sid], self._transcriptions[call.sid]

    async def _run(
        self,
        call: Call,
        agent: Agent,
        opening: Opening,
        start: Started,
        socket: TwilioSocket,
        past: Past | None,
        follower: Follower,
    ) -> None:
        stream = self._streams.make(call, agent, opening, start, socket, past)
        session = stream.session
        stream.emit(_started(call, start, resumed=past is not None))
        self._live[call.sid], self._sessions[call.sid] = call, session
        if self._leaving is not None:
            session.hand_over(self._leaving)
        try:
            await stream.run(start, resumed=past is not None)
        finally:
            if self._sessions.get(call.sid) is session:  # and not a newer one
                del self._live[call.sid], self._sessions[call.sid]
            await stream.close()
            await follower.close()  # before the tools, for which the hooks of a next stream do not wait
            await session.finish_tools()

    def tell(self, event: Event, stream_sid: str) -> None:
        """Report an event of a call between its media streams, or after the last one."""
        self._emit(event, stream_sid)
        follower = self._hooks.follow(after=self._followers.get(event.call_sid))
        follower.tell(event)
        task = asyncio.create_task(follower.close())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    @functools.cached_property
    def web_calls(self) -> WebCalls:
        """The calls of web pages, which have no media stream."""
        return WebCalls(
            self._answerer,
            lambda: self._router.route()[0],
            calls=self._live,
            hooks=self._hooks,
            emit=self._emit,
            journal=self._journal,
            policy=self._policy,
        )

    # --- a call that ends, or goes on elsewhere ---

    def supersede(self, call_sid: str) -> Pending | None:
        """End the older media stream of a call for a newer one, and return what was open in it.

        Raises:
            ProtocolError: there is no journal with which the call could go on.
        """
        if (transcription := self._transcriptions.get(call_sid)) is not None:
            transcription.end("line", "a newer media stream took over")
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
        if (transcription := self._transcriptions.get(call_sid)) is not None:
            transcription.end("caller", reason)
            return True
        session = self._sessions.get(call_sid)
        if session is not None:
            session.end("caller", reason)
        return session is not None

    def hand_over(self, reason: str) -> None:
        """Move every call to another process, at the first moment when its caller does not notice."""
        self._leaving = reason
        for session in list(self._sessions.values()):
            session.hand_over(reason)
        for call in list(self._live.values()):
            if call.direction == WEB:  # a page's call cannot go on elsewhere
                call.hang_up()

    def hand_over_now(self, call_sid: str, reason: str) -> None:
        """Move a call to another process at once; a transcript ends, because no other process has its stream."""
        if (transcription := self._transcriptions.get(call_sid)) is not None:
            transcription.end("line", reason)
        if (session := self._sessions.get(call_sid)) is not None:
            try:
                session.hand_over_now(reason)
            except Exception:  # the other calls must be handed over as well
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
