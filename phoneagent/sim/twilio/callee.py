"""The far ends of calls that a client makes: people, answering machines, faxes, menus, and unanswered phones.

    anna = Callee("+15550100009", person(voice.render("Hello?"), "Hello?"))
    async with Exchange(phone, anna, Callee("+15550100008", machine(voice.render(greeting), greeting))) as exchange:
        ...                             # a client makes calls by the REST API of `phone`
        line = await anna.called()      # the first call with Anna, once she has answered
        await anna.over()
    assert exchange.failures == []

The exchange rings the callee that a call is for, runs the call's TwiML, and delivers its callbacks.
"""

from __future__ import annotations

import asyncio
import math
import sys
from array import array
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self, TypeAlias

from phoneagent.protocol.audio import SAMPLE_RATE, encode_ulaw
from phoneagent.sim.speech import Voice
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.amd import BEEP, FAX, detect
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.menu import Menu
from phoneagent.sim.twilio.phone import Phone
from phoneagent.sim.twilio.rest import PlacedCall

RING_SECONDS = 6.0
"""The time from one ring to the next, as in North America."""

RECORDS_SECONDS = 60.0
"""How long a machine records after its beep, before it hangs up."""

Outcome: TypeAlias = Literal["answers", "busy", "no-answer", "declines", "failed"]
Conduct: TypeAlias = Callable[[Line], Awaitable[object]]
"""A far end's behavior on an answered call. The call goes on when it returns, and ends when it raises an exception.

After a CallFailed or a TimeoutError, which an `Exchange` adds to its failures, the call of a client goes on.
"""

_STATUS: Mapping[str, str] = {"busy": "busy", "declines": "busy", "failed": "failed"}
"""The CallStatus of each outcome. That a decline is reported as busy is an assumption: it is not documented."""


async def silent(line: Line) -> None:
    """Say nothing."""


def person(hello: bytes, text: str, then: Conduct = silent, *, after_seconds: float = 0.4) -> Conduct:
    """Return a person who says `hello`, and then behaves like `then`."""

    async def conduct(line: Line) -> None:
        await asyncio.sleep(after_seconds)
        await line.say(hello, text)
        await then(line)

    return conduct


def machine(
    greeting: bytes,
    text: str,
    *,
    beep: bytes | None = None,
    pause_seconds: float = 0.8,
    records_seconds: float = RECORDS_SECONDS,
) -> Conduct:
    """Return an answering machine: its greeting, the beep (b"" for none), and then the recording.

    `recorded(line)` returns the recording.
    """
    tone = sound(1000, 0.4) if beep is None else beep

    async def conduct(line: Line) -> None:
        await asyncio.sleep(0.5)
        await line.say(greeting, text)
        await asyncio.sleep(pause_seconds)
        if tone:
            await line.say(tone, BEEP)
        await asyncio.sleep(records_seconds)
        await line.hang_up()

    return conduct


def fax(*, seconds: float = 3.3) -> Conduct:
    """Return a fax machine: its answer tone (CED), and a hang-up when no fax comes."""

    async def conduct(line: Line) -> None:
        await asyncio.sleep(0.5)
        await line.say(sound(2100, seconds), FAX)
        await asyncio.sleep(10)
        await line.hang_up()

    return conduct


def menu(options: Menu, *, voice: Voice | None = None) -> Conduct:
    """Return a phone menu, which hangs up if no key leads anywhere."""

    async def conduct(line: Line) -> None:
        with suppress(CallFailed):
            await options.answer(line, voice=voice)
        if line.ended_by is None:
            await line.hang_up()

    return conduct


def sound(hz: float, seconds: float, *, amplitude: int = 8000) -> bytes:
    """Return a tone in µ-law, for beeps."""
    count = int(seconds * SAMPLE_RATE)
    samples = array("h", (round(amplitude * math.sin(2 * math.pi * hz * n / SAMPLE_RATE)) for n in range(count)))
    if sys.byteorder == "big":
        samples.byteswap()
    return encode_ulaw(samples.tobytes())


def recorded(line: Line) -> bytes:
    """Return a machine's recording: the audio that it heard since the end of its last beep, in µ-law."""
    ends = [each.end_ms for each in line.speech if each.text == BEEP]
    return line.heard_audio()[int(ends[-1] * 8) :] if ends else b""


@dataclass(eq=False, slots=True)
class Callee:
    """A party that can be called at `number`: it rings `rings` times, and then the `outcome` follows.

    `no-answer` rings until the call is given up. `answered_by` overrides the result of the answering machine detection,
    to simulate its mistakes; it is reported `amd_after_seconds` after the answer.

    Attributes:
        rung: how many calls rang here.
        lines: the answered calls, in order.
    """

    number: str
    conduct: Conduct = silent
    rings: int = 1
    outcome: Outcome = "answers"
    answered_by: str | None = None
    amd_after_seconds: float = 4.0
    rung: int = 0
    lines: list[Line] = field(default_factory=list, repr=False)
    ended: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition, repr=False)

    async def ring(self, timeout: float) -> str:
        """Ring, and return the call's status: in-progress once it is answered."""
        self.rung += 1
        seconds = 0.0 if self.outcome in ("busy", "failed") else self.rings * RING_SECONDS
        if self.outcome == "no-answer" or seconds > timeout:
            await asyncio.sleep(timeout)
            return "no-answer"
        await asyncio.sleep(seconds)
        return _STATUS.get(self.outcome, "in-progress")

    async def called(self, number: int = 1, *, timeout: float = 120) -> Line:
        """Wait for the n-th answered call, counted from 1, and return it.

        Raises:
            TimeoutError: it did not come within `timeout` seconds.
        """
        await self._until(lambda: len(self.lines) >= number, timeout)
        return self.lines[number - 1]

    async def over(self, number: int = 1, *, timeout: float = 300) -> None:
        """Wait until n calls that rang here are over, answered or not.

        Raises:
            TimeoutError: they are not within `timeout` seconds.
        """
        await self._until(lambda: self.ended >= number, timeout)

    async def _until(self, happened: Callable[[], bool], timeout: float) -> None:
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(happened)

    async def note(self, line: Line | None = None) -> None:
        """Record a call that was answered, or, without a `line`, one that is over."""
        async with self._changed:
            if line is None:
                self.ended += 1
            else:
                self.lines.append(line)
            self._changed.notify_all()


class Exchange:
    """The telephone network behind the REST API of `phone`: it connects each call of a client to its callee.

    A call to a number without a callee ends as `failed`. Leaving the context hangs up the remaining calls.

    Attributes:
        failures: why answered calls failed: their TwiML, or a far end that waited for something in vain or raised an
            exception. Such an exception ends its call, and leaving the context raises the first one.
    """

    def __init__(self, phone: Phone, *callees: Callee) -> None:
        if phone.rest is None:
            raise ValueError("an Exchange takes calls that are made by a REST API; give one: Phone(..., rest=rest)")
        self._phone, self._rest = phone, phone.rest
        self._callees = {callee.number: callee for callee in callees}
        phone.network.parties |= self._callees
        self.failures: list[str] = []
        self._raised: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._taking = asyncio.create_task(self._take())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._taking.cancel()
        tasks = [self._taking, *self._tasks]
        await asyncio.gather(*(line.hang_up() for callee in self._callees.values() for line in callee.lines))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if error is None and self._raised:
            raise self._raised[0]

    async def _take(self) -> None:
        while True:
            placed = await self._rest.wait_for_call(math.inf)
            task = asyncio.create_task(self._connect(placed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, placed: PlacedCall) -> None:
        number = placed.params["To"]
        callee = self._callees.get(number) or Callee(number, outcome="failed")
        try:
            await self._phone.ring(placed, _FarEnd(callee, placed.params, self.failures))
        except CallFailed as failure:
            self.failures.append(str(failure))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - of a conduct, like that of `pytest.fail`; `__aexit__` raises it
            self.failures.append(f"{type(error).__name__}: {error}")
            self._raised.append(error)
        finally:
            await callee.note()


class _FarEnd:
    """One call with a callee."""

    def __init__(self, callee: Callee, form: Mapping[str, str], failures: list[str]) -> None:
        self._callee = callee
        self._form = form
        self._failures = failures

    async def ring(self) -> str:
        return await self._callee.ring(float(self._form.get("Timeout", 60)))

    async def answer(self, line: Line, notify: Callable[[str, Mapping[str, str], str], None]) -> None:
        """Act as the callee on a call, and detect answering machines, until the call is over."""
        await self._callee.note(line)
        answered_by = (self._callee.answered_by, self._callee.amd_after_seconds)
        detecting = asyncio.create_task(detect(line, self._form, notify, self._failures.append, *answered_by))
        try:
            await self._callee.conduct(line)
        except (CallFailed, TimeoutError) as failure:
            if line.ended_by is None:
                self._failures.append(str(failure))
        finally:
            await asyncio.wait({detecting})
            detecting.result()
