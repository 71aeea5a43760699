"""The live view of a call in the terminal: each turn, tool call and interruption, and how long answers took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from phoneagent.bridge.heard import heard_part
from phoneagent.demo.places import locate
from phoneagent.demo.report import clock, plain, tool_call

if TYPE_CHECKING:
    from phoneagent.sim.model.server import Model, SimulatedSession
    from phoneagent.sim.twilio.phone import Line

TICK_SECONDS = 0.1
_HEAD_BYTES = 640
"""The first 80 ms of an item, by which it is found in what the phone received."""


class Live:
    """The printer of a call: it reads the two simulators' records ten times a second and prints what is new.

    It only reads, and only what is cheap to read, because the call on the same processor must not be delayed.
    """

    def __init__(
        self, console: Console, line: Line, model: Model, *, murmured: Callable[[str], bool] = lambda _text: False
    ) -> None:
        self._console = console
        self._line = line
        self._model = model
        self._items = 0
        self._position = 0
        self._shown: dict[str, int] = {}
        self._murmured = murmured
        self._truncations = 0
        self._tools = 0
        self._voice_ended_ms: float | None = None

    async def run(self) -> None:
        """Print until canceled. Call `look` again afterwards to print what came last."""
        while True:
            self.look()
            await asyncio.sleep(TICK_SECONDS)

    def caller_says(self, text: str) -> None:
        """Print that the caller begins to speak."""
        self._print(self._now_ms(), "caller", "bold green", self._marked(text))

    def caller_types(self, keys: int) -> None:
        """Print that the caller presses keys, but not which: they may be a PIN."""
        self._print(self._now_ms(), "keys", "bold green", "•" * keys)

    def caller_ends(self, silent_ms: float) -> None:
        """Time the next answer from the end of this line, whose last `silent_ms` are silent."""
        self._voice_ended_ms = self._line.speech[-1].end_ms - silent_ms if self._line.speech else None

    def look(self) -> None:
        """Print what is new."""
        session = next(iter(self._model.sessions[-1:]), None)
        if session is not None:
            self._agent(session)
            self._rest(session)
            self._cuts(session)
            self._tool_calls(session)

    def _agent(self, session: SimulatedSession) -> None:
        """Print each of the agent's items when the caller begins to hear it."""
        received = self._line.received
        for item in session.audio_items[self._items :]:
            start = received.find(bytes(item.audio[:_HEAD_BYTES]), self._position) if item.audio else -1
            if start < 0:
                if not item.interrupted and item.truncated_ms is None:
                    return  # still on its way
            elif self._line.playout.position(time.monotonic()) <= start:
                return  # queued behind what is playing
            else:
                self._position = start + 1
                self._print(self._now_ms(), "agent", "bold blue", self._marked(item.text), wait=self._latency())
                self._shown[item.item_id] = len(item.text)
            self._items += 1

    def _rest(self, session: SimulatedSession) -> None:
        """Print what a brain has added to items that are shown already."""
        for item in session.audio_items[: self._items]:
            shown = self._shown.get(item.item_id)
            if shown is not None and shown < len(item.text):
                self._shown[item.item_id] = len(item.text)
                self._print(None, "", "dim", escape(item.text[shown:].strip()))

    def _marked(self, text: str) -> str:
        return escape(text) + (" [dim](murmured)[/]" if self._murmured(text) else "")

    def _latency(self) -> str:
        """Return how long the caller waited for what begins now, or "" if it is no answer."""
        ended_ms, self._voice_ended_ms = self._voice_ended_ms, None
        begun = [span.start_ms for span in self._line.heard if ended_ms is not None and span.start_ms >= ended_ms]
        return "" if ended_ms is None or not begun else f"+{(begun[0] - ended_ms) / 1000:.2f} s"

    def _cuts(self, session: SimulatedSession) -> None:
        truncations = [truncation for truncation in session.truncations if truncation.ok]
        for truncation in truncations[self._truncations :]:
            item = next((item for item in session.audio_items if item.item_id == truncation.item_id), None)
            if item is not None and item.item_id in self._shown and self._line.clears:
                places = locate(session.audio_items, bytes(self._line.received), self._line.clears)
                heard_ms = places[item.item_id].heard_ms(self._line.clears[-1])
                told = f"the model was told {truncation.audio_end_ms / 1000:.2f} s"
                said = f"{item.sent_ms / 1000:.2f} s said, {heard_ms / 1000:.2f} s heard"
                self._print(self._line.clears[-1].at_ms, "barge-in", "red", f"{said}; {told}")
                heard = heard_part(item.text, round(heard_ms), item.sent_ms, complete=not item.interrupted)
                if unheard := item.text[len(heard) :].strip():
                    self._print(None, "unheard", "dim", f"[strike]{escape(unheard)}[/]")
        self._truncations = len(truncations)

    def _tool_calls(self, session: SimulatedSession) -> None:
        for call in session.tool_calls[self._tools :]:
            if call.returned_at is None:
                return
            told = tool_call(call)
            at_ms = (call.called_at - self._line.started_at) * 1000
            self._print(at_ms, "tool", "magenta", escape(told.words()), wait=f"{told.ms} ms")
            self._tools += 1

    def _print(self, at_ms: float | None, name: str, style: str, text: str, *, wait: str = "") -> None:
        print_row(self._console, at_ms, name, style, text, wait=wait)

    def _now_ms(self) -> float:
        return (time.monotonic() - self._line.started_at) * 1000


def print_row(console: Console, at_ms: float | None, name: str, style: str, markup: str, *, wait: str = "") -> None:
    """Print a line of a live view: the time, what happened in `style`, how long it took, and the words."""
    row = Table.grid(padding=(0, 2))
    row.add_column(width=6, justify="right", style="dim")
    row.add_column(width=8, style=style)
    row.add_column(width=7, style="dim")
    row.add_row("" if at_ms is None else clock(at_ms), name, wait, plain(markup))
    console.print(row)
