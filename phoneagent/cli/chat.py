"""`phoneagent chat`: type to the agent, without a telephone, and see its tools run."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, assert_never

import typer
from rich.console import Console

from phoneagent import settings
from phoneagent.agent.agent import Agent, choose
from phoneagent.agent.call import Call
from phoneagent.agent.outcome import outcome_form
from phoneagent.billing.prices import SIMULATED
from phoneagent.bridge.chat import Answered, Chat, Complaint, Words
from phoneagent.bridge.requests import RunTool, SessionChanged
from phoneagent.calls.active_agent import ActiveAgent
from phoneagent.calls.call_text import as_line
from phoneagent.calls.control import Control
from phoneagent.calls.guardrail import Guard
from phoneagent.calls.outcomes import OutcomeRefused, filled_in, form_of
from phoneagent.calls.toolrunner import ToolRunner
from phoneagent.cli.brain import BrainModelOption, BrainOption, brain_of, wake
from phoneagent.cli.failures import users_code, warnings_told
from phoneagent.cli.own_agent import script_of, unknown_calls
from phoneagent.cli.real_model import real_model
from phoneagent.cli.target import Target
from phoneagent.demo.report import plain
from phoneagent.errors import EndpointError, EndpointUnreachable, ProtocolError
from phoneagent.model.connection import ModelSession, open_session
from phoneagent.model.endpoint import Endpoint
from phoneagent.model.forms import SessionFiller, session_of
from phoneagent.protocol import realtime
from phoneagent.server import PhoneApp
from phoneagent.sim.model.brain import Brain
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.server import Model
from phoneagent.usercode import run_in_thread

MAX_LINE_BYTES = 64 * 1024
"""A longer line is read in pieces."""

SHOWN_CHARS = 400
"""How much of a tool's arguments and output is shown."""

_FOLLOWS_SCRIPT = "This is the simulated model, which follows a script and understands nothing else."
_NAME_A_TOOL = " Type the name of a tool, and it calls that one."
QUIT = frozenset({"/quit", "/exit", "/q"})
STDIN = 0


def chat(
    target: Annotated[
        str | None, typer.Argument(help="The app, as `module:app` or `file.py`. Default: main.py, app.py or agent.py.")
    ] = None,
    sim: Annotated[bool, typer.Option("--sim", help="Talk to the simulated model, which follows a script.")] = False,
    script: Annotated[Path | None, typer.Option(help="What the simulated model says, as a TOML file.")] = None,
    brain: BrainOption = None,
    brain_model: BrainModelOption = None,
    caller: Annotated[str | None, typer.Option(help="The caller's number, for code that depends on it.")] = None,
    called: Annotated[str | None, typer.Option(help="The called number, likewise.")] = None,
) -> None:
    """Type to the agent, and see its tools run. Ctrl-D or /quit ends the chat (on Windows, Ctrl-Z and Enter or /quit);
    lines may come from a pipe.
    """
    thinker = brain_of(brain, brain_model)
    found = Target.find(target)
    app = found.load()
    simulated = sim or script is not None or thinker is not None
    endpoint = None if simulated else real_model(app)
    call = Call(
        sid=f"CA{secrets.token_hex(16)}",
        caller=caller,
        called=called,
        direction="inbound",
        started_at=datetime.now(UTC),
    )
    why = "" if simulated else f" OPENAI_API_KEY is not set{found.other_env()}."
    how = _NAME_A_TOOL if script is None else ""
    offline = _Offline(script, thinker, f"{_FOLLOWS_SCRIPT}{how}{why}")
    with suppress(KeyboardInterrupt):
        asyncio.run(_chat(app, call, endpoint, offline))


@dataclass(frozen=True, slots=True)
class _Offline:
    """The simulated model of a conversation: its script, its brain, and the line that introduces it without a brain."""

    script: Path | None
    brain: Brain | None
    scripted: str

    async def introduce(self) -> str:
        return self.scripted if self.brain is None else await wake(self.brain)


async def _chat(app: PhoneApp, call: Call, endpoint: Endpoint | None, offline: _Offline) -> None:
    screen = _Screen()
    with users_code():
        agent = await choose(app.agent, call)
    async with AsyncExitStack() as stack:
        stack.enter_context(warnings_told(screen.complain))
        stack.push_async_callback(agent.close)
        await agent.open()
        with users_code():
            session = agent.session(await agent.instructions_for(call), written=True)
        if endpoint is None:
            note = await offline.introduce()
            script = Script.parse(script_of(agent, "main.py")) if offline.script is None else Script.of(offline.script)
            for line in unknown_calls(agent, script) if offline.script is not None else ():
                screen.complain(line)
            model = await stack.enter_async_context(Model(script, brain=offline.brain))
            endpoint = Endpoint(f"{model.url}?model={SIMULATED}")
            screen.note(note)
        else:
            screen.note(f"{agent.name} at {endpoint.host}")
        opened = await open_session(replace(endpoint, transcription_models=()), session, call)
        stack.push_async_callback(opened.close)
        for each in opened.dropped:
            screen.note(f"the session runs without {each}")
        end = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"
        screen.note(f"{end} or /quit ends the conversation.")
        for line in settings.misspelled_names():
            screen.complain(line)
        talk = _Talk(agent, call, opened, screen)
        try:
            await talk.run()
            await _show_outcome(talk, call, endpoint, screen)
        except EndpointError as error:
            remedy = endpoint.remedies.get(error.code or "", "start anew")
            raise type(error)(f"{error}: {remedy}", code=error.code) from None


async def _show_outcome(talk: _Talk, call: Call, endpoint: Endpoint, screen: _Screen) -> None:
    """Have the model fill in the outcome of the conversation, if its last agent has one, and show it."""
    agent = talk.agent
    if agent.outcome is None or not any("caller" in line for line in talk.lines):
        return
    outcome = outcome_form(agent.outcome)
    form = form_of(outcome, "\n".join(map(as_line, talk.lines)))
    session = session_of(form, agent.session(form.instructions, written=True))
    filler = SessionFiller(await open_session(replace(endpoint, transcription_models=()), session, call), form)
    try:
        screen.note(f"outcome: {json.dumps(await filled_in(filler, outcome), ensure_ascii=False)}")
    except OutcomeRefused as refused:
        screen.complain(f"outcome: {refused}")
    finally:
        await filler.close()


class _Talk:
    """The shell of a conversation: it reads model and user, writes what the chat says, and runs the tools."""

    def __init__(self, agent: Agent, call: Call, model: ModelSession, screen: _Screen) -> None:
        self._answered = agent
        self._call = call
        self._model = model
        self._screen = screen
        self._chat = Chat(greeting=agent.greeting)
        self._changed = asyncio.Event()
        self._active_agent = ActiveAgent(
            agent,
            call,
            past=(),
            change_session=self._chat.conversation.change_session,
            flush=self._changed.set,
            agent_named=lambda name: None,  # the agent is read when there is something to show
            voice_fixed=lambda: True,  # a chat has none
        )
        # `warnings_told` shows a failure; there is no audio to stop, so a replacement is only shown
        self._guard = Guard(call, replace=lambda text: screen.note(f"guardrail: {text}"), report=lambda problem: None)
        self._runner = ToolRunner(call, None, past=(), report=screen.complain, moved=lambda: False)
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._tools: set[asyncio.Task[None]] = set()
        self._said = ""
        self.lines: list[dict[str, str]] = []
        """What was said and done, by speaker."""

    @property
    def agent(self) -> Agent:
        """The agent in the conversation."""
        return self._active_agent.agent

    async def run(self) -> None:
        """Talk until one side ends the conversation. A running tool may finish: it may be a booking.

        Raises:
            EndpointError: the model ended it.
        """
        manual = self._answered.turn_detection is None
        self._call.attach(
            Control(
                self._chat, lambda: self._active_agent.agent, manual=manual, flush=self._changed.set, loop=self._loop
            )
        )
        self._chat.handle_timer(self._loop.time())  # a greeting may be due
        self._changed.set()
        tasks = [asyncio.create_task(each) for each in (self._read(), self._type(), self._work())]
        try:
            done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, *self._tools, return_exceptions=True)
            for task in done:
                task.result()
        finally:
            self._call.attach(None)
            for task in (*tasks, *self._tools):
                task.cancel()
            await asyncio.gather(*tasks, *self._tools, return_exceptions=True)
            self._screen.end_line()

    async def _read(self) -> None:
        await self._model.read(self._take, self._changed.set)

    def _take(self, raw: bytes) -> None:
        try:
            event = realtime.decode(raw)
        except ProtocolError as error:
            self._screen.complain(str(error))
            return
        self._chat.receive(event, self._loop.time())
        self._changed.set()

    async def _type(self) -> None:
        lines = _lines()
        while True:
            await self._idle.wait()
            self._screen.ask()
            line = await anext(lines, None)
            if line is None or line.strip() in QUIT:
                return
            self._screen.echo(line)
            if line.strip():
                self.lines.append({"caller": line.strip()})
                self._chat.write(line.strip(), self._loop.time())
                self._idle.clear()
                self._changed.set()

    async def _work(self) -> None:
        """Do what the chat asks for whenever something has changed or a timer is due."""
        while not self._chat.over:
            due = self._chat.get_timer()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            self._changed.clear()
            self._chat.handle_timer(self._loop.time())
            while (event := self._chat.next_to_model()) is not None:
                with suppress(EndpointUnreachable):  # `_read` learns why, and ends the conversation
                    self._model.write([event])
            self._show()
            if self._chat.failure is not None:
                raise self._chat.failure
            if self._chat.idle and (self._guard.task is None or self._guard.task.done()):
                self._idle.set()
        self._show()  # what came at the end

    def _show(self) -> None:
        for happening in self._chat.happenings():
            match happening:
                case Words(text=text):
                    self._screen.words(self.agent.name, happening)
                    self._said += text
                case Answered():
                    self._screen.end_line()
                    if said := self._said.strip():
                        self.lines.append({"agent": said})
                        self._judge(said)
                    self._said = ""
                case Complaint(what=what):
                    self._screen.complain(what)
                case SessionChanged():
                    self._active_agent.session_changed(happening)
                case RunTool():
                    task = asyncio.create_task(self._run_tool(happening))
                    self._tools.add(task)
                    task.add_done_callback(self._tools.discard)
                case _:
                    assert_never(happening)

    def _judge(self, said: str) -> None:
        """Pass an answer to the agent's guardrail, which does not see the greeting, as in a call. The next line is
        asked for when it is done."""
        if self.agent.guardrail is not None and any("caller" in line for line in self.lines):
            answer = str(len(self.lines))
            self._guard.words(self.agent.guardrail, answer, answer, said, complete=True)
            if (task := self._guard.task) is not None:
                self._tools.add(task)
                task.add_done_callback(self._tools.discard)
                task.add_done_callback(lambda _: self._changed.set())

    async def _run_tool(self, request: RunTool) -> None:
        self._screen.tool(f"{request.name} {request.arguments}")
        tool = self._active_agent.tool(request.name)
        output = await self._runner.run(tool, request)
        self._screen.tool(f"{request.name} → {output}")
        self.lines.append({"tool": request.name, "arguments": str(request.arguments), "output": output})
        respond = tool is None or tool.responds_to(output)
        self._chat.conversation.tool_returned(request.call_id, output, self._loop.time(), respond=respond)
        self._chat.move_on(self._loop.time())
        self._changed.set()


class _Screen:
    """What the user sees. Text from others is shown without terminal control characters."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)
        self._typed = os.isatty(STDIN)
        self._saying: str | None = None  # the message that the open line belongs to, "" for the user's

    def note(self, text: str) -> None:
        self._line(text, "dim")

    def complain(self, text: str) -> None:
        self._line(f"! {text}", "red")

    def tool(self, text: str) -> None:
        cut = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"
        self._line(f"tool: {cut}", "cyan")

    def ask(self) -> None:
        self.end_line()
        if self._typed:
            self._console.print("you: ", style="bold", end="")
            self._saying = ""

    def echo(self, line: str) -> None:
        """Show a line that came from a pipe. A terminal itself shows what is typed."""
        self._saying = None
        if not self._typed:
            self._line(f"you: {line}", "bold")

    def words(self, name: str, words: Words) -> None:
        if self._saying != words.item_id:
            self.end_line()
            self._console.print(f"{name}: ", style="bold green", end="")
            self._saying = words.item_id
        self._console.print(plain(words.text, lines=True), end="")

    def end_line(self) -> None:
        if self._saying is not None:
            self._console.print()
        self._saying = None

    def _line(self, text: str, style: str) -> None:
        self.end_line()
        self._console.print(plain(text, lines=True), style=style)


async def _lines() -> AsyncIterator[str]:
    """Yield what is typed, or piped in, line by line. The thread that waits for it does not delay the exit."""
    if sys.platform == "win32" and os.isatty(STDIN):  # its bytes would be in a code page, not in UTF-8
        while (line := await run_in_thread(sys.stdin.readline)) and not line.startswith("\x1a"):
            yield line.rstrip("\r\n")
        return
    rest = b""
    while chunk := await run_in_thread(os.read, STDIN, MAX_LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if rest:
        yield rest.decode("utf-8", "replace")
