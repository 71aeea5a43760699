"""The load: calls that one process plays from both ends, as Twilio and as the model, paced by one clock."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from benchmarks.call import Call
from benchmarks.flow import FRAME_SECONDS, Flow, summary
from benchmarks.model import SPEECH_SECONDS, ModelServer
from benchmarks.phone import PUBLIC_URL, Phone, Signer, form_of, post, stream_of
from benchmarks.process import Usage
from benchmarks.results import BargeIns, Generator, Side, Window

SLOTS = 10
SLOT_SECONDS = FRAME_SECONDS / SLOTS
"""All calls are spread over the slots of a frame's 20 ms, so that the generator causes no bursts."""

OPEN_SECONDS = 15.0
"""How long a call may take to be connected at both ends."""

LOOK_SECONDS = 0.01
"""How often to check whether a call has progressed as it should."""

DRAIN_SECONDS = 5.0
"""How long after a window its last frames may arrive before they count as lost."""

RESUME_SECONDS = 1.0
"""How long after the caller's words the agent may take to be heard again."""


class Clock:
    """One timer for all calls. `lateness` has how late each slot was, in seconds."""

    def __init__(self) -> None:
        self.lateness: list[float] = []
        self._slots: list[list[Callable[[float], None]]] = [[] for _ in range(SLOTS)]
        self._slot = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick."""
        self._due = perf_counter()
        self._tick()

    def stop(self) -> None:
        """Stop ticking."""
        if self._timer is not None:
            self._timer.cancel()

    def add(self, action: Callable[[float], None]) -> None:
        """Run `action` every 20 ms, in the slot with the fewest others."""
        min(self._slots, key=len).append(action)

    def remove(self, action: Callable[[float], None]) -> None:
        """Stop running `action`."""
        for slot in self._slots:
            if action in slot:
                slot.remove(action)

    def _tick(self) -> None:
        now = perf_counter()
        while self._due <= now:
            self.lateness.append(now - self._due)
            for action in self._slots[self._slot]:
                action(perf_counter())
            self._slot = (self._slot + 1) % SLOTS
            self._due += SLOT_SECONDS
            now = perf_counter()
        # At least a millisecond, the timer's resolution: uvloop would spin on a shorter delay.
        self._timer = asyncio.get_running_loop().call_later(max(0.001, self._due - now), self._tick)


@dataclass(slots=True)
class _Line:
    """A call and its two sockets."""

    call: Call
    phone: Phone | None = None
    model: ModelServer | None = None


class Load:
    """Full-duplex calls through the bridge at `address`, whose webhook is at `voice_path`.

    `status_path`: where Twilio would report that a call is over, None for no report. `distance_seconds`: how long
    Twilio takes from the webhook's answer to the media socket, and the model to answer a handshake.
    """

    def __init__(
        self,
        address: tuple[str, int],
        voice_path: str,
        status_path: str | None = None,
        *,
        distance_seconds: float = 0.0,
    ) -> None:
        self.distance_seconds = distance_seconds
        self._address = address
        self._voice_path = voice_path
        self._status_path = status_path
        self._signer = Signer()
        self._clock = Clock()
        self._lines: dict[str, _Line] = {}
        self._up: list[float] = []
        self._down: list[float] = []
        self._past_faults: Counter[str] = Counter()

    @property
    def calls(self) -> list[Call]:
        """Return the calls, oldest first."""
        return [line.call for line in self._lines.values()]

    def session_begun(self, sid: str, model: ModelServer) -> Call | None:
        """Assign a model session to one of our calls."""
        line = self._lines.get(sid)
        if line is None:
            return None
        line.model = model
        self._clock.add(model.tick)
        return line.call

    def session_ended(self, model: ModelServer) -> None:
        """Note the end of a session."""
        self._clock.remove(model.tick)

    def start(self) -> None:
        """Begin the clock."""
        self._clock.start()

    def stop(self) -> None:
        """End the clock."""
        self._clock.stop()

    # --- calls come and go ---

    async def grow(self, number: int, *, per_second: float) -> list[Call]:
        """Add calls until there are `number`; return the new ones.

        Raises:
            ConnectionError: a call was not connected.
        """
        began, missing = perf_counter(), number - len(self._lines)
        tasks = []
        for index in range(missing):
            await asyncio.sleep(max(0.0, began + index / per_second - perf_counter()))
            tasks.append(asyncio.create_task(self.dial()))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [each for each in found if isinstance(each, Call)]

    async def short_call(self) -> None:
        """Make a call that ends once the first of its greeting was heard.

        Raises:
            ConnectionError: it was not connected.
        """
        call = await self.dial(lambda call: call.greeted_at is not None)
        line = self._lines[call.sid]
        await self._hang_up(line)
        await self._gone(line)

    async def dial(self, until: Callable[[Call], bool] = lambda call: call.talking) -> Call:
        """Begin one call; return when `until` is true, by default when its audio flows both ways.

        Raises:
            ConnectionError: it was not connected.
        """
        call = Call(Flow(self._up), Flow(self._down))
        line = self._lines[call.sid] = _Line(call)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._connect(line)
                while not until(call):
                    await asyncio.sleep(LOOK_SECONDS)
                    if call.fault is not None:
                        raise ConnectionError(call.fault)
        except TimeoutError:
            self._cut(line)
            missing = "the model heard nothing" if call.accepted_at is None else "the agent did not answer"
            raise ConnectionError(f"a call was not connected within {OPEN_SECONDS:g} s: {missing}") from None
        except (OSError, ValueError) as error:
            self._cut(line)
            raise ConnectionError(f"a call was not connected: {error}") from error
        return call

    async def _connect(self, line: _Line) -> None:
        """Request the webhook, and open the media socket that it names."""
        call = line.call
        form = form_of(call, "ringing")
        headers = self._signer.headers(PUBLIC_URL + self._voice_path, form)

        def written(now: float) -> None:
            call.dialed_at = now

        status, twiml = await post(self._address, self._voice_path, headers, form, written)
        if status != 200:
            raise ConnectionError(f"the webhook answered {status}: {twiml[:200]}")
        url, parameters = stream_of(twiml)
        answered_at = perf_counter()
        await asyncio.sleep(self.distance_seconds)
        call.connecting_seconds = perf_counter() - answered_at
        phone = Phone(call, url, parameters, self._signer)
        await asyncio.get_running_loop().create_connection(lambda: phone, *self._address)
        line.phone = phone
        await phone.opened
        self._clock.add(phone.tick)

    async def shrink(self, number: int) -> None:
        """Hang up the newest calls until `number` are left, and wait until their sockets have ended."""
        gone = list(self._lines.values())[number:]
        for line in gone:
            await self._hang_up(line)
        await asyncio.gather(*(self._gone(line) for line in gone))

    async def _hang_up(self, line: _Line) -> None:
        line.call.over = True
        if line.phone is None:
            return
        self._clock.remove(line.phone.tick)
        if not line.phone.closed.done():
            line.phone.hang_up()
        if self._status_path is not None:
            form = form_of(line.call, "completed")
            headers = self._signer.headers(PUBLIC_URL + self._status_path, form)
            await post(self._address, self._status_path, headers, form)

    async def _gone(self, line: _Line) -> None:
        """Wait until a call's sockets have ended, and forget the call."""
        sockets = [side.closed for side in (line.phone, line.model) if side is not None]
        if sockets:
            _, open_ = await asyncio.wait(sockets, timeout=OPEN_SECONDS)
            if open_:
                line.call.fault = line.call.fault or f"a socket was open {OPEN_SECONDS:g} s after the hang-up"
        self._cut(line)

    def _cut(self, line: _Line) -> None:
        line.call.over = True
        if line.call.fault is not None:
            self._past_faults[line.call.fault] += 1
        if line.phone is not None:
            self._clock.remove(line.phone.tick)
            line.phone.abort()
        del self._lines[line.call.sid]

    # --- measuring ---

    async def measure(self, seconds: float, usage: Callable[[], Usage]) -> Window:
        """Measure everything for that long, then wait for the frames in flight.

        `usage` returns the CPU time that the bridge has used so far.
        """
        flows = [(call.up, call.down) for call in self.calls]
        gaps = [(up.missing, down.missing) for up, down in flows]
        self._up.clear()
        self._down.clear()
        self._clock.lateness.clear()
        gc.collect()
        gc.disable()  # a pause of the generator would look like one of the bridge
        own, before, began = time.process_time(), usage(), perf_counter()
        await asyncio.sleep(seconds)
        lasted = perf_counter() - began
        after = usage()
        generator = self._generator(time.process_time() - own, lasted)
        to_model, to_caller = list(self._up), list(self._down)
        sent = [(up.sent, down.sent) for up, down in flows]
        gc.enable()

        def lost() -> list[tuple[int, int]]:
            return [
                (up.lost(gap[0], number[0]), down.lost(gap[1], number[1]))
                for (up, down), gap, number in zip(flows, gaps, sent, strict=True)
            ]

        for _ in range(round(DRAIN_SECONDS / FRAME_SECONDS)):
            if not any(map(any, lost())):
                break
            await asyncio.sleep(FRAME_SECONDS)
        counts = lost()
        used_ms = after.bridge_ms - before.bridge_ms
        others_ms = max(0.0, after.others_ms - before.others_ms)
        return Window(
            calls=len(flows),
            seconds=lasted,
            cpu_ms=used_ms / lasted / max(1, len(flows)),
            to_model=Side(summary(to_model), sum(count[0] for count in counts)),
            to_caller=Side(summary(to_caller), sum(count[1] for count in counts)),
            broken=sum(1 for call in self.calls if call.fault is not None),
            generator=generator,
            others=others_ms / (lasted * 1000 * after.cores),
        )

    def _generator(self, cpu_seconds: float, seconds: float) -> Generator:
        late = summary(self._clock.lateness)
        return Generator(cpu_share=cpu_seconds / seconds, late_p99_ms=late.p99, late_max_ms=late.max)

    async def barge_in(self, rounds: int) -> BargeIns:
        """Have each caller interrupt the agent, one after another, `rounds` times."""
        calls = self.calls
        models = [line.model for line in self._lines.values() if line.model is not None]
        for call in calls:
            call.reactions.clear()
        for _ in range(rounds):
            for model in models:
                model.barge_in()
                await asyncio.sleep(1 / len(models))
            await asyncio.sleep(SPEECH_SECONDS + RESUME_SECONDS)
        reactions = [each for call in calls for each in call.reactions]
        silent = sum(1 for call in calls if call.resumed_at is None)
        return BargeIns(len(calls), summary(reactions), rounds * len(models) - len(reactions), silent)

    def limit_answers(self, seconds: float | None) -> None:
        """Have each answer that begins from now on end after this long; None: when it is interrupted."""
        for line in self._lines.values():
            if line.model is not None:
                line.model.answer_frames = None if seconds is None else round(seconds / FRAME_SECONDS)

    def faults(self) -> Counter[str]:
        """Return the faults of the calls so far, with their counts."""
        return self._past_faults + Counter(call.fault for call in self.calls if call.fault is not None)


class ModelPort:
    """The port of the simulated model, served by the current load."""

    def __init__(self) -> None:
        self.load: Load | None = None
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listen on loopback."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    @property
    def url(self) -> str:
        """Return the URL that a bridge connects to."""
        return f"ws://127.0.0.1:{self.port}"

    def _accept(self) -> ModelServer:
        opening_seconds = 0.0 if self.load is None else self.load.distance_seconds
        return ModelServer(self._begun, self._ended, opening_seconds)

    def _begun(self, sid: str, model: ModelServer) -> Call | None:
        return None if self.load is None else self.load.session_begun(sid, model)

    def _ended(self, model: ModelServer) -> None:
        if self.load is not None:
            self.load.session_ended(model)
