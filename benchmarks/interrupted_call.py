"""One call in which a caller makes a sound while the agent speaks: the real app, both simulators, and the outcome.

The phone's record is authoritative: the heard part of the answer is searched for in the audio that it played. The model
is simulated; its turn detection works on the mixed audio, and a stand-in for the recognizer writes the case's words.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import cases, mixing
from benchmarks.cases import Case, EchoPath
from phoneagent import Agent, Endpoint, PhoneApp, Settings
from phoneagent.cli.serve import MEDIA_SOCKETS, UVICORN
from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES, SILENCE, decode_ulaw, encode_ulaw
from phoneagent.sim import CallFailed, Line, Model, Phone, serving
from phoneagent.sim.model.records import AudioItem
from phoneagent.sim.model.session import SimulatedSession
from phoneagent.sim.model.vad import Vad
from phoneagent.sim.speech import ClipVoice, Ear, Murmur
from phoneagent.sim.twilio.microphone import FRAME_MS, Microphone
from phoneagent.sim.twilio.playout import Playout

CLIPS = Path(__file__).parent.parent / "phoneagent" / "demo" / "clips" / "agent"
ANSWER = "With pleasure. For four, I have a table by the window at seven, one by the fireplace at half past seven, "
ANSWER += "or a round one on the terrace at nine. Tonight, the kitchen has roast duck."
FURTHER = "I see. Tell me a little more about that, please."
SCRIPT = f"""
default = "Sorry, could you say that again?"
[[turn]]
heard = "opening hours"
say = {json.dumps(ANSWER)}
[[turn]]
heard = "stop|hold|but|transfer|book"
say = {json.dumps(FURTHER)}
"""

TRANSCRIPT_SECONDS = 0.3
"""From the end of a turn to its transcript: the usual time of recognizers."""

HISS = mixing.at_level(mixing.hiss(1000, 1), -62)
"""One second of the noise that every line has."""

BEGIN_MS = 1200
"""How much of the answer is heard before the caller's sound."""

ENDING_MS = 400
"""How much of its end may be missing from an answer that still counts as heard."""

SILENT_MS = 2500
"""Silence of the agent after which nothing more is expected."""

MAX_SECONDS = 14.0
"""The time after the caller's sounds, for the rest of the answer and another one."""

CHUNK_BYTES = 160
MAX_QUIET_VALUES = 12
"""20 ms with at most this many different bytes are silence, or nearly."""

OPENING = encode_ulaw(cases.recording(cases.OPENING[0]))
TOKEN, ACCOUNT, PUBLIC = "a-token-of-the-benchmark", "AC" + "0123456789abcdef" * 2, "https://agent.example"
SETTINGS: dict[str, Any] = {
    "twilio_account_sid": ACCOUNT,
    "twilio_auth_token": TOKEN,
    "public_url": PUBLIC,
    "realtime_url": "ws://unused",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a case. `stop_ms` is from the sound's onset to the `clear`; None if there was none."""

    group: str
    name: str
    must_stop: bool
    cut: bool
    """Whether the end of the answer was never heard."""
    too_early: bool
    """Whether it was cut for good before a real interruption began: something else was taken for one."""
    lost_ms: int
    """How much of the answer was not heard but should have been: all before its end, if the end was heard."""
    stop_ms: int | None
    pauses: int
    """How often the voice was stopped."""
    answered: bool
    """Whether another answer was heard."""
    truncation_error_ms: int | None
    """How much more of the answer the model was told was heard than really was; None without a truncation."""
    trouble: str = ""

    @property
    def false_cancel(self) -> bool:
        """Whether something other than an interruption stopped the agent for good."""
        return self.too_early if self.must_stop else self.cut

    @property
    def missed(self) -> bool:
        """Whether the agent kept speaking over a real interruption, or never answered it."""
        return self.must_stop and not (self.cut and self.answered)


class NoisyMicrophone(Microphone):
    """A caller's telephone: the caller's sounds, the line's hiss, and the echo of the agent's voice."""

    def __init__(self, playout: Playout, echo: EchoPath | None) -> None:
        super().__init__()
        self._playout = playout
        self._echo = echo
        self._sent: list[tuple[int, bytes]] = []

    def frame(self, number: int) -> str:
        said = super().frame(number)
        begin = number % 50 * FRAME_BYTES * 2
        pcm = HISS[begin : begin + FRAME_BYTES * 2]
        if said is not None:
            pcm = mixing.mixed(pcm, decode_ulaw(base64.b64decode(said)))
        if self._echo is not None:
            pcm = mixing.mixed(pcm, self._came_back(number * FRAME_MS, self._echo))
        ulaw = encode_ulaw(pcm)
        self._sent.append((number, ulaw))
        return base64.b64encode(ulaw).decode()

    def _came_back(self, at_ms: float, echo: EchoPath) -> bytes:
        """Return 20 ms of echo from `at_ms` on: audio that was played earlier."""
        reach = max(mixing.ROOM_MS) if echo.room else 0
        begin = at_ms - echo.delay_ms - reach
        length = round((FRAME_MS + reach) * BYTES_PER_MS)
        pcm = decode_ulaw(heard_between(self._playout, begin, length))
        pcm = mixing.in_a_room(pcm) if echo.room else pcm
        return mixing.gained(pcm[-FRAME_BYTES * 2 :], -echo.loss_db)

    def audio(self, length: int) -> bytes:
        """Return the sent audio: `length` bytes of µ-law from the start of the stream."""
        track = bytearray(SILENCE * length)
        for number, ulaw in self._sent:
            start = number * FRAME_BYTES
            piece = ulaw[: max(length - start, 0)]
            track[start : start + len(piece)] = piece
        return bytes(track)


def heard_between(playout: Playout, begin_ms: float, length: int) -> bytes:
    """Return `length` bytes of the heard audio from a moment on, with silence in the gaps."""
    found = bytearray(SILENCE * length)
    begin = round(begin_ms * BYTES_PER_MS)
    for span in reversed(playout.spans(time.monotonic())):
        start = round(span.start_ms * BYTES_PER_MS)
        end = start + span.stream_end - span.stream_start
        if end <= begin:
            break
        first, last = max(start, begin), min(end, begin + length)
        if first < last:
            from_byte = span.stream_start + first - start
            found[first - begin : last - begin] = playout.received[from_byte : from_byte + last - first]
    return bytes(found)


class Caller:
    """The caller of a case: their audio, made before the call, and what a recognizer makes of it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.track = encode_ulaw(case.track())
        self.line: Line | None = None

    @property
    def began_ms(self) -> float | None:
        """When the case began, on the phone's clock: at the second line, because the first is the opening question."""
        lines = self.line.speech if self.line is not None else []
        return lines[1].start_ms if len(lines) > 1 else None

    async def hear(self, ulaw: bytes) -> str:
        """Return the words in a turn, as late as a recognizer would: the stand-in for the model's ear."""
        assert self.line is not None
        until_ms = self.line.duration_ms
        await asyncio.sleep(TRANSCRIPT_SECONDS)
        if self.began_ms is None or until_ms < self.began_ms:
            return cases.OPENING[1]
        until_ms -= self.began_ms
        return self.case.words(until_ms - len(ulaw) / BYTES_PER_MS, until_ms)

    async def talk(self, line: Line) -> None:
        """Ask, listen for a while, make the case's sounds, and listen until nothing more can follow."""
        self.line = line
        await line.say(OPENING)
        await line.wait_for_agent(ms=BEGIN_MS)
        await line.say(self.track)
        with suppress(TimeoutError):  # an agent that hears its own echo talks forever, another one may say nothing
            await line.wait_for_silence(ms=SILENT_MS, timeout=MAX_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The setting of cases: the agent's options, and an ear and a speech detector that replace the default ones."""

    rule: Mapping[str, Any] = field(default_factory=dict)
    ear: Ear | None = None
    vad: Callable[[], Vad] | None = None
    folder: Path | None = None
    """Where each call is saved as WAV, with the caller's audio on the left and what they heard on the right."""


@dataclass(frozen=True, slots=True)
class Played:
    """A call that is over."""

    caller: Caller
    line: Line
    session: SimulatedSession
    trouble: str


async def play(caller: Caller, setting: Setting) -> Played:
    """Play a case."""
    case = caller.case
    agent = Agent(instructions="You answer the phone of a benchmark.", **setting.rule)
    ear, voice = setting.ear or caller, ClipVoice(CLIPS, Murmur())
    async with Model(SCRIPT, ear=ear, vad=setting.vad, voice=voice) as model:
        endpoint = Endpoint(f"{model.url}?model=gpt-realtime-2.1", transcription_models=("gpt-transcribe",))
        app = PhoneApp(agent, settings=Settings(**SETTINGS), store=None, endpoint=endpoint)
        async with serving(app, **UVICORN | {"ws": MEDIA_SOCKETS["direct"]}) as url:
            playout = Playout(0.0)
            microphone = NoisyMicrophone(playout, case.echo)
            phone = Phone(f"{url}/twilio/voice", auth_token=TOKEN, public_url=PUBLIC, account_sid=ACCOUNT)
            trouble = ""
            async with phone.dial(microphone=microphone, playout=playout) as line:
                try:
                    await caller.talk(line)
                except (TimeoutError, CallFailed) as error:
                    trouble = f"{type(error).__name__}: {error}"
            if setting.folder is not None:
                name = "-".join(re.findall(r"\w+", f"{case.group} {case.name}"))
                (setting.folder / f"{name}.wav").write_bytes(line.recording())
        trouble = trouble or "; ".join([*line.violations, *model.violations][:1])
        return Played(caller, line, model.sessions[0], trouble)


def measure(played: Played) -> Outcome:
    """Return the outcome of a call."""
    line, session, case = played.line, played.session, played.caller.case
    begin_ms = played.caller.began_ms or 0.0
    answer, *others = session.audio_items or [AudioItem("", "", "")]
    heard_to, heard = heard_of(bytes(answer.audio), line)
    onset_ms = case.onset_ms()
    since_ms = begin_ms + (onset_ms or 0.0)
    since = line.started_at + since_ms / 1000
    clears = [clear.at_ms for clear in line.clears if clear.heard_to < clear.received_to]
    spoke = any(span.start_ms <= since_ms < span.end_ms for span in line.heard)
    stops = [at_ms for at_ms in clears if at_ms >= since_ms] if spoke and onset_ms is not None else []
    truncated = [each for each in session.truncations if each.ok and each.item_id == answer.item_id]
    # Speech after this answers the case, not something that was taken for a turn before it.
    asked = line.started_at + (begin_ms + (case.last_ms() if case.stop else 0)) / 1000
    later = [each for each in others if each.delta_log and each.delta_log[0][0] > asked]
    return Outcome(
        group=case.group,
        name=case.name,
        must_stop=case.stop,
        # On a busy machine, the model may be stopped before it has sent the end.
        cut=answer.interrupted or heard_to < len(answer.audio) - ENDING_MS * BYTES_PER_MS,
        too_early=case.stop and any(each.at < since for each in truncated),
        lost_ms=0 if case.stop else round((len(answer.audio) - heard) / BYTES_PER_MS),
        stop_ms=round(stops[0] - since_ms) if stops else None,
        pauses=len(clears),
        answered=any(heard_of(bytes(each.audio), line)[1] for each in later),
        truncation_error_ms=round(truncated[-1].audio_end_ms - heard_to / BYTES_PER_MS) if truncated else None,
        trouble=played.trouble or ("" if answer.audio else "the agent never answered the opening question"),
    )


def heard_of(audio: bytes, line: Line) -> tuple[int, int]:
    """Return the byte up to which an item was heard, and how many of its bytes were heard.

    Each 20 ms of the item is searched for in the played audio. Silence, which matches anywhere, counts with the audio
    before it.
    """
    played = [bytes(line.received[span.stream_start : span.stream_end]) for span in line.heard]
    heard_to = heard = 0
    found = False
    for at in range(0, len(audio), CHUNK_BYTES):
        chunk = audio[at : at + CHUNK_BYTES]
        if len(set(chunk)) > MAX_QUIET_VALUES:
            # It was heard last where it was found last; the rest of the same span belongs to the same item.
            left = max((len(each) - place for each in played if (place := each.rfind(chunk)) >= 0), default=0)
            found = left > 0
            heard_to = min(at + left, len(audio)) if found else heard_to
        heard += len(chunk) if found else 0
    return heard_to, heard
