"""The I/O shell of one call: it reads and writes both sockets, runs the tools, and keeps the bridge's one timer.

Every rule is in the bridge; the session reads its inputs and writes its outputs. A socket passes each message to the
session at once, and the session writes the results of the message, without a queue or a task, as long as the other
socket accepts them. The rest stays in the bridge until the socket has resumed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, assert_never

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Call, sendable
from phoneagent.agent.tools import Tool
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.requests import EndCall, NoteStep, OpenNext, Renew, Request, RunTool, SessionChanged
from phoneagent.bridge.steps import NextStep
from phoneagent.bridge.toolcalls import Filler
from phoneagent.calls.active_agent import ActiveAgent
from phoneagent.calls.control import Control
from phoneagent.calls.guardrail import Guard
from phoneagent.calls.listening import Listener, Tap
from phoneagent.calls.model_sessions import ModelSessions, ModelSocket
from phoneagent.calls.next_step import Journal, StepWriter
from phoneagent.calls.recorder import Recorder
from phoneagent.calls.toolrunner import ToolRunner
from phoneagent.calls.transfers import CallTransfers
from phoneagent.calls.warm import WarmTransfers
from phoneagent.calls.writer import CallerSocket, SocketWriter, untapped
from phoneagent.errors import EndpointError, ProtocolError
from phoneagent.events import ControlOperation, EndedBy, Event, ModelEvent
from phoneagent.protocol import carrier, realtime

log = logging.getLogger("phoneagent.calls.session")

CLOSE_SECONDS = 2.0
"""How long both sockets may take to close."""

LATE_SECONDS = 1.0
"""A timer that fires this late was held up, and so were the messages that arrived in that time: they are read first."""

CATCH_UP_SECONDS = 0.1
MEASURED_FRAMES = 50
"""One of this many frames is measured on its way through: one per second in each call."""

_T = TypeVar("_T")
Direction: TypeAlias = Literal["to_model", "to_caller"]


class Session:
    """One media stream of a call, from its start to its end.

    `open_model(elsewhere)` opens a session; `elsewhere` asks for an endpoint other than the previous session's.
    `journal` is written before a tool runs, and before we close the stream. `measure` gets, now and then, the seconds
    that a frame took through here.
    """

    _frames = 0  # since the last one that was measured
    _leaving: str | None = None  # why the call moves elsewhere
    _tap: Tap | None = None  # what listeners hear
    _timer_due = 0.0  # uvloop's handle does not expose it

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
        recorder: Recorder | None = None,
        warm: WarmTransfers | None = None,
    ) -> None:
        self._call = call
        self.bridge = bridge
        self._caller = caller
        self._emit = emit
        self._model_events = model_events
        self._measure = measure
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._unfinished: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._steps = StepWriter(call.sid, journal)
        past = bridge.conversation.tools.past
        self._active_agent = ActiveAgent(
            agent,
            call,
            past=past,
            change_session=bridge.conversation.change_session,
            flush=self.flush,
            agent_named=bridge.dialogue.transcript.agent_named,
            voice_fixed=lambda: bridge.responses.ever_spoke,
        )
        self._guard = Guard(call, replace=self._say_instead, report=self._report)
        self._runner = ToolRunner(call, journal, past=past, report=self._report, moved=self._goes_on_elsewhere)
        self._models = ModelSessions(
            bridge,
            open_model,
            prepare=self._keep_agent,
            take=self._take_event,
            flush=self.flush,
            resumed=self._resumed,
            watch=self._watch,
        )
        self._to_caller = SocketWriter(bridge.take_for_caller, OSError)
        self._to_model = SocketWriter(bridge.take_for_model, EndpointError)
        self._transfers = CallTransfers(call, bridge, warm, self.flush, emit, can_return=journal is not None)
        self._control = Control(
            bridge,
            lambda: self._active_agent.agent,
            manual=agent.turn_detection is None,
            flush=self.flush,
            loop=self._loop,
            recorder=recorder,
            transfers=self._transfers,
        )
        self._recorder = recorder

    @property
    def agent(self) -> Agent:
        """The agent that has the call."""
        return self._active_agent.agent

    @property
    def over(self) -> bool:
        """Whether the call is over, or continues in another stream. This one may still be closing."""
        return self._over.is_set()

    # --- the life of a stream -------------------------------------------------------------------------------------

    async def run(self, start: carrier.Started, *, resumed: bool = False) -> None:
        """Run the call; returns when it is over, and only unfinished tools are left.

        A `resumed` call may be in the middle of a warm transfer.
        """
        self.bridge.responses.mute(self._call.muted)  # as in the previous stream
        self._call.attach(self._control)
        if self._recorder is not None:
            self._recorder.begin(self._loop.time(), self.tap)
        model = self._watch(asyncio.create_task(self._models.run()))
        reader = self._watch(asyncio.create_task(self._read_caller()))
        try:
            self.bridge.receive_from_caller(start, self._loop.time())
            self.flush()
            if resumed:
                self._transfers.resume()
            await self._over.wait()
        finally:
            await self._close(reader, model)

    async def _close(self, reader: asyncio.Task[None], model: asyncio.Task[None]) -> None:
        self._give_up("the server stopped the call")  # unless it has ended
        self._control.close()
        if self._timer is not None:
            self._timer.cancel()
        ours = (reader, model, *self._models.tasks, self._guard.task, self._transfers.task)
        tasks = [task for task in ours if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._steps.settle()
        current = self._models.current
        closing = [self._caller.close()] + ([current.close()] if current is not None else [])
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*closing, return_exceptions=True)
        self._call.attach(None)
        await self._transfers.close()

    def tap(self, wrap: Callable[[CallerSocket], CallerSocket]) -> None:
        """Put something between the call and the caller's socket, or take it out again."""
        self._caller = wrap(self._caller)

    def hand_over(self, reason: str) -> None:
        """Move the call elsewhere, at the first moment when the caller does not notice. Never raises."""
        self._leaving = reason
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - the other calls are to be handed over as well
            self._fail(error)

    def hand_over_now(self, reason: str) -> NextStep | None:
        """Move the call elsewhere at once, and return the step with which it resumes; None if it is over."""
        self.bridge.hand_over(self._loop.time(), reason)
        self.flush()
        return self._steps.step

    def end(self, by: EndedBy, reason: str) -> None:
        """End the call, which is over as another source reports."""
        self.bridge.end(self._loop.time(), by, reason)
        self.flush()

    def controlled(self, operation: ControlOperation) -> None:
        """Report that the call is acted on from outside."""
        self.bridge.reporter.controlled(operation, self._loop.time())
        self._tell()

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Let one more listener hear both sides. Frames pass through the tap only while there is a listener."""
        if self._tap is None:
            self._caller = self._tap = Tap(self._caller, self.bridge.caller_audio)
        tap = self._tap
        tap.listeners += 1
        try:
            yield Listener(tap, self.bridge.playback, self._loop.time, self._over.is_set)
        finally:
            tap.listeners -= 1
            if not tap.listeners:
                self._caller, self._tap = untapped(self._caller, Tap), None

    async def finish_tools(self) -> None:
        """Let the tools of a call that is over finish, and report their end.

        A tool in the middle of its work (a booking, a payment) should finish; each has its own time limit.
        """
        await asyncio.gather(*self._unfinished, return_exceptions=True)
        self._tell()

    # --- faults of our own ----------------------------------------------------------------------------------------

    def _watch(self, task: asyncio.Task[_T]) -> asyncio.Task[_T]:
        """End the call, and only this call, if one of its tasks fails unexpectedly."""
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
        log.error(
            "internal error in phoneagent: this media stream of the call is ended",
            exc_info=error,
            extra={"call_sid": self._call.sid},
        )
        self._give_up(f"internal fault: {type(error).__name__}")

    def _give_up(self, reason: str) -> None:
        """End our part because of our own fault; with a journal, Twilio reconnects the call."""
        self._over.set()
        if self._steps.can_resume:
            self.bridge.hand_over(self._loop.time(), reason)
        else:
            self.bridge.end(self._loop.time(), "error", reason)
        while self.bridge.requests:
            request = self.bridge.requests.popleft()
            if isinstance(request, EndCall):
                self._steps.take(request.next_step, broke=True)
        self._tell()

    # --- the caller's side ----------------------------------------------------------------------------------------

    async def _read_caller(self) -> None:
        await self._caller.read(self._take_message, self._resumed)
        self.bridge.end(self._loop.time())
        self.flush()

    def _take_message(self, raw: str | bytes) -> None:
        """Handle a message from the carrier, and write its results."""
        try:
            message = self._caller.decode(raw)
            if message is None:
                return
            taken_at = self._loop.time()
            if self.bridge.receive_from_caller(message, taken_at) or self._leaving is not None:
                self.flush()
            elif isinstance(message, carrier.AudioIn) and self._to_model.write(self._models.current, taken_at):
                self._frames += 1  # nothing else has changed
                if self._frames >= MEASURED_FRAMES:
                    self._measure_frame("to_model", taken_at)
        except ProtocolError as error:
            self._report(str(error))
        except Exception as error:  # noqa: BLE001 - it ends this call, and no other one
            self._fail(error)

    def _resumed(self) -> None:
        """Write what waited for a socket."""
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - it ends this call, and no other one
            self._fail(error)

    # --- the model's side -----------------------------------------------------------------------------------------

    def _take_event(self, model: ModelSocket, raw: bytes) -> None:
        """Handle an event from the model, and write its results."""
        try:
            event = model.decode(raw)
            if self._model_events:
                data = realtime.as_dict(raw)
                self._emit(ModelEvent(call_sid=self._call.sid, type=data["type"], data=data))
            taken_at = self._loop.time()
            if self.bridge.receive_from_model(event, taken_at):
                if isinstance(event, realtime.TranscriptDelta | realtime.TranscriptDone):
                    self._show_guard(event)
                self.flush()
                return
            if self._to_caller.write(self._caller, taken_at):  # audio, and no timer is due earlier
                self._frames += 1
                if self._frames >= MEASURED_FRAMES:
                    self._measure_frame("to_caller", taken_at)
            if self.bridge.reporter.events:
                self._tell()
        except ProtocolError as error:
            self._report(str(error))
        except Exception as error:  # noqa: BLE001 - it ends this call, and no other one
            self._fail(error)

    async def _keep_agent(self) -> None:
        try:
            await self._active_agent.session_opened()
        except Exception as error:  # a user's function, or too slow
            log.exception("the current agent cannot continue the call", extra={"call_sid": self._call.sid})
            self._report(f"the call went back to the agent that answered: {type(error).__name__}")

    def _measure_frame(self, direction: Direction, taken_at: float) -> None:
        self._frames = 0
        if self._measure is not None:
            self._measure(direction, self._loop.time() - taken_at)

    # --- outputs --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write, do and report what the bridge has ready; never waits."""
        if self._over.is_set():
            return
        now = self._loop.time()
        if self._leaving is not None and self.bridge.quiet(now):
            self.bridge.hand_over(now, self._leaving)
        self._to_caller.write(self._caller, now)
        self._to_model.write(self._models.current, now)
        while self.bridge.requests:
            self._do(self.bridge.requests.popleft())
        self._tell()
        self._set_timer()

    def _do(self, request: Request) -> None:
        match request:
            case RunTool():
                self._start_tool(request)
            case SessionChanged():
                self._active_agent.session_changed(request)
            case OpenNext():
                self._models.open_next()
            case Renew(elsewhere=elsewhere):
                self._models.renew(elsewhere=elsewhere)
            case NoteStep(step=step):
                self._aside(self._steps.write(step, early=True))
            case EndCall(next_step=step):
                self._steps.take(step)
                self._over.set()
            case _:
                assert_never(request)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that may outlive the stream."""
        task = self._watch(asyncio.create_task(work))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

    def _report(self, what: str) -> None:
        self.bridge.reporter.trouble(what, self._loop.time())
        self._tell()

    def _tell(self) -> None:
        events = self.bridge.reporter.events
        while events:
            self._emit(events.popleft())

    # --- the timer ------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due = self.bridge.get_timer()
        if due is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return  # it fires too early, which changes nothing, and is then set again
            self._timer.cancel()
        self._timer, self._timer_due = self._loop.call_at(due, self._on_timer), due

    def _on_timer(self, *, caught_up: bool = False) -> None:
        late = not caught_up and self._timer is not None and self._loop.time() - self._timer_due > LATE_SECONDS
        self._timer = None
        if late:  # otherwise a tool that blocked the loop would make every line look dead
            self._timer_due = self._loop.time() + CATCH_UP_SECONDS
            self._timer = self._loop.call_at(self._timer_due, partial(self._on_timer, caught_up=True))
            return
        try:
            self.bridge.handle_timer(self._loop.time())
            self.flush()
        except Exception as error:  # noqa: BLE001 - without its timer a call would go on in silence
            self._fail(error)

    # --- tools and the guardrail ----------------------------------------------------------------------------------

    def _goes_on_elsewhere(self) -> bool:
        return self._over.is_set() and self._steps.resumes

    def _start_tool(self, request: RunTool) -> None:
        tool = self._active_agent.tool(request.name)
        if tool is not None and tool.filler is not None:
            self.bridge.conversation.tools.fill(request.call_id, Filler(tool.filler, tool.filler_after))
        self._aside(self._run_tool(tool, request))

    async def _run_tool(self, tool: Tool | None, request: RunTool) -> None:
        output = await self._runner.run(tool, request)
        now, respond = self._loop.time(), tool is None or tool.responds_to(output)
        self.bridge.conversation.tool_returned(request.call_id, output, now, respond=respond)
        self.bridge.move_on(now)
        self.flush()

    def _show_guard(self, event: realtime.TranscriptDelta | realtime.TranscriptDone) -> None:
        guardrail = self._active_agent.agent.guardrail
        if guardrail is None or not self.bridge.responses.answers(event.response_id):
            return
        complete = isinstance(event, realtime.TranscriptDone)
        words = event.transcript if isinstance(event, realtime.TranscriptDone) else event.delta
        self._guard.words(guardrail, event.response_id, event.item_id, words, complete=complete)

    def _say_instead(self, text: str) -> None:
        now = self._loop.time()
        self.bridge.interrupt(now)
        self.bridge.conversation.say(sendable(text))
        self.bridge.move_on(now)
        self.flush()
