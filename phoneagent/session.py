"""The I/O shell of one call: two readers, two writers, one timer, and the tools.

Every rule is in the bridge; here its inputs are read and its outputs written. A reader writes what its message brought
about by itself, without a queue or a task switch, as long as the other socket takes it; where it does not, one writer
per side waits for it, and everything unsent stays in the bridge.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal, Protocol, TypeAlias

from .agent import Agent
from .call import Call
from .control import Control
from .errors import EndpointError, PhoneAgentError, ProtocolError
from .events import EndedBy, Event, Journal, ModelEvent, NextStep
from .protocol import mediastream, realtime
from .protocol.bridge import Bridge
from .protocol.policy import EndCall, RunTool

log = logging.getLogger("phoneagent.session")

CLOSE_SECONDS = 2.0
"""How long each socket may take to close."""


JOURNAL_SECONDS = 0.5
"""How long a tool waits to be written down before it runs."""

STEP_SECONDS = 5.0
"""How long the end of a call waits for its next step to be settled, one way or another."""

MEASURED_FRAMES = 50
"""Of so many messages one is measured on its way through: once a second of each call."""

Direction: TypeAlias = Literal["to_model", "to_caller"]


class CallerSocket(Protocol):
    """The media socket of a call."""

    async def receive(self) -> str | bytes | None:
        """Return the next message, None when the socket is closed."""

    async def send(self, text: str) -> None:
        """Write a text frame; raises OSError when the socket is closed."""

    async def close(self) -> None:
        """Close the socket."""


class ModelSocket(Protocol):
    """A configured model session."""

    dropped: Any

    async def send(self, message: realtime.ToModel) -> None: ...
    async def receive(self) -> bytes: ...
    async def close(self) -> None: ...


def _start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine at once, up to where it first waits; one that never waits costs no task switch."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), eager_start=True)
    return asyncio.create_task(coroutine)


class Session:
    """Runs one media stream of a call from its `start` message to its end.

    `journal` is written before a tool runs, and before the stream is closed by us. `measure` is told how many seconds a
    message took through here, now and then.
    """

    def __init__(
        self,
        *,
        call: Call,
        agent: Agent,
        bridge: Bridge,
        caller: CallerSocket,
        open_model: Callable[[], Awaitable[ModelSocket]],
        emit: Callable[[Event], None],
        model_events: bool = False,
        journal: Journal | None = None,
        measure: Callable[[Direction, float], None] | None = None,
    ) -> None:
        self._call = call
        self._agent = agent
        self.bridge = bridge
        self._caller = caller
        self._open_model = open_model
        self._emit = emit
        self._model_events = model_events
        self._journal = journal
        self._measure = measure
        self._taken = 0
        self._taken_at = 0.0
        self._leaving: str | None = None
        self._step: NextStep | None = None
        self._loop = asyncio.get_running_loop()
        self._model: ModelSocket | None = None
        self._caller_writer: asyncio.Task[None] | None = None
        self._model_writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tools: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    def hand_over(self, reason: str) -> None:
        """Let the call go on elsewhere, from the first moment on at which nobody notices."""
        self._leaving = reason
        self.flush()

    def hand_over_now(self, reason: str) -> NextStep | None:
        """Let the call go on elsewhere at once, and return where it was; None if it is over."""
        self.bridge.hand_over(self._loop.time(), reason)
        self.flush()
        return self._step

    def end(self, by: EndedBy, reason: str) -> None:
        """The call is over, as is known from elsewhere."""
        self.bridge.caller_gone(self._loop.time(), by, reason)
        self.flush()

    async def run(self, start: mediastream.Start) -> None:
        """Run the call; returns when it is over, and nothing of it is left but tools that have not finished."""
        self._call.attach(Control(self.bridge, lambda: self._agent, flush=self.flush, loop=self._loop))
        model = self._watch(asyncio.create_task(self._run_model()))
        reader = self._watch(asyncio.create_task(self._read_caller()))
        try:
            self.bridge.receive_from_caller(start, self._loop.time())
            self.flush()
            await self._over.wait()
        finally:
            await self._close(reader, model)

    async def _close(self, reader: asyncio.Task[None], model: asyncio.Task[None]) -> None:
        self._give_up("the server stopped the call")  # unless it has ended
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for task in (reader, model, self._caller_writer, self._model_writer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._settle_step()
        closing = [self._caller.close()] + ([self._model.close()] if self._model is not None else [])
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*closing, return_exceptions=True)
        self._call.attach(None)

    async def finish_tools(self) -> None:
        """Let the tools of a call that is over come to their end, and tell it.

        One in the middle of its work (a booking, a payment) is better finished than cut; each has its own limit.
        """
        await asyncio.gather(*self._tools, return_exceptions=True)
        self._tell()

    async def _settle_step(self) -> None:
        """Have it written what comes next, before Twilio asks for it."""
        if self._journal is None or self._step is None:
            return
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await self._journal.next_step(self._call.sid, self._step)
        except (PhoneAgentError, TimeoutError) as error:
            why = str(error) or f"it took longer than {STEP_SECONDS:g} s"
            log.error("the next step of the call is not settled: %s", why, extra={"call_sid": self._call.sid})

    def _watch(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """End the call, and only this call, should one of its tasks fail in a way that nobody foresaw."""
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            error: BaseException | None = None if self._over.is_set() else asyncio.CancelledError()
        else:
            error = task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.error("call ended by a fault of phoneagent", exc_info=error, extra={"call_sid": self._call.sid})
        self._give_up(f"internal fault: {type(error).__name__}")

    def _give_up(self, reason: str) -> None:
        """End our part by a fault of ours; with a journal, Twilio connects the call again."""
        self._over.set()
        if self._journal is None:
            self.bridge.caller_gone(self._loop.time(), "error", reason)
        else:
            self.bridge.hand_over(self._loop.time(), reason)
        for request in self.bridge.requests():
            if isinstance(request, EndCall):
                self._take_step(request.next_step)
        self._tell()

    # --- readers --------------------------------------------------------------------------------------------------

    async def _read_caller(self) -> None:
        while (text := await self._caller.receive()) is not None:
            if isinstance(text, bytes):
                self._report("Media Streams message ignored: a binary frame")
                continue
            try:
                message = mediastream.decode(text)
            except ProtocolError as error:
                self._report(str(error))
                continue
            self._taken_at = self._loop.time()
            self.bridge.receive_from_caller(message, self._taken_at)
            self.flush()
        self.bridge.caller_gone(self._loop.time())
        self.flush()

    async def _run_model(self) -> None:
        try:
            self._model = await self._open_model()
            for refused in self._model.dropped:
                self._report(f"the model does without {refused}")
            self.bridge.model_connected(self._loop.time())
            self.flush()
            while True:
                self._take_event(await self._model.receive())
        except EndpointError as error:
            self._lost(str(error))

    def _take_event(self, raw: bytes) -> None:
        try:
            event = realtime.decode(raw)
            data = realtime.as_dict(raw) if self._model_events else {}
        except ProtocolError as error:
            self._report(str(error))
            return
        if self._model_events:
            self._emit(ModelEvent(call_sid=self._call.sid, type=data["type"], data=data))
        self._taken_at = self._loop.time()
        self.bridge.receive_from_model(event, self._taken_at)
        self.flush()

    def _lost(self, reason: str) -> None:
        self.bridge.model_lost(self._loop.time(), reason)
        self.flush()

    def _report(self, what: str) -> None:
        self.bridge.narration.trouble(what, self._loop.time())
        self._tell()

    # --- writers --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write, do and tell what the bridge has; never waits."""
        if self._over.is_set():
            return
        if self._leaving is not None and self.bridge.quiet(self._loop.time()):
            self.bridge.hand_over(self._loop.time(), self._leaving)
        if self._caller_writer is None or self._caller_writer.done():
            message = self.bridge.next_to_caller(self._loop.time())
            if message is not None:
                self._caller_writer = self._watch(_start(self._write_caller(message)))
        if self._model is not None and (self._model_writer is None or self._model_writer.done()):
            event = self.bridge.next_to_model()
            if event is not None:
                self._model_writer = self._watch(_start(self._write_model(self._model, event)))
        for request in self.bridge.requests():
            match request:
                case RunTool():
                    task = self._watch(asyncio.create_task(self._run_tool(request)))
                    self._tools.add(task)
                    task.add_done_callback(self._tools.discard)
                case EndCall():
                    self._take_step(request.next_step)
                    self._over.set()
        self._tell()
        self._set_timer()

    def _take_step(self, step: NextStep | None) -> None:
        if step is not None:
            data = {**step.data, "stream_sid": self.bridge.stream_sid}
            self._step = NextStep(kind=step.kind, data=data)

    def _measured(self, direction: Direction) -> None:
        """A message that was taken at `_taken_at` is on its way."""
        self._taken += 1
        if self._measure is not None and self._taken % MEASURED_FRAMES == 0:
            self._measure(direction, self._loop.time() - self._taken_at)

    async def _write_caller(self, message: mediastream.ToCaller | None) -> None:
        stream_sid = self.bridge.stream_sid or ""
        try:
            while message is not None:
                await self._caller.send(mediastream.encode(message, stream_sid))
                self._measured("to_caller")
                message = self.bridge.next_to_caller(self._loop.time())
        except OSError:
            self.bridge.caller_gone(self._loop.time())
            self._loop.call_soon(self.flush)

    async def _write_model(self, model: ModelSocket, event: realtime.ToModel | None) -> None:
        try:
            while event is not None:
                await model.send(event)
                self._measured("to_model")
                event = self.bridge.next_to_model()
        except EndpointError as error:
            self._loop.call_soon(self._lost, str(error))

    def _tell(self) -> None:
        for event in self.bridge.events():
            self._emit(event)

    # --- the timer and the tools ----------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due = self.bridge.get_timer()
        if due is None:
            return
        if self._timer is not None:
            if self._timer.when() <= due:
                return  # it fires too early, changes nothing then, and is set anew
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.bridge.handle_timer(self._loop.time())
            self.flush()
        except Exception as error:  # noqa: BLE001 - without its timer a call would go on in silence
            self._fail(error)

    async def _run_tool(self, request: RunTool) -> None:
        tool = self._agent.tool(request.name)
        if tool is None:
            output = json.dumps({"error": f"there is no tool named {request.name}"})
        else:
            await self._note_tool(request)
            output = await tool.run(self._call, request.arguments)
        self.bridge.tool_returned(request.call_id, output, self._loop.time())
        self.flush()

    async def _note_tool(self, request: RunTool) -> None:
        """Write down that the tool is about to run; a database that is away does not keep the caller waiting."""
        if self._journal is None:
            return
        try:
            async with asyncio.timeout(JOURNAL_SECONDS):
                await self._journal.tool_started(self._call.sid, request.call_id, request.name, request.arguments)
        except (PhoneAgentError, TimeoutError):
            self._report("a tool runs that could not be written down before")
