"""A call as the app's own events tell it: the live view of `phoneagent talk` and its report.

The events come with any model, so this also works without a simulator that keeps records.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypeAlias

from rich.console import Console
from rich.markup import escape

from phoneagent import events
from phoneagent.demo.live import print_row
from phoneagent.demo.report import BargeIn, Report, ToolCall, Turn, measure
from phoneagent.events import CallEnded, KeyPressed, ToolCalled, ToolReturned, Trouble, TurnEnded
from phoneagent.sim.twilio.phone import Line

MAX_EVENTS = 20_000
"""Events of one call that are kept for its report."""

Shown: TypeAlias = (
    events.AgentAnswered
    | events.AgentResumed
    | events.BargeIn
    | events.SilenceFilled
    | TurnEnded
    | ToolCalled
    | ToolReturned
    | KeyPressed
    | Trouble
    | CallEnded
)
"""The events that the view and the report use."""


class CallEvents:
    """The events of one call: each is printed as it comes, and kept for the report."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._events: list[Shown] = []
        self._waited = ""

    async def see(self, event: Shown) -> None:
        """Print and keep an event. This is a hook of the app."""
        if len(self._events) < MAX_EVENTS:
            self._events.append(event)
        self._show(event)

    @property
    def failure(self) -> str | None:
        """Why the call failed, as the app says; None if it did not."""
        ends = [each for each in self._events if isinstance(each, CallEnded) and each.ended_by in ("line", "error")]
        return ends[-1].reason if ends else None

    def report(self, line: Line) -> Report:
        """Measure a call that is over. The words come from the app; what was heard, and when, from the phone."""
        turns = [each.turn for each in self._events if isinstance(each, TurnEnded)]
        ends = [each for each in self._events if isinstance(each, CallEnded)]
        pauses = [_pause(each) for each in self._events if isinstance(each, events.AgentResumed)]
        return replace(
            measure(line, None, pauses=pauses, dead_air_ms=max((each.dead_air_ms for each in ends), default=None)),
            turns=sorted((_turn(each) for each in turns), key=lambda turn: (turn.start_ms, turn.end_ms)),
            barge_ins=[_barge_in(each, turns, line) for each in self._events if isinstance(each, events.BargeIn)],
            tool_calls=[tool_call(each, self._events) for each in self._events if isinstance(each, ToolCalled)],
        )

    def notes(self) -> list[tuple[float, str]]:
        """Return each tool call, and each sound that filled a silence, with its time in ms."""
        notes: list[tuple[float, str]] = []
        for each in self._events:
            if isinstance(each, ToolCalled):
                notes.append((each.at_ms, tool_call(each, self._events).words()))
            elif isinstance(each, events.SilenceFilled):
                notes.append((each.at_ms, f"{each.sound} after {each.silent_ms / 1000:.1f} s of silence"))
        return notes

    def _show(self, event: Shown) -> None:
        match event:
            case events.AgentAnswered():
                self._waited = f"+{event.latency_ms / 1000:.2f} s"
            case TurnEnded(turn=turn) if turn.role == "caller":
                if turn.text:  # without a recognizer, such turns end with the call
                    print_row(self._console, turn.start_ms, "caller", "bold green", escape(turn.text))
            case TurnEnded(turn=turn):
                waited, self._waited = self._waited, ""
                print_row(self._console, turn.start_ms, "agent", "bold blue", _struck(turn), wait=waited)
            case events.AgentResumed():
                words = f"the agent went on: {event.cause}"
                print_row(self._console, event.at_ms, "pause", "yellow", words, wait=f"{event.paused_ms} ms")
            case events.BargeIn():
                words = f"{event.said_ms / 1000:.2f} s said; the model was told {event.audio_end_ms / 1000:.2f} s heard"
                print_row(self._console, event.at_ms, "barge-in", "red", words)
            case ToolReturned():
                called = next(
                    (e for e in self._events if isinstance(e, ToolCalled) and e.call_id == event.call_id), None
                )
                if called is not None:
                    words = escape(tool_call(called, self._events).words())
                    print_row(self._console, called.at_ms, "tool", "magenta", words, wait=f"{event.ms} ms")
            case KeyPressed():
                print_row(self._console, event.at_ms, "key", "green", escape(event.digit or "(gathered)"))
            case events.SilenceFilled():
                print_row(self._console, event.at_ms, event.sound, "yellow", f"after {event.silent_ms} ms of silence")
            case Trouble():
                print_row(self._console, event.at_ms, "trouble", "red", escape(event.what))
            case ToolCalled() | CallEnded():
                pass  # shown with its return; shown in the summary


def tool_call(called: ToolCalled, all_events: list[Shown]) -> ToolCall:
    """Return a tool call for the report; arguments that are not JSON stay text."""
    try:
        arguments = json.loads(called.arguments)
    except ValueError:
        arguments = called.arguments
    returned = next((e for e in all_events if isinstance(e, ToolReturned) and e.call_id == called.call_id), None)
    if returned is None:
        return ToolCall(called.name, arguments, None, None)
    return ToolCall(called.name, arguments, returned.output, returned.ms)


def _struck(turn: events.Turn) -> str:
    """Return the words of a turn as markup; what was not heard is struck through."""
    rest = turn.text[len(turn.heard_text) :] if turn.interrupted and turn.text.startswith(turn.heard_text) else ""
    return escape(turn.heard_text if rest else turn.text) + (f"[dim strike]{escape(rest)}[/]" if rest.strip() else "")


def _pause(event: events.AgentResumed) -> events.Pause:
    return events.Pause(start_ms=event.at_ms - event.paused_ms, end_ms=event.at_ms, cause=event.cause)


def _turn(turn: events.Turn) -> Turn:
    return Turn(
        "caller" if turn.role == "caller" else "agent",
        turn.text,
        turn.heard_text,
        turn.start_ms,
        turn.end_ms,
        turn.said_ms,
        turn.heard_ms,
        turn.interrupted,
    )


def _barge_in(event: events.BargeIn, turns: list[events.Turn], line: Line) -> BargeIn:
    """Return an interruption, with what the phone played of the turn that was cut off."""
    turn = next((each for each in turns if each.item_id == event.item_id), None)
    heard_ms = 0.0
    if turn is not None:
        later = [each.start_ms for each in turns if each.role == "agent" and each.start_ms > turn.start_ms]
        until_ms = min(later, default=float("inf"))
        for span in line.heard:
            heard_ms += max(min(span.end_ms, until_ms) - max(span.start_ms, turn.start_ms), 0.0)
    return BargeIn(event.item_id, event.audio_end_ms, round(heard_ms), event.reaction_ms)
