"""An example as it is, played on the telephone: a caller says lines of text, and hears the agent's answers."""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Turn, TurnEnded
from phoneagent.sim import Line, Model, Script
from phoneagent.sim.model.server import SimulatedSession
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds, anyio_backend, media_socket, world

__all__ = ["anyio_backend", "media_socket", "world"]  # fixtures, which pytest finds here by their names

EXAMPLES = Path(__file__).parents[2] / "examples"
HUM = Murmur().render("Hm")


class Quick:
    """A voice that has said everything in a quarter of a second."""

    def render(self, text: str) -> bytes:
        return HUM


@dataclass
class Told:
    """An ear that is told beforehand what it is going to hear."""

    lines: deque[str] = field(default_factory=deque)

    async def hear(self, ulaw: bytes) -> str:
        return self.lines.popleft()


def load(name: str) -> Any:
    """Import an example afresh: nothing is left in it of another test."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Caller:
    """The caller of a test, on the phone."""

    line: Line
    world: World
    ear: Told
    greeting: Turn | None = None

    @property
    def session(self) -> SimulatedSession:
        """What the model knows of the call, which is the latest."""
        return self.world.model.sessions[-1]

    @property
    def returned(self) -> str:
        """What the latest tool told the model."""
        return self.session.tool_calls[-1].output or ""

    async def says(self, text: str, *, hears: str) -> Turn:
        """Say something, listen until an answer was heard to its end in which `hears` occurs, and return that."""
        before = len(self._answers())
        self.ear.lines.append(text)
        await self.line.say(HUM, text)
        return await self.hears(hears, before)

    async def hears(self, text: str, after: int = 0) -> Turn:
        def found() -> Turn | None:
            return next((turn for turn in self._answers()[after:] if text in turn.heard_text), None)

        try:
            turn: Turn = await self.world.until(found)
        except TimeoutError:
            raise AssertionError(f"never heard {text!r}, but {[each.text for each in self._answers()]}") from None
        return turn

    def _answers(self) -> list[Turn]:
        events = [each for each in self.world.of(TurnEnded) if each.call_sid == self.line.call_sid]
        return [each.turn for each in events if each.turn.role == "agent"]


@dataclass
class Number:
    """The telephone number of an example."""

    world: World
    ear: Told

    @asynccontextmanager
    async def call(self, **options: Any) -> AsyncIterator[Caller]:
        """Call, and hear the greeting to its end."""
        async with self.world.phone(**options).dial() as line:
            caller = Caller(line, self.world, self.ear)
            caller.greeting = await caller.hears("")
            yield caller
        assert line.violations == []
        assert self.world.model.violations == []


Players = Callable[[Any, str], AbstractAsyncContextManager[Number]]


@pytest.fixture
def played(world: Worlds) -> Players:
    """Put an example's module behind a number, with a script for the model: `async with played(module, script)`."""

    @asynccontextmanager
    async def play(module: Any, script: str) -> AsyncIterator[Number]:
        ear = Told()
        model = Model(Script.parse(script), voice=Quick(), ear=ear, vad=EnergyGate)
        async with world(module.app.agent, model=model) as w:
            yield Number(w, ear)

    return play
