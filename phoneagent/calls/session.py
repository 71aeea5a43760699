"""The I/O shell of one call: two readers, two writers, one timer, and the tools.

Every rule is in the bridge; here its inputs are read and its outputs written. A reader writes what its message brought
about by itself, without a queue or a task switch, as long as the other socket takes it; where it does not, one writer
per side waits for it, and everything unsent stays in the bridge.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Call, sendable
from phoneagent.agent.tools import Tool
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import EndCall, NoteStep, OpenNext, Renew, RunTool
from phoneagent.bridge.responses import ANSWERS
from phoneagent.bridge.toolcalls import Filler
from phoneagent.calls.active_agent import ActiveAgent
from phoneagent.calls.control import Control
from phoneagent.calls.guardrail import Guard
from phoneagent.calls.toolrunner import ToolRunner
from phoneagent.errors import EndpointError, EndpointUnreachable, PhoneAgentError, ProtocolError
from phoneagent.events import EndedBy, Event, Journal, ModelEvent, NextStep
from phoneagent.protocol import mediastream, realtime

log = logging.getLogger("phoneagent.calls.session")

CLOSE_SECONDS = 2.0
"""How long each socket may take to close."""

STEP_SECONDS = 5.0
"""How long the end of a call waits for its next step to be settled, one way or another."""

FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 1.6
"""Between two attempts to open another model session; the first comes at once."""

LATE_SECONDS = 1.0
"""A timer that fires so late was held up, and with it everything that came meanwhile: that is read first."""

CATCH_UP_SECONDS = 0.1
MEASURED_FRAMES = 50
"""Of so many messages one is measured on its way through: once a second of each call."""

_T = TypeVar("_T")
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
    effective: Mapping[str, Any]

    async def send(self, message: realtime.ToModel) -> None: ...
    async def receive(self) -> bytes: ...
    def decode(self, raw: bytes) -> realtime.FromModel: ...
    async def close(self) -> None: ...
    def abort(self) -> None: ...


def _start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine at once, up to where it first waits; one that never waits costs no task switch."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), eager_start=True)
    return asyncio.create_task(coroutine)


class Session:
    """Runs one media stream of a call from its `start` message to its end.

    `open_model` is told whether to look for another endpoint than that of the session before, if there is one.
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
        open_model: Callable[[bool], Awaitable[ModelSocket]],
        emit: Callable[[Event], None],
        model_events: bool = False,
        journal: Journal | None = None,
        measure: Callable[[Direction, float], None] | None = None,
    ) -> None:
        self._call = call
        self.bridge = bridge
        self._active_agent = ActiveAgent(
            agent,
            call,
            past=bridge.tools.past,
            reconfigure=bridge.tools.reconfigure,
            speaks=bridge.reporter.speaks,
            voice_fixed=lambda: bridge.responses.ever_spoke,
        )
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
        self._next_model: asyncio.Task[ModelSocket | None] | None = None
        self._elsewhere = False
        self._caller_writer: asyncio.Task[None] | None = None
        self._model_writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._guard = Guard(call, replace=self._say_instead, report=self._report)
        self._runner = ToolRunner(
            call, journal, past=bridge.tools.past, report=self._report, moved=self._goes_on_elsewhere
        )
        self._control = Control(
            bridge,
            lambda: self._active_agent.agent,
            manual=agent.turn_detection is None,
            flush=self.flush,
            loop=self._loop,
        )
        self._unfinished: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    def hand_over(self, reason: str) -> None:
        """Let the call go on elsewhere, from the first moment on at which nobody notices. Never raises."""
        self._leaving = reason
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - the other calls are to be handed over as well
            self._fail(error)

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
        self._call.attach(self._control)
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
        ours = (reader, model, self._next_model, self._caller_writer, self._model_writer, self._guard.task)
        tasks = [task for task in ours if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._settle_step()  # never raises: the sockets are to be closed
        closing = [self._caller.close()] + ([self._model.close()] if self._model is not None else [])
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*closing, return_exceptions=True)
        self._call.attach(None)

    async def finish_tools(self) -> None:
        """Let the tools of a call that is over come to their end, and tell it.

        One in the middle of its work (a booking, a payment) is better finished than cut; each has its own limit.
        """
        await asyncio.gather(*self._unfinished, return_exceptions=True)
        self._tell()

    async def _settle_step(self) -> None:
        """Have it written what comes next, before Twilio asks for it."""
        if self._step is not None:
            await self._write_step(self._step, early=False)

    async def _write_step(self, step: NextStep, *, early: bool) -> None:
        if self._journal is None:
            return
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await self._journal.next_step(self._call.sid, step, early=early)
        except (PhoneAgentError, TimeoutError) as error:
            why = str(error) or f"it took longer than {STEP_SECONDS:g} s"
            log.error("the next step of the call is not settled: %s", why, extra={"call_sid": self._call.sid})
        except Exception:  # whatever the journal raises: Twilio asks, and the caller is not left on a dead line
            log.exception("the next step of the call is not settled", extra={"call_sid": self._call.sid})

    def _watch(self, task: asyncio.Task[_T]) -> asyncio.Task[_T]:
        """End the call, and only this call, should one of its tasks fail in a way that nobody foresaw."""
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
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
                self._take_step(request.next_step, broke=True)
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
        """Hold a model session, and open another one where it is lost, as long as the bridge thinks it worthwhile."""
        pause = 0.0
        while True:
            try:
                self._model = model = await self._another_model()
                pause, lost = 0.0, await self._hold(model)
            except EndpointUnreachable as error:
                lost = str(error)
            except EndpointError as error:  # all of them would say the same again
                self._lost(str(error))
                return
            going_on = self.bridge.model_away(self._loop.time(), lost)
            self.flush()
            if not going_on:
                return
            await asyncio.sleep(pause)
            pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LAST_PAUSE_SECONDS)

    async def _another_model(self) -> ModelSocket:
        coming, self._next_model = self._next_model, None
        elsewhere, self._elsewhere = self._elsewhere, False
        if coming is not None and (model := await coming) is not None:
            if not elsewhere:
                return model
            model.abort()  # it stands at the endpoint that is of no use
        return await self._open_model(elsewhere)

    async def _prepare_next(self) -> ModelSocket | None:
        """Open the session that is to come, while there is one."""
        model: ModelSocket | None = None
        try:
            model = await self._open_model(False)
        except EndpointError as error:
            self._report(f"the next model session did not come: {error}")
            self._next_model = None
        self.bridge.renewal.rotation.opened(self._loop.time(), ready=model is not None)
        self.flush()
        return model

    async def _hold(self, model: ModelSocket) -> str:
        """Tell a new session where the call is, and read it to its end; return how that came."""
        for refused in model.dropped:
            self._report(f"the model does without {refused}")
        self.bridge.budget.new_session(model.effective, self._loop.time())
        await self._keep_agent()
        expires_at = realtime.expires_at_of(model.effective)
        self.bridge.model_connected(self._loop.time(), None if expires_at is None else expires_at - time.time())
        self.flush()
        try:
            while True:
                self._take_event(model, await model.receive())
        except EndpointUnreachable as error:
            return str(error)
        except EndpointError as error:  # it throws us out: whether it lets us in again, the next opening tells
            self._elsewhere = True
            return str(error)
        finally:
            model.abort()

    async def _keep_agent(self) -> None:
        try:
            await self._active_agent.session_opened()
        except Exception as error:  # a user's function, or too slow
            log.exception("the agent who had the call cannot go on with it", extra={"call_sid": self._call.sid})
            self._report(f"the agent who answered has the call again: {type(error).__name__}")

    def _take_event(self, model: ModelSocket, raw: bytes) -> None:
        try:
            event = model.decode(raw)
            data = realtime.as_dict(raw) if self._model_events else {}
        except ProtocolError as error:
            self._report(str(error))
            return
        if self._model_events:
            self._emit(ModelEvent(call_sid=self._call.sid, type=data["type"], data=data))
        self._taken_at = self._loop.time()
        self._active_agent.receive(event)
        self.bridge.receive_from_model(event, self._taken_at)
        if isinstance(event, realtime.TranscriptDelta | realtime.TranscriptDone):
            self._show_guard(event)
        elif isinstance(event, realtime.Unknown) and event.type in realtime.MCP_FAILURES:
            self._report(realtime.MCP_FAILURES[event.type])
        self.flush()

    def _lost(self, reason: str) -> None:
        self.bridge.model_lost(self._loop.time(), reason)
        self.flush()

    def _report(self, what: str) -> None:
        self.bridge.reporter.trouble(what, self._loop.time())
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
                    self._start_tool(request)
                case OpenNext():
                    if self._next_model is None:
                        self._next_model = self._watch(asyncio.create_task(self._prepare_next()))
                case Renew(elsewhere=elsewhere):
                    self._elsewhere = elsewhere
                    if self._model is not None:
                        self._model.abort()  # which ends its reader
                case NoteStep(step=step):
                    self._aside(self._write_step(self._of_this_stream(step), early=True))
                case EndCall():
                    self._take_step(request.next_step)
                    self._over.set()
        self._tell()
        self._set_timer()

    def _take_step(self, step: NextStep | None, **more: Any) -> None:
        if step is not None:
            self._step = self._of_this_stream(step, **more)

    def _of_this_stream(self, step: NextStep, **more: Any) -> NextStep:
        return NextStep(kind=step.kind, data={**step.data, **more, "stream_sid": self.bridge.stream_sid})

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that may outlive the stream."""
        task = self._watch(asyncio.create_task(work))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

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
            pass  # its reader knows better how it ended: a `stop` may be on the way

    async def _write_model(self, model: ModelSocket, event: realtime.ToModel | None) -> None:
        try:
            while event is not None:
                await model.send(event)
                self._measured("to_model")
                event = self.bridge.next_to_model()
        except EndpointError:
            pass  # the reader finds out too

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

    def _on_timer(self, *, caught_up: bool = False) -> None:
        late = not caught_up and self._timer is not None and self._loop.time() - self._timer.when() > LATE_SECONDS
        self._timer = None
        if late:  # else a tool that held up the loop would make dead lines of all calls
            self._timer = self._loop.call_later(CATCH_UP_SECONDS, partial(self._on_timer, caught_up=True))
            return
        try:
            self.bridge.handle_timer(self._loop.time())
            self.flush()
        except Exception as error:  # noqa: BLE001 - without its timer a call would go on in silence
            self._fail(error)

    def _goes_on_elsewhere(self) -> bool:
        return self._over.is_set() and self._step is not None and self._step.kind == "resume"

    def _start_tool(self, request: RunTool) -> None:
        tool = self._active_agent.tool(request.name)
        if tool is not None and tool.filler is not None:
            self.bridge.tools.fill(request.call_id, Filler(tool.filler, tool.filler_after))
        self._aside(self._run_tool(tool, request))

    def _show_guard(self, event: realtime.TranscriptDelta | realtime.TranscriptDone) -> None:
        guardrail, responses = self._active_agent.agent.guardrail, self.bridge.responses
        answers = responses.ask is None or responses.ask.kind in ANSWERS  # and is not told what to say
        if guardrail is None or not answers or not responses.accepts(event.response_id):
            return
        complete = isinstance(event, realtime.TranscriptDone)
        words = event.transcript if isinstance(event, realtime.TranscriptDone) else event.delta
        self._guard.words(guardrail, event.response_id, event.item_id, words, complete=complete)

    def _say_instead(self, text: str) -> None:
        now = self._loop.time()
        self.bridge.interrupt(now)
        self.bridge.say(sendable(text), now)
        self.flush()

    async def _run_tool(self, tool: Tool | None, request: RunTool) -> None:
        output = await self._runner.run(tool, request)
        self.bridge.tool_returned(request.call_id, output, self._loop.time())
        self.flush()
