"""Callers who are each in another situation when something happens to the process that carries their call."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias

from phoneagent.sim import Line, Model, Phone, Script
from phoneagent.sim.model.server import SimulatedSession
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio.microphone import Utterance
from phoneagent.sim.twilio.playout import Span
from phoneagent.sim.twilio.stream import StreamSpan
from tests.patience import HANG_SECONDS
from tests.resilience.cluster import ACCOUNT_SID, AUTH_TOKEN, PUBLIC_URL, Cluster
from tests.resilience.front_desk import GREETING

Situation: TypeAlias = Literal[
    "greeting", "telling", "speaking", "asking", "booking", "silent", "parting", "goodbye", "gone"
]
"""What goes on at the moment in question.

The agent greets · tells a long story · is asked something (the caller is in mid-sentence) · owes an answer · runs a
tool · is silent, and so is the caller · says a long goodbye · has just said goodbye and hung up · the caller has just
hung up.
"""

_IN_ORDER: Sequence[Collection[Situation]] = (
    ("telling", "silent"),
    ("booking", "goodbye"),
    ("greeting", "speaking", "asking"),
    ("gone",),
)

OVER: Collection[Situation] = ("goodbye", "gone")

BROKEN, HANDSHAKE_FAILED = "31903", "31920"
CALLBACK_LOST = "(status callback)"
"""What Twilio notes of a stream whose connection was cut, of one that was not accepted, and of a callback that nobody
took."""

ANSWERS: dict[Situation, str] = {
    "greeting": GREETING,
    "speaking": "Until ten.",
    "asking": "Until ten.",
    "booking": "Your table is booked.",
    "silent": "Hello to you.",
}
"""What is said to the end in each situation, if the process is given the time."""

STORY = "There was once a telephone that nobody had answered in years, and it was quite content with that. " * 5
MISSED = "Sorry, I have missed your last words."
SOUP = "We have onion soup today."
PARTING = "Good night, come back soon, and give our regards to everybody at home, to the last of the children. " * 2

ASKED = {
    "story": "Story, please.",
    "hours": "Until when?",
    "long hours": "Tell me, until when are you open tonight?",
    "table": "Table, please.",
    "hello": "Hello.",
    "soup": "Which soup?",
    "bye": "That is all.",
    "long bye": "Good night to all of you.",
}
_SCRIPT = f"""
default = "{MISSED}"
goodbye = "Goodbye!"
[[turn]]
heard = "story"
say = "{STORY.strip()}"
[[turn]]
heard = "until when"
say = "Until ten."
[[turn]]
heard = "table"
call = "book_table"
arguments = {{ guests = 2 }}
then = "Your table is booked."
[[turn]]
heard = "hello"
say = "Hello to you."
[[turn]]
heard = "soup"
say = "{SOUP}"
[[turn]]
heard = "that is all"
say = "Goodbye!"
call = "hang_up"
[[turn]]
heard = "good night"
say = "{PARTING.strip()}"
call = "hang_up"
"""


@cache
def spoken(key: str) -> bytes:
    """Return one of the caller's lines as audio."""
    return Murmur(pitch_hz=120).render(ASKED[key])


class ExactEar:
    """Knows the caller's lines by their bytes: they arrive as they were spoken, whichever session they arrive in."""

    async def hear(self, ulaw: bytes) -> str:
        return next((text for key, text in ASKED.items() if spoken(key)[800:1600] in ulaw), "")


def make_model() -> Model:
    """Return a simulated model that plays the agent's part, cheap enough for thirty calls."""
    return Model(Script.parse(_SCRIPT), ear=ExactEar(), vad=EnergyGate)


@dataclass(slots=True)
class Return:
    """How a caller got the agent back: seconds from the end of a media stream to the next one, and to its voice."""

    situation: Situation
    stream_seconds: float
    voice_seconds: float | None


@dataclass
class Caller:
    """One person on the phone, and what became of the call."""

    line: Line
    model: Model
    cluster: Cluster
    returns: list[Return] = field(default_factory=list)
    said: list[tuple[float, str]] = field(default_factory=list)
    """What the caller has said, and when it was said (monotonic)."""
    killed_at: list[float] = field(default_factory=list)
    """When the process that carried the call was killed."""
    bookings: int = 0
    situation: Situation = "silent"
    before: int = 1
    """How many media streams there were when the situation was entered."""
    _speaking: asyncio.Task[Utterance] | None = None

    @property
    def sid(self) -> str:
        return self.line.call_sid

    @property
    def sessions(self) -> list[SimulatedSession]:
        """The model's sessions that heard this call, in the order in which they did; their instructions name it.

        Those that were opened ahead may have waited for a call that went elsewhere first, or for good.
        """
        ours = [each for each in self.model.sessions if self.sid in each.session["instructions"] and each.append_log]
        return sorted(ours, key=lambda each: each.append_log[-1][0])

    @property
    def pids(self) -> list[int]:
        """The process that opened each of them."""
        return [int(each.session["instructions"].split()[-1].rstrip(".")) for each in self.sessions]

    def heard_ms(self, since_ms: float) -> float:
        """How much of the agent was heard since then."""
        return sum(max(0.0, span.end_ms - max(span.start_ms, since_ms)) for span in self.line.heard)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        try:
            async with asyncio.timeout(HANG_SECONDS):
                while not condition():
                    assert self.line.ended_by is None, f"{self}: ended by {self.line.ended_by} before {what}"
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{self}: it hangs before {what}") from None

    def __str__(self) -> str:
        line = self.line
        return f"{self.sid} ({self.situation}; {line.verbs}; {line.violations}; {self.line.streams}; {self.pids})"

    # --- before ---------------------------------------------------------------------------------------------------

    async def enter(self, situation: Situation) -> None:
        """Bring the call into a situation, from an open floor or (greeting) from its very beginning."""
        self.situation, self.before = situation, len(self.line.streams)
        if situation == "greeting":
            await self.until(lambda: self.heard_ms(0) > 300, "the greeting had begun")
            return
        await self.until(lambda: self.line.heard and not self.line.playing, "the agent had fallen silent")
        match situation:
            case "telling":
                await self._say("story")
                since_ms = self.line.speech[-1].end_ms
                await self.until(lambda: self.heard_ms(since_ms) > 1200, "the story had begun")
            case "booking":
                self.bookings += 1
                await self._say("table")
                await self.until(lambda: self.cluster.tool_runs(self.sid) == self.bookings, "the tool ran")
            case "silent":
                await self._say("hello")
                await self.line.wait_for_silence(ms=300)
            case "speaking":
                self._speaking = asyncio.create_task(self._say("long hours"))
                await self.until(self._in_mid_sentence, "the caller spoke")
            case "asking":
                await self._say("hours")
            case "parting":
                await self._say("long bye")
                await self.until(lambda: "hang_up" in str(self.sessions[-1].items), "the agent wants to hang up")
                await asyncio.sleep(0.5)  # until that is written down, as the call is
                assert self.line.playing, self
            case "goodbye":
                await self._say("bye")
                await self.line.wait_ended(20)
            case "gone":
                await self.line.hang_up()

    def _in_mid_sentence(self) -> bool:
        return bool(self.line.speech) and self.line.speech[-1].text == ASKED["long hours"]

    async def _say(self, key: str) -> Utterance:
        spoken_line = await self.line.say(spoken(key), ASKED[key])
        if spoken_line.end_ms - spoken_line.start_ms >= len(spoken(key)) // 8:
            self.said.append((time.monotonic(), ASKED[key]))
        return spoken_line

    # --- after ----------------------------------------------------------------------------------------------------

    async def come_back(self, *, expect_voice: bool) -> None:
        """Wait for the next media stream, and for the agent's voice in it, or in one that soon took its place."""
        await self.until(lambda: len(self.line.streams) > self.before, "the next media stream began")
        gone, now = self.line.streams[self.before - 1 : self.before + 1]
        if expect_voice:
            await self.until(lambda: self._heard_since(now), "the agent was heard again")
        heard = self._heard_since(now)
        self.returns.append(
            Return(
                self.situation,
                _seconds(gone, now.start_ms),
                _seconds(gone, heard[0].start_ms) if heard else None,
            )
        )

    def _heard_since(self, stream: StreamSpan) -> list[Span]:
        return [span for span in self.line.heard if span.start_ms >= stream.start_ms]

    def unheard_ms(self) -> float:
        """How much of the agent's audio was lost with the stream that ended then."""
        gone = self.line.streams[self.before - 1]
        assert gone.ended_at is not None
        received = max((count for at, count in self.line.received_log if at <= gone.ended_at), default=0)
        heard = max((span.stream_end for span in self.line.heard_during(gone)), default=0)
        return (received - heard) / 8

    @property
    def greetings(self) -> int:
        """How often the agent began to greet."""
        return self._times_said(GREETING)

    async def finish_speaking(self) -> Utterance | None:
        return await self._speaking if self._speaking is not None else None

    async def ask_again(self) -> None:
        """The conversation goes on: a question, and its own answer, whatever was being said."""
        before = self._times_said(SOUP)
        await self._say("soup")
        since_ms = self.line.speech[-1].end_ms
        await self.until(lambda: self._times_said(SOUP) > before, "the question was answered")
        await self.until(lambda: self.heard_ms(since_ms) > 500, "the answer was heard")

    def _times_said(self, text: str) -> int:
        return sum(item.text == text for session in self.sessions for item in session.audio_items)

    async def part(self) -> None:
        """Say goodbye, into whatever is being said, and be hung up on."""
        await self._say("bye")
        await self.line.wait_ended(20)

    async def leave(self) -> None:
        """Hang up."""
        self.situation = "gone"
        await self.line.hang_up()


class Callers:
    """Some callers at once, `count` to begin with. Entered, all of them are up; left, all have hung up."""

    def __init__(self, cluster: Cluster, model: Model, count: int) -> None:
        self._cluster = cluster
        self._model = model
        self._count = count
        self._stack = AsyncExitStack()
        self._numbers = itertools.count()
        self.all: list[Caller] = []

    async def __aenter__(self) -> Callers:
        await asyncio.gather(*(self.dial(number) for number in range(self._count)))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    @property
    def live(self) -> list[Caller]:
        return [each for each in self.all if each.line.ended_by is None]

    async def dial(self, number: int) -> Caller:
        await asyncio.sleep(number * 0.04)  # people do not dial in the same millisecond
        phone = Phone(
            f"{self._cluster.balancer.url}/twilio/voice#rc=5&rp=all",
            auth_token=AUTH_TOKEN,
            public_url=PUBLIC_URL,
            account_sid=ACCOUNT_SID,
            caller=f"+1555010{next(self._numbers):04}",
            status_callback="/twilio/status",
        )
        caller = Caller(await self._stack.enter_async_context(phone.dial()), self._model, self._cluster)
        self.all.append(caller)
        return caller

    async def leave(self) -> None:
        """All hang up."""
        await asyncio.gather(*(caller.leave() for caller in self.live))

    async def enter(self, situations: Sequence[Situation]) -> None:
        """Bring every live caller into a situation, and new ones into the greeting; all of them at the same time.

        What lasts is entered first, and what is over soonest is entered last.
        """
        at_rest = [situation for situation in situations if situation != "greeting"]
        pairs = list(zip(self.live, at_rest, strict=True))
        for some in _IN_ORDER:
            entering = [caller.enter(situation) for caller, situation in pairs if situation in some]
            if "greeting" in some:
                entering += [self._begin(number) for number in range(situations.count("greeting"))]
            await asyncio.gather(*entering)

    async def _begin(self, number: int) -> None:
        await (await self.dial(number)).enter("greeting")

    def in_process(self, pid: int) -> list[Caller]:
        """The callers that process serves."""
        return [caller for caller in self.live if caller.pids[-1] == pid]


def distribution(callers: Sequence[Caller]) -> str:
    """Return how these callers got their agent back the last time, in a line for each situation."""
    lines = []
    returns = [caller.returns[-1] for caller in callers]
    for situation in sorted({each.situation for each in returns}):
        some = [each for each in returns if each.situation == situation]
        streams = sorted(each.stream_seconds for each in some)
        voices = sorted(each.voice_seconds for each in some if each.voice_seconds is not None)
        voice = f"voice after {_spread(voices)}" if voices else "nobody spoke, as nobody waited"
        lines.append(f"  {situation:9} {len(some):3}: stream after {_spread(streams)}, {voice}")
    return "\n".join(lines)


def _seconds(gone: StreamSpan, later_ms: float) -> float:
    assert gone.end_ms is not None
    return (later_ms - gone.end_ms) / 1000


def _spread(values: Sequence[float]) -> str:
    middle = values[len(values) // 2]
    return f"{values[0]:.2f} / {middle:.2f} / {values[-1]:.2f} s"
