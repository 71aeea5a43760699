"""A transcribed call, sans-I/O: the two tracks of its media stream, each from frames to turns.

Each track has its own session. What a session has not yet turned into words is held, so that the next one gets it if
the session is lost.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, TypeAlias, assert_never

from phoneagent.billing import usage
from phoneagent.billing.prices import Price, cost_of, price_of
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.names import Names
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.turn_signs import TurnSigns
from phoneagent.events import Cost, EndedBy, Turn, Usage
from phoneagent.protocol.audio import BYTES_PER_MS, base64_bytes, silence
from phoneagent.protocol.carrier import AudioIn
from phoneagent.protocol.realtime import (
    AudioAppend,
    Committed,
    Error,
    FromModel,
    InputTranscript,
    InputTranscriptFailed,
    SpeechStarted,
    SpeechStopped,
)
from phoneagent.protocol.session_object import transcription_model_of

Speaker: TypeAlias = Literal["caller", "callee"]

KEPT_MS = 2_000
"""How much audio without speech is held: a session reports speech a little after it begins."""

MAX_HELD_MS = 60_000
"""How much audio is held at most, for a missing session or a turn without words. The oldest is dropped."""

MAX_OUTSTANDING = 32
"""How many turns may wait for words. Beyond that, the oldest ends without words."""

MAX_TURNS = 10_000
"""Far more than a call has; beyond that, the oldest are left out of the transcript. Records have them all."""

END_SILENCE_MS = {"server_vad": 500, "semantic_vad": 9_000}
"""How much silence after a call ends its last turn, in addition to the session's own turn detection."""


class _Spoken:
    """A turn of a track, in ms of the call."""

    __slots__ = ("end_ms", "padded", "start_ms")

    def __init__(self, start_ms: int, *, padded: bool = False) -> None:
        self.start_ms = self.end_ms = start_ms
        self.padded = padded


class Track:
    """One track of a call. `detection` is the session's turn detection."""

    def __init__(self, speaker: Speaker, names: Names, detection: Mapping[str, Any]) -> None:
        self.speaker = speaker
        self.recognizer = "unknown"
        # What the session adds to a turn before and after its speech.
        self._padding_ms: int = detection.get("prefix_padding_ms", 0)
        self._silence_ms: int = detection.get("silence_duration_ms", 0)
        self._end_silence_ms = END_SILENCE_MS[detection["type"]] + self._silence_ms
        self._signs = TurnSigns(names)
        self._waiting: deque[AudioIn] = deque()
        self._sent: deque[tuple[int, AudioIn]] = deque()  # with their places in the session's audio, in ms
        self._held_ms = 0
        self._session_ms = 0  # how much audio the session has
        self._began_ms = 0  # the time of its first frame
        self._speaking: _Spoken | None = None
        self._outstanding: dict[str, _Spoken] = {}

    @property
    def settled(self) -> bool:
        """Whether no words are awaited, as far as known."""
        return not (self._waiting or self._speaking or self._outstanding)

    def hear(self, frame: AudioIn) -> None:
        """Handle a frame of the track. A frame without audio, whose payload was odd, is ignored."""
        if not _ms(frame):
            return
        self._waiting.append(frame)
        self._held_ms += _ms(frame)
        self._forget()

    def finish(self) -> None:
        """Note that the call is over: the silence after it ends the last turn."""
        last = self._waiting[-1] if self._waiting else self._sent[-1][1] if self._sent else None
        if last is not None:
            quiet = base64.b64encode(silence(self._end_silence_ms)).decode()
            self.hear(AudioIn(quiet, last.at_ms + _ms(last)))

    def new_session(self, session: Mapping[str, Any]) -> None:
        """Open a session, which gets what the one before did not transcribe. `session` is as the server reports it."""
        self.recognizer = transcription_model_of(session)
        self._waiting.extendleft(frame for _, frame in reversed(self._sent))
        self._sent.clear()
        self._signs.new_session()
        self._session_ms, self._speaking = 0, None
        self._outstanding.clear()

    def take(self, number: int) -> list[AudioAppend]:
        """Return the next messages for the session."""
        taken: list[AudioAppend] = []
        while self._waiting and len(taken) < number:
            frame = self._waiting.popleft()
            if not self._session_ms:
                self._began_ms = frame.at_ms
            self._sent.append((self._session_ms, frame))
            self._session_ms += _ms(frame)
            taken.append(AudioAppend(frame.payload))
        self._forget()
        return taken

    def receive(self, event: FromModel) -> Iterator[int | Turn]:
        """Handle an event of the session; yield when turns begin, in ms of the call, and whole turns."""
        for sign in self._read(event):
            match sign:
                case SpeechStarted(audio_start_ms=at):
                    self._speaking = _Spoken(self._call_ms(at), padded=at > 0)
                    yield self._speaking.start_ms + (self._padding_ms if at else 0)
                case SpeechStopped(audio_end_ms=at):
                    if self._speaking is not None:
                        self._speaking.end_ms = max(self._speaking.start_ms, self._call_ms(at))
                case Committed(item_id=name):
                    spoken, self._speaking = self._speaking or _Spoken(self._call_ms(self._session_ms)), None
                    self._outstanding[name] = spoken
                    if len(self._outstanding) > MAX_OUTSTANDING:
                        oldest = next(iter(self._outstanding))
                        yield self._turn(oldest, self._outstanding.pop(oldest), "")
                case InputTranscript(item_id=name, transcript=text):
                    if (known := self._outstanding.pop(name, None)) is not None and text.strip():
                        yield self._turn(name, known, text.strip())
                case InputTranscriptFailed(item_id=name):
                    if (known := self._outstanding.pop(name, None)) is not None:
                        yield self._turn(name, known, "")
        self._forget()

    def close(self) -> Iterator[Turn]:
        """Stop waiting for words, and yield the turns without any."""
        for name, spoken in self._outstanding.items():
            yield self._turn(name, spoken, "")
        self._outstanding.clear()

    def _read(self, event: FromModel) -> Iterator[FromModel]:
        match event:
            case SpeechStarted():
                self._signs.speech_started(event)
                yield event
            case SpeechStopped():
                # If there was no beginning, make one up first.
                yield from self._signs.speech_stopped(event, 0.0)
            case Committed():
                yield from self._signs.committed(event)
            case InputTranscript() | InputTranscriptFailed():
                yield from self._signs.transcript(event)

    def _turn(self, name: str, spoken: _Spoken, text: str) -> Turn:
        start_ms = spoken.start_ms + (self._padding_ms if spoken.padded else 0)
        length = max(0, spoken.end_ms - self._silence_ms - start_ms)
        return Turn(
            role=self.speaker,
            item_id=name,
            text=text,
            heard_text=text,
            start_ms=start_ms,
            end_ms=start_ms + length,
            said_ms=length,
            heard_ms=length,
        )

    def _call_ms(self, session_ms: float) -> int:
        """Return the call's time for a place in the session's audio."""
        for at, frame in reversed(self._sent):
            if at <= session_ms:
                return frame.at_ms + min(round(session_ms) - at, _ms(frame))
        return self._began_ms + round(session_ms)

    def _forget(self) -> None:
        """Drop the audio that no next session needs."""
        open_turns = [*self._outstanding.values(), *([self._speaking] if self._speaking else [])]
        newest = self._sent[-1][1].at_ms if self._sent else 0
        needed_from = min((each.start_ms for each in open_turns), default=newest - KEPT_MS)
        while self._sent and (self._sent[0][1].at_ms < needed_from or self._held_ms > MAX_HELD_MS):
            self._held_ms -= _ms(self._sent.popleft()[1])
        while self._waiting and self._held_ms > MAX_HELD_MS:
            self._held_ms -= _ms(self._waiting.popleft())


class TranscribedCall:
    """The two tracks of a call, its events and its cost. `now` is in seconds.

    `detection` is the session's turn detection, `max_cost` the limit for the cost of its recognizers.
    """

    def __init__(
        self,
        call_sid: str,
        detection: Mapping[str, Any],
        prices: Mapping[str, Price],
        *,
        cost: Cost | None = None,
        max_cost: Decimal | None = None,
    ) -> None:
        self._clock = CallClock()
        self.reporter = Reporter(call_sid, self._clock)
        self._prices = prices
        self._max_cost = max_cost
        self.cost = cost
        """What the call has cost so far; None if no recognizer has reported anything."""
        self._turns: deque[Turn] = deque(maxlen=MAX_TURNS)
        names = Names()
        self.caller = Track("caller", names, detection)
        self.callee = Track("callee", names, detection)

    @property
    def tracks(self) -> tuple[Track, Track]:
        """Both tracks: what the caller says, and what the caller hears."""
        return self.caller, self.callee

    @property
    def over_budget(self) -> bool:
        """Whether the call has reached its cost limit."""
        return self._max_cost is not None and self.cost is not None and self.cost.usd >= self._max_cost

    def start(self, now: float) -> None:
        """Note that the media stream begins."""
        self._clock.start(now)

    def hear(self, frame: AudioIn) -> Track:
        """Handle a frame, and return its track."""
        track = self.callee if frame.outbound else self.caller
        track.hear(frame)
        return track

    def receive(self, track: Track, event: FromModel, now: float) -> None:
        """Handle an event of a track's session."""
        if isinstance(event, Error):
            failure = event.error
            self.reporter.trouble(f"the recognizer reports {failure.code or failure.type}: {failure.message}", now)
        if isinstance(event, InputTranscript):
            self._count(track, event, now)
        for found in track.receive(event):
            match found:
                case Turn():
                    self._add(found)
                case int():
                    if track is self.caller:
                        self.reporter.speech_started(found)
                case _:
                    assert_never(found)

    def end(self, by: EndedBy, reason: str, now: float) -> None:
        """End the call, with all the words that came."""
        for track in self.tracks:
            for turn in track.close():
                self._add(turn)
        transcript = tuple(sorted(self._turns, key=lambda turn: turn.start_ms))
        self.reporter.ended(by, reason, transcript, now, self.cost)

    def _add(self, turn: Turn) -> None:
        self._turns.append(turn)
        self.reporter.turn_ended(turn)

    def _count(self, track: Track, event: InputTranscript, now: float) -> None:
        reading = usage.of_transcription(event.usage)
        used = Usage() if reading is None else reading.usage
        price = price_of(track.recognizer, self._prices)
        cost = Cost(at_least=True) if reading is None else cost_of(used, price)
        total = self.cost or Cost()
        if total.at_least if reading is None else used == Usage():
            return  # it would add nothing
        self.cost = total + cost
        self.reporter.used("transcription", track.recognizer, used, cost, self.cost, now)


def _ms(frame: AudioIn) -> int:
    return base64_bytes(frame.payload) // BYTES_PER_MS
