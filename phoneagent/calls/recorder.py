"""The recorder of a call in one media stream: when its recording starts, pauses and stops, and its reports.

While it does not record, no frame passes through it. The consent line is said before anything else, and the recording
starts when the playback ledger knows that the line was heard to its end.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from phoneagent.agent.options import Recording
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.prompts import Wanted
from phoneagent.bridge.tape import AgentAudio, Silenced
from phoneagent.calls.take import CLOSE_SECONDS, Take, TapedSocket, TapeWriter, in_thread
from phoneagent.calls.writer import CallerSocket, untapped
from phoneagent.errors import PhoneAgentError, StoreError
from phoneagent.events import Event, RecordingChanged, RecordingStatus, TurnEnded
from phoneagent.store.recordings import Recordings
from phoneagent.store.records import RecordingRecord

log = logging.getLogger("phoneagent.calls.recorder")

MAX_CONSENTS = 3
"""How often the consent line is said, if it is interrupted by `call.interrupt` or a guardrail."""

LOOK_SECONDS = 2.0
"""How long a take waits for the database, which knows whether the call was forgotten."""

SILENT_SECONDS = 5.0
"""How long a database that did not answer is not asked that again: takes that wait for it keep others from writing."""

Put: TypeAlias = Callable[[Callable[[CallerSocket], CallerSocket]], None]
"""A function that puts something between the call and the caller's socket."""


class Recorder:
    """The recorder of one media stream. `option` is the agent's; `earlier` is the recording from the streams before."""

    def __init__(
        self,
        recordings: Recordings,
        bridge: Bridge,
        *,
        call_sid: str,
        stream_sid: str,
        option: Recording | None,
        earlier: RecordingRecord | None,
        emit: Callable[[Event], None],
    ) -> None:
        self._recordings = recordings
        self._bridge = bridge
        self._call_sid = call_sid
        self._stream_sid = stream_sid
        self._option = option or Recording(start=False)
        self._earlier = earlier
        self._emit = emit
        self._put: Put = lambda wrap: None
        self._take: Take | None = None
        self._takes = 0
        self._state: Literal["off", "consent", "on", "paused"] = "off"
        self._asked: Wanted | None = None
        self._heard_item: str | None = None
        self._consents = 0
        begun = earlier is not None and earlier.duration_ms != 0  # it was heard in one of the streams before
        self._has_consent = self._option.consent is None or begun
        self._complete = earlier is None or earlier.complete
        self._where = recordings.folder(call_sid) if earlier is None else earlier.where
        self._ending: set[asyncio.Task[None]] = set()

    # --- start and end ---

    def begin(self, now: float, put: Put) -> None:
        """Start recording, if the media stream is recorded from its beginning."""
        self._put = put
        if self._earlier is None:
            if self._option.start:
                self.start(now)
        elif self._earlier.status != "stopped":
            self._roll(now)
            if self._earlier.status == "paused":
                self.pause(now)

    def start(self, now: float) -> None:
        """Start, once the consent line has been heard; or continue after a pause."""
        if self._state == "paused" and self._take is not None:
            self._take.note(Silenced(now, on=False))
            self._state = "on"
            self._tell("in-progress", now)
        elif self._state == "off" and self._has_consent:
            self._roll(now)
        elif self._state == "off":
            self._state = "consent"
            if self._asked is None:
                self._ask()

    def pause(self, now: float) -> None:
        """Record silence from now on."""
        if self._state == "on" and self._take is not None:
            self._take.note(Silenced(now, on=True))
            self._state = "paused"
            self._tell("paused", now)
        else:
            self._refuse(now)

    def stop(self, now: float) -> None:
        """End the recording. That is reported at once, and again when all of it is written and its length is known.

        If the process dies in between, or the call is handed over, the next media stream does not record on.
        """
        self._refuse(now)
        if (take := self._cut()) is not None:
            self._tell("stopped", now)
            task = asyncio.get_running_loop().create_task(self._finish(take, self._takes, "stopped"))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _refuse(self, now: float) -> None:
        """Start nothing after the consent line, and tell the call's next media streams."""
        if self._state == "consent":
            self._state = "off"
            self._tell("stopped", now, duration_ms=0)

    async def close(self) -> None:
        """Write the rest, and report the state of the recording: the media stream is over."""
        paused, take = self._state == "paused", self._cut()
        self._put = lambda wrap: None
        await asyncio.gather(*self._ending)
        if take is not None:
            await self._finish(take, self._takes, self._status_after(paused=paused))

    def _status_after(self, *, paused: bool) -> RecordingStatus:
        by = "error" if self._bridge.ended is None else self._bridge.ended.ended_by
        if by in ("agent", "caller"):
            return "completed"
        if paused:
            return "paused"  # another media stream may follow
        return "in-progress" if by is None else "completed"

    # --- the consent line ---

    def tell(self, event: Event) -> None:
        """Handle an event of the call: the consent line may have been heard."""
        if self._asked is None or self._bridge.closing.active:  # half a line does not count just because the call ends
            return
        if isinstance(event, TurnEnded) and event.turn.item_id == self._asked.item_id:
            if event.turn.interrupted:
                self._ask()
                return
            self._heard_item = event.turn.item_id
        waits = self._bridge.responses.waits_for("consent")  # even if the session was lost in the middle of it
        if self._heard_item is not None and self._heard_item == self._asked.item_id and not waits:
            self._asked, self._has_consent = None, True
            if self._state == "consent":
                self._state = "off"
                self.start(asyncio.get_running_loop().time())

    def _ask(self) -> None:
        self._consents += 1
        text = self._option.consent
        allowed = text is not None and self._consents <= MAX_CONSENTS
        self._asked = self._bridge.conversation.ask_consent(text) if allowed and text is not None else None
        if self._asked is None:
            log.warning("the call is not recorded: its consent line was not heard", extra={"call_sid": self._call_sid})

    # --- takes ---

    def _roll(self, now: float) -> None:
        forgotten = functools.partial(self._forgotten, asyncio.get_running_loop())
        writer = TapeWriter(self._recordings, self._call_sid, self._stream_sid, now, forgotten=forgotten)
        self._takes += 1
        take = self._take = Take(writer, self._call_sid, self._broke)
        if playing := self._bridge.playback.sounding(now):
            take.note(AgentAudio(now, base64.b64encode(playing).decode()))
        audio = self._bridge.caller_audio
        self._put(lambda socket: TapedSocket(socket, take.note, lambda: audio.muted))
        self._state = "on"
        self._tell("in-progress", now)

    def _forgotten(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether the call was forgotten, in a thread. If the database does not answer, the call is recorded."""
        if loop.time() < self._recordings.ask_again_at:
            return False
        answer = asyncio.run_coroutine_threadsafe(self._recordings.forgotten(self._call_sid), loop)
        try:
            return answer.result(LOOK_SECONDS)
        except (StoreError, TimeoutError):
            answer.cancel()
            self._recordings.ask_again_at = loop.time() + SILENT_SECONDS
            return False

    def _cut(self) -> Take | None:
        """Remove the tape; return the take to be finished."""
        take, self._take = self._take, None
        if take is not None:
            self._state = "off"
            self._put(lambda socket: untapped(socket, TapedSocket))
        return take

    def _broke(self) -> None:
        """End the recording: the place takes no more."""
        if self._cut() is not None:
            self._complete = False
            self._tell("stopped", asyncio.get_running_loop().time())

    async def _finish(self, take: Take, number: int, status: RecordingStatus) -> None:
        await take.finish()
        self._complete = self._complete and take.complete
        if self._takes != number:
            return  # it was started again in the meantime
        self._tell(status, asyncio.get_running_loop().time(), await self._duration_ms())

    async def _duration_ms(self) -> int | None:
        """Return the length of the whole recording, including the parts of other media streams and processes."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                found = await in_thread(self._recordings.find, self._call_sid, datetime.now(UTC))
        except (OSError, PhoneAgentError):  # a TimeoutError too
            return None
        return None if found is None else found.duration_ms

    def _tell(self, status: RecordingStatus, now: float, duration_ms: int | None = None) -> None:
        self._emit(
            RecordingChanged(
                call_sid=self._call_sid,
                at_ms=self._bridge.clock.ms(now),
                status=status,
                where=self._where,
                complete=self._complete,
                duration_ms=duration_ms,
            )
        )
