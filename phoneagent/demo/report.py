"""The report of a simulated call, `report.json`, measured from the records of the phone and of the model.

Neither record comes from the app under test, except for the last two fields. The phone knows what was spoken and heard,
and when. The model knows what it said, what the app told it about that, and which tools answered. The shape is stable:

    {"call_sid": "CA…", "ended_by": "agent" | "caller" | "line" | "error", "duration_ms": 33120,
     "turns": [{"role": "caller" | "agent", "text": "…", "heard_text": "…", "start_ms": 0, "end_ms": 0,
                "said_ms": 0, "heard_ms": 0, "interrupted": false}],
     "barge_ins": [{"item_id": "…", "audio_end_ms": 0, "truth_heard_ms": 0, "reaction_ms": 0}],
     "tool_calls": [{"name": "…", "arguments": {…}, "output": "…", "ms": 0}],
     "latency_ms": {"first_audio": 0, "response_p50": 0, "response_p95": 0,
                    "bridge_up_p99": 0.0, "bridge_down_p99": 0.0},
     "violations": ["…"], "dead_air_ms": 0,
     "pauses": [{"start_ms": 0, "end_ms": 0, "cause": "noise" | "backchannel" | "echo"}]}

All times are milliseconds; `start_ms` and `end_ms` count from the start of the media stream on the phone's clock.

turns           in the order in which they began. For the caller, start and end are those of the voice itself, `text` is
                what was said and `heard_text` what the model understood. For the agent there is a turn for each audio
                item: start and end are those of the audio that was heard, `said_ms` is what the model sent, `heard_ms`
                what the phone played of it, and `heard_text` the corresponding share of the words.
barge_ins       one for each item that was truncated. `audio_end_ms` is what the app told the model; `truth_heard_ms` is
                the phone's own playback position in that item when the `clear` took effect; `reaction_ms` is the time
                from the true start of the caller's speech to that `clear`, null if there was none.
tool_calls      `ms` is the time from the call to its output as the model saw it; null, like `output`, if none came.
latency_ms      `first_audio`: from the start of the stream to the first audio heard. `response_*`: from the true end
                of the caller's speech to the first audio of the agent heard after it, unless that audio ends one of the
                agent's pauses. `bridge_up_p99`: from the phone sending a frame to the model having it (frames from
                before the model session was ready do not count). `bridge_down_p99`: from the model sending a delta to
                the phone having its last byte. Null: not measured.
violations      every protocol rule that either simulator saw broken, in the words of the service.
dead_air_ms     the longest silence while an answer was due, as the app reports it; null if it reported none.
pauses          when the agent paused for a sound of the caller and then went on, and why, as the app reports it.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from phoneagent.bridge.heard import heard_part
from phoneagent.demo.places import Place, locate
from phoneagent.events import Pause
from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES, rms

if TYPE_CHECKING:
    from phoneagent.sim.model.records import AudioItem, ToolCallRecord, Truncation
    from phoneagent.sim.model.session import SimulatedSession
    from phoneagent.sim.twilio.phone import Line
    from phoneagent.sim.twilio.playout import Clear

_LOUD = 250
"""RMS (0 to 32767) above which 10 ms hold voice. A soft first consonant is above it, the noise of a clip is not."""

_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff"
_IN_A_LINE, _IN_LINES = re.compile(rf"[\t\n{_CONTROL}]+"), re.compile(rf"[{_CONTROL}]+")

REPORTED_MS = 600
"""How late the model reports a sound of the caller, at most: a shorter one is over when the agent pauses."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of either side."""

    role: Literal["caller", "agent"]
    text: str
    heard_text: str
    start_ms: int
    end_ms: int
    said_ms: int
    heard_ms: int
    interrupted: bool


@dataclass(frozen=True, slots=True)
class BargeIn:
    """An interrupted item: what the app told the model that the caller heard, and what the caller really heard."""

    item_id: str
    audio_end_ms: int
    truth_heard_ms: int
    reaction_ms: int | None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model called. `arguments` is the parsed JSON."""

    name: str
    arguments: Any
    output: str | None
    ms: int | None

    def words(self) -> str:
        """Return the call as a person would write it: `book_table(guests=4, time="19:30") → Booked.`"""
        arguments = self.arguments
        if isinstance(arguments, dict):
            pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
            arguments = ", ".join(pairs)
        return f"{self.name}({arguments})" + ("" if self.output is None else f" → {self.output}")


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the caller waited, and how much of that the app added."""

    first_audio: int | None = None
    response_p50: int | None = None
    response_p95: int | None = None
    bridge_up_p99: float | None = None
    bridge_down_p99: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A measured call; the docstring of the module describes each field."""

    call_sid: str
    ended_by: str
    duration_ms: int
    turns: list[Turn] = field(default_factory=list)
    barge_ins: list[BargeIn] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    latency_ms: Latency = field(default_factory=Latency)
    violations: list[str] = field(default_factory=list)
    dead_air_ms: int | None = None
    pauses: list[Pause] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether one of the two sides ended the call properly, and no rule was broken."""
        return self.ended_by in ("agent", "caller") and not self.violations

    def json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def transcript(self) -> str:
        """Return the transcript, a line for each turn; what the caller did not hear is in brackets."""
        return "".join(
            f"{clock(turn.start_ms)}  {turn.role:6}  "
            f"{plain(turn.heard_text if turn.role == 'agent' else turn.text)}{plain(_unheard(turn))}\n"
            for turn in self.turns
        )


def plain(text: str, *, lines: bool = False) -> str:
    """Return text on one line without characters that could control the terminal, or that a picture cannot have.

    They come from a caller, a model or a tool. With `lines`, line breaks and tabs stay.
    """
    return (_IN_LINES if lines else _IN_A_LINE).sub(" ", text)


def counted(number: int, noun: str) -> str:
    """Return a number of things, like "1 turn" or "2 turns"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def clock(ms: float) -> str:
    """Return a time of the call like 0:07.3."""
    tenths = round(ms / 100)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


def _unheard(turn: Turn) -> str:
    rest = turn.text[len(turn.heard_text) :].strip() if turn.interrupted else ""
    return f" [cut off, not heard: {rest}]" if rest else ""


def went_on(spoke_until_ms: float, pauses: Sequence[Pause]) -> bool:
    """Return whether the agent paused for speech that ended at this time, and went on: that was not an answer."""
    return any(pause.start_ms - REPORTED_MS <= spoke_until_ms <= pause.end_ms for pause in pauses)


def measure(
    line: Line, session: SimulatedSession | None, *, pauses: Sequence[Pause] = (), dead_air_ms: int | None = None
) -> Report:
    """Measure a call that is over. `session` is the model's side of it, None if the app never opened one.

    `pauses` and `dead_air_ms` come from the app. The report has the violations that the phone saw; add those of the
    model's sessions to it.
    """
    items = list(session.audio_items) if session else []
    places = locate(items, bytes(line.received), line.clears)
    voice = _voices(line)
    turns = [*_caller_turns(line, session, voice), *_agent_turns(line, items, places)]
    return Report(
        call_sid=line.call_sid,
        ended_by=line.ended_by or "error",
        duration_ms=len(line.caller_audio()) // BYTES_PER_MS,
        turns=sorted(turns, key=lambda turn: (turn.start_ms, turn.end_ms)),
        barge_ins=_barge_ins(line, session.truncations, places, voice) if session else [],
        tool_calls=[tool_call(record) for record in session.tool_calls] if session else [],
        latency_ms=_latency(line, session, places, [each for each in voice if not went_on(each.end, pauses)]),
        violations=list(line.violations),
        dead_air_ms=dead_air_ms,
        pauses=list(pauses),
    )


class Speech(NamedTuple):
    """One utterance of the caller: where the voice itself begins and ends, and where the next one begins, in ms."""

    start: float
    end: float
    until: float


def _voices(line: Line) -> list[Speech]:
    track = line.caller_audio()
    bounds = []
    for spoken in line.speech:
        first, last = (round(ms * BYTES_PER_MS) for ms in (spoken.start_ms, spoken.end_ms))
        start, end = voice_bounds(track[first:last])
        bounds.append((spoken.start_ms + start, spoken.start_ms + end))
    begins = [start for start, _ in bounds] + [math.inf]
    return [Speech(start, end, until) for (start, end), until in zip(bounds, begins[1:], strict=True)]


def voice_bounds(ulaw: bytes) -> tuple[float, float]:
    """Return where the voice begins and ends in `ulaw`, in ms, without the silence before and after it."""
    step = 10 * BYTES_PER_MS
    loud = [index for index in range(0, len(ulaw), step) if rms(ulaw[index : index + step]) > _LOUD]
    if not loud:
        return 0.0, len(ulaw) / BYTES_PER_MS
    return loud[0] / BYTES_PER_MS, min(loud[-1] + step, len(ulaw)) / BYTES_PER_MS


def _caller_turns(line: Line, session: SimulatedSession | None, voice: Sequence[Speech]) -> list[Turn]:
    turns = []
    for spoken, (start, end, until) in zip(line.speech, voice, strict=True):
        # The model detects speech a little late, and may split one utterance into two turns.
        understood = [
            turn.text
            for turn in (session.caller_turns if session else ())
            if turn.text and start <= (turn.started_at - line.started_at) * 1000 < until
        ]
        heard, said_ms = " ".join(understood), round(end - start)
        turns.append(
            Turn("caller", spoken.text or heard, heard, round(start), round(end), said_ms, said_ms, interrupted=False)
        )
    return turns


def _agent_turns(line: Line, items: Sequence[AudioItem], places: dict[str, Place]) -> list[Turn]:
    turns = []
    for item in items:
        place = places.get(item.item_id)
        if place is None:
            continue
        parts = _heard_parts(line, place)
        said_ms = len(item.audio) / BYTES_PER_MS
        heard_ms = min(sum(end - start for start, end in parts), said_ms)  # the end of a pause repeats a little
        if parts:
            start, end = parts[0][0], parts[-1][1]
        else:
            start = end = line.clears[place.clear].at_ms if place.clear is not None else len(line.caller_audio()) / 8
        interrupted = said_ms - heard_ms > 20 or item.interrupted
        text = item.text.strip()
        heard = heard_part(text, round(heard_ms), round(said_ms), complete=not item.interrupted)
        turns.append(
            Turn(
                "agent",
                text,
                heard if interrupted else text,
                round(start),
                round(end),
                round(said_ms),
                round(heard_ms),
                interrupted,
            )
        )
    return turns


def _heard_parts(line: Line, place: Place) -> list[tuple[float, float]]:
    """Return the periods of the call, in ms, in which an item was heard."""
    parts = []
    for span, piece in itertools.product(line.heard, place.pieces):
        first, last = max(span.stream_start, piece.start), min(span.stream_end, piece.start + piece.length)
        if first < last:
            offset = span.start_ms - span.stream_start / BYTES_PER_MS
            parts.append((offset + first / BYTES_PER_MS, offset + last / BYTES_PER_MS))
    return parts


def _barge_ins(
    line: Line, truncations: Sequence[Truncation], places: dict[str, Place], voice: Sequence[Speech]
) -> list[BargeIn]:
    accepted = {truncation.item_id: truncation for truncation in truncations if truncation.ok}
    return [_barge_in(line, truncation, places.get(item_id), voice) for item_id, truncation in accepted.items()]


def _barge_in(line: Line, truncation: Truncation, place: Place | None, voice: Sequence[Speech]) -> BargeIn:
    clear: Clear | None = line.clears[place.clear] if place and place.clear is not None else None
    truth, reaction = 0.0, None
    if place is not None and clear is not None:
        truth = place.heard_ms(clear)
        begun = [speech.start for speech in voice if speech.start <= clear.at_ms]
        reaction = round(clear.at_ms - begun[-1]) if begun else None
    elif place is not None:
        truth = sum(end - start for start, end in _heard_parts(line, place))
    return BargeIn(truncation.item_id, truncation.audio_end_ms, round(truth), reaction)


def tool_call(record: ToolCallRecord) -> ToolCall:
    """Convert the model's record of a tool call for the report; arguments that are not JSON stay text."""
    try:
        arguments = json.loads(record.arguments)
    except ValueError:
        arguments = record.arguments
    ms = None if record.returned_at is None else round((record.returned_at - record.called_at) * 1000)
    return ToolCall(record.name, arguments, record.output, ms)


def _latency(
    line: Line, session: SimulatedSession | None, places: dict[str, Place], voice: Sequence[Speech]
) -> Latency:
    begins = [span.start_ms for span in line.heard]
    waits: list[float] = []
    for _, end, until in voice:
        waits += [begin - end for begin in begins if end <= begin < until][:1]
    up = _bridge_up(line.sent_log, session.append_log) if session else []
    down = _bridge_down(line.received_log, places)
    return Latency(
        first_audio=round(begins[0]) if begins else None,
        response_p50=_whole(percentile(waits, 50)),
        response_p95=_whole(percentile(waits, 95)),
        bridge_up_p99=percentile(up, 99),
        bridge_down_p99=percentile(down, 99),
    )


def _bridge_up(sent: Sequence[float], appended: Sequence[tuple[float, int]]) -> list[float]:
    """Return how many ms each frame took, without those sent before the first append, which had to wait for it."""
    if not appended:
        return []
    totals = [total for _, total in appended]
    ready = appended[0][0]
    waits = []
    for number, moment in enumerate(sent):
        index = bisect_left(totals, (number + 1) * FRAME_BYTES)
        if moment >= ready and index < len(totals):
            waits.append((appended[index][0] - moment) * 1000)
    return waits


def _bridge_down(received: Sequence[tuple[float, int]], places: dict[str, Place]) -> list[float]:
    """Return how many ms each delta took to reach the phone in full, without those that were dropped."""
    totals = [total for _, total in received]
    waits = []
    for place in places.values():
        for moment, length in place.item.delta_log:
            if length <= place.pieces[0].length:
                index = bisect_left(totals, place.pieces[0].start + length)
                waits.append((received[index][0] - moment) * 1000)
    return waits


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that `percent` % of the values do not exceed, to a tenth; None if there is no value."""
    if not values:
        return None
    return round(sorted(values)[math.ceil(len(values) * percent / 100) - 1], 1)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
