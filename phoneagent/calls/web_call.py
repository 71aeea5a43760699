"""The I/O shell of a web call: it reads the side-band socket to the session, and runs the agent's tools."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import assert_never

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Call
from phoneagent.bridge.chat import Answered, Complaint, Words
from phoneagent.bridge.requests import RunTool, SessionChanged
from phoneagent.bridge.web_call import WebConversation
from phoneagent.calls.active_agent import ActiveAgent
from phoneagent.calls.control import Control
from phoneagent.calls.model_sessions import ModelSocket
from phoneagent.calls.next_step import Journal
from phoneagent.calls.toolrunner import ToolRunner
from phoneagent.errors import EndpointError, EndpointUnreachable, ProtocolError
from phoneagent.events import EndedBy, Event, ModelEvent
from phoneagent.protocol import realtime

log = logging.getLogger("phoneagent.calls.web_call")


class WebCall:
    """One web call, from the moment its side-band socket is open."""

    def __init__(
        self,
        call: Call,
        agent: Agent,
        web: WebConversation,
        model: ModelSocket,
        emit: Callable[[Event], None],
        *,
        journal: Journal | None,
        max_seconds: float,
        model_events: bool = False,
    ) -> None:
        self._call = call
        self._web = web
        self._model = model
        self._emit = emit
        self._max_seconds = max_seconds
        self._model_events = model_events
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._tools: set[asyncio.Task[None]] = set()
        self._end: tuple[EndedBy, str] | None = None
        self._manual = agent.turn_detection is None
        self._active_agent = ActiveAgent(
            agent,
            call,
            past=(),
            change_session=web.chat.conversation.change_session,
            flush=self._changed.set,
            agent_named=self._name_agent,
            voice_fixed=lambda: True,
        )
        self._runner = ToolRunner(call, journal, past=(), report=self._trouble, moved=lambda: False)

    async def run(self) -> None:
        """Follow the call to its end, as its side-band socket reports it; then let running tools finish."""
        control = Control(
            self._web.chat,
            lambda: self._active_agent.agent,
            manual=self._manual,
            flush=self._changed.set,
            loop=self._loop,
        )
        self._web.chat.mute(self._loop.time(), muted=self._call.muted)  # the user's code may have muted it before
        self._call.attach(control)
        self._web.start(self._loop.time())
        self._changed.set()
        tasks = [asyncio.create_task(each) for each in (self._read(), self._work())]
        try:
            async with asyncio.timeout(self._max_seconds):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    self._fail(error)
        except TimeoutError:
            self._ended("error", f"the call was longer than {self._max_seconds:g} s")
        finally:
            control.close()
            self._call.attach(None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*self._tools, return_exceptions=True)  # one may be in the middle of a booking
            with suppress(EndpointError, OSError):
                await self._model.close()
            by, reason = self._end or ("error", "the server stopped the call")
            self._web.end(by, reason, self._loop.time())
            self._tell()

    async def _read(self) -> None:
        try:
            await self._model.read(self._take, self._changed.set)
        except EndpointError as error:
            # The server closes the socket with the call, whichever side ended it.
            self._ended("caller", f"the session ended: {error}")

    def _take(self, raw: bytes) -> None:
        try:
            event = realtime.decode(raw)
            if self._model_events:
                data = realtime.as_dict(raw)
                self._emit(ModelEvent(call_sid=self._call.sid, type=data["type"], data=data))
            self._web.receive(raw, event, self._loop.time())
        except ProtocolError as error:
            self._trouble(str(error))
        except Exception as error:  # noqa: BLE001 - it ends this call, and no other one
            self._fail(error)
            self._model.abort()
        self._changed.set()

    async def _work(self) -> None:
        """Do what the conversation asks for, on each change and each timer, until the agent's last words were heard."""
        chat = self._web.chat
        while not self._web.over:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._web.get_timer()):
                    await self._changed.wait()
            self._changed.clear()
            self._web.handle_timer(self._loop.time())
            self._write()
            self._show()
            self._tell()
            if chat.failure is not None:
                self._ended("error", str(chat.failure))
                return
            if chat.over:
                self._ended("agent", "the agent hung up")
            elif self._web.over_budget:
                self._ended("agent", "the call reached its cost limit")
                return

    def _write(self) -> None:
        with suppress(EndpointUnreachable):  # the reader finds out why
            while self._model.writable and (event := self._web.chat.next_to_model()) is not None:
                self._model.write([event])

    def _show(self) -> None:
        for happening in self._web.chat.happenings():
            match happening:
                case Words() | Answered():
                    pass  # the page has them from the model
                case Complaint(what=what):
                    self._trouble(what)
                case SessionChanged():
                    self._active_agent.session_changed(happening)
                case RunTool():
                    task = asyncio.create_task(self._run_tool(happening))
                    self._tools.add(task)
                    task.add_done_callback(self._tools.discard)
                case _:
                    assert_never(happening)

    async def _run_tool(self, request: RunTool) -> None:
        tool = self._active_agent.tool(request.name)
        output = await self._runner.run(tool, request)
        now, respond = self._loop.time(), tool is None or tool.responds_to(output)
        self._web.chat.conversation.tool_returned(request.call_id, output, now, respond=respond)
        self._web.chat.move_on(now)
        self._changed.set()

    def _name_agent(self, name: str) -> None:
        self._web.agent_name = name

    def _fail(self, error: BaseException) -> None:
        about = {"call_sid": self._call.sid}
        log.error("internal error in phoneagent: this web call is ended", exc_info=error, extra=about)
        self._ended("error", f"internal fault: {type(error).__name__}")

    def _ended(self, by: EndedBy, reason: str) -> None:
        """Note how the call ended; the first cause counts."""
        self._end = self._end or (by, reason)

    def _trouble(self, what: str) -> None:
        self._web.reporter.trouble(what, self._loop.time())
        self._tell()

    def _tell(self) -> None:
        events = self._web.reporter.events
        while events:
            self._emit(events.popleft())
