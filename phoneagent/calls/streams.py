"""The media streams of a process: what each consists of besides its session, and the order in which its parts end."""

from __future__ import annotations

import asyncio
import base64
import functools
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Call
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Policy, Silence, sound_of
from phoneagent.calls.hooks import Follower, Hooks
from phoneagent.calls.journal import RecordedPast
from phoneagent.calls.messages import MessageLogs
from phoneagent.calls.model_sessions import ModelSocket
from phoneagent.calls.next_step import Journal
from phoneagent.calls.opening import Opening
from phoneagent.calls.progress import Progress
from phoneagent.calls.recorder import Recorder
from phoneagent.calls.session import Direction, Session
from phoneagent.calls.state import CallState
from phoneagent.calls.warm import WarmTransfers
from phoneagent.calls.writer import CallerSocket
from phoneagent.events import Event
from phoneagent.model.connection import ModelSession
from phoneagent.protocol.carrier import Started
from phoneagent.store.recordings import Recordings

if TYPE_CHECKING:
    from phoneagent.calls.outbound import Outbound
    from phoneagent.calls.screening import Screening

log = logging.getLogger("phoneagent.calls.streams")


class Stream:
    """One media stream: its session, and what runs with it. `over` is called when the session has ended."""

    def __init__(
        self,
        session: Session,
        emit: Callable[[Event], None],
        opening: Opening,
        recorder: Recorder | None,
        over: Callable[[], None],
    ) -> None:
        self.session = session
        self.emit = emit
        self._opening = opening
        self._recorder = recorder
        self._over = over

    async def run(self, start: Started, *, resumed: bool) -> None:
        """Run the session; returns when it has ended."""
        try:
            await self.session.run(start, resumed=resumed)
        finally:
            self._over()

    async def close(self) -> None:
        """Give up the session that may be opening, and end the recording."""
        await self._opening.discard()
        if self._recorder is None:
            return
        try:
            await self._recorder.close()
        except Exception:  # the call is over, and the rest of it must end as well
            log.exception("a recording was not ended")


class Streams:
    """The maker of media streams.

    Args:
        policy: the bridge's policy, without the parts that an agent decides.
        silence: the silence handling of agents that do not set their own.
        followers: run the hooks of each call, by CallSid.
        emit: takes each event, with the sid of the media stream that it belongs to.
    The rest is as for `Calls`.
    """

    def __init__(
        self,
        policy: Policy,
        silence: Silence,
        *,
        followers: Mapping[str, Follower],
        emit: Callable[[Event, str], None],
        hooks: Hooks,
        journal: Journal | None,
        measure: Callable[[Direction, float], None] | None,
        keep_state: Callable[[str, str, str], None] | None,
        progress: Progress | None,
        recordings: Recordings | None,
        warm: WarmTransfers | None,
        outbound: Outbound | None,
        messages: MessageLogs | None,
    ) -> None:
        self._policy = policy
        self._silence = _audible(silence)
        self._followers = followers
        self._emit = emit
        self._hooks = hooks
        self._journal = journal
        self._measure = measure
        self._keep_state = keep_state
        self._progress = progress
        self._recordings = recordings
        self._warned_of_recording = False
        self._warm = warm
        self._outbound = outbound
        self._messages = messages

    def make(
        self, call: Call, agent: Agent, opening: Opening, start: Started, socket: CallerSocket, past: Past | None
    ) -> Stream:
        """Return the media stream of a call that an agent answers, or continues if there is a `past`."""
        screening = None if self._outbound is None else self._outbound.screen(call, agent.greeting, past)
        bridge = Bridge(self._policy_of(call, agent, screening), call_sid=call.sid, past=past)
        emit = self.teller(call, start.stream_sid, screening)
        recorder = self._recorder(agent, bridge, start, past, emit)
        if recorder is not None:
            emit = _both(emit, recorder.tell)
        caller = socket if screening is None else screening.listen(socket)
        open_model: Callable[[bool], Awaitable[ModelSocket]] = _opener(opening)
        if self._messages is not None:
            now = asyncio.get_running_loop().time
            caller, open_model = self._messages.watch(call.sid, caller, open_model, lambda: bridge.keys.secret(now()))
        session = Session(
            call=call,
            agent=agent,
            bridge=bridge,
            caller=caller,
            open_model=open_model,
            emit=emit,
            model_events=self._hooks.wants_model_events,
            journal=self._journal,
            measure=self._measure,
            recorder=recorder,
            warm=self._warm,
        )
        unfollow = None if self._progress is None else self._progress.follow(call.sid, bridge)

        def over() -> None:
            if screening is not None and self._outbound is not None:
                self._outbound.over(call, screening)
            if unfollow is not None:
                unfollow()
            if self._messages is not None:
                self._messages.end(call.sid)

        return Stream(session, emit, opening, recorder, over)

    def teller(self, call: Call, stream_sid: str, screening: Screening | None = None) -> Callable[[Event], None]:
        """Return the function that takes the events of a media stream."""
        keep = self._keep_state
        state = None if keep is None else CallState(call, functools.partial(keep, call.sid, stream_sid))
        follower = self._followers[call.sid]

        def emit(event: Event) -> None:
            self._emit(event, stream_sid)
            if self._progress is not None:
                self._progress.tell(event)
            if state is not None:
                state.look(event)
            if screening is not None:
                screening.tell(event)
            # A tool that outlives its stream is reported in the call's next one; if that is over too, in its own.
            self._followers.get(call.sid, follower).tell(event)

        return emit

    def _recorder(
        self, agent: Agent, bridge: Bridge, start: Started, past: Past | None, emit: Callable[[Event], None]
    ) -> Recorder | None:
        """Return the recorder of a media stream, if calls can be recorded."""
        if self._recordings is None:
            if agent.recording is not None and not self._warned_of_recording:
                self._warned_of_recording = True
                log.warning("agent %r has a Recording, but RECORD_AUDIO is not set: calls are not recorded", agent.name)
            return None
        return Recorder(
            self._recordings,
            bridge,
            call_sid=start.call_sid,
            stream_sid=start.stream_sid,
            option=agent.recording,
            earlier=past.recording if isinstance(past, RecordedPast) else None,
            emit=emit,
        )

    def max_seconds(self, call: Call) -> float:
        """Return how long a call may last."""
        limit = None if self._outbound is None else self._outbound.time_limit_of(call)
        return self._policy.max_call_seconds if limit is None else min(limit, self._policy.max_call_seconds)

    def _policy_of(self, call: Call, agent: Agent, screening: Screening | None) -> Policy:
        """Return the bridge's policy for an agent. The agent's `turn_detection` includes its `extra`."""
        waits = screening is not None and screening.callee_first
        detection = agent.turn_detection
        silence = agent.silence or self._silence
        return replace(
            self._policy,
            greeting=None if waits else agent.greeting,
            interruption=agent.interruption,
            silence=_audible(silence, manual=detection is None),
            apology=sound_of(silence.farewell) or self._policy.apology,
            server_answers=detection is not None and bool(detection.get("create_response")),
            manual_turns=detection is None,
            keys=agent.keys,
            max_call_seconds=self.max_seconds(call),
        )


def _opener(opening: Opening) -> Callable[[bool], Awaitable[ModelSession]]:
    """Return the function that opens a media stream's model sessions; the first one is being opened already."""
    sessions = itertools.count()

    async def open_model(elsewhere: bool) -> ModelSession:
        if next(sessions):  # the previous one is gone, never came, or has reached its time limit
            opening.begin_again(elsewhere=elsewhere)
        return await opening.latest()

    return open_model


def _both(one: Callable[[Event], None], other: Callable[[Event], None]) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        one(event)
        other(event)

    return emit


@functools.cache
def shipped_clip(name: str) -> str:
    """Return a clip that the package ships; all calls share it."""
    return base64.b64encode(resources.files(__package__).joinpath(f"{name}.ulaw").read_bytes()).decode()


def _audible(silence: Silence, *, manual: bool = False) -> Silence:
    """Return the same settings with the package's sounds wherever they have none.

    If the user's code decides where turns end (`manual`), it also knows whether the caller is there.
    """
    return replace(
        silence,
        filler=silence.filler or shipped_clip("filler"),
        apology=silence.apology or shipped_clip("delay"),
        idle_seconds=0 if manual else silence.idle_seconds,
    )
