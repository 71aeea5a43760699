"""The replies of the simulated model: the script, applied to the unanswered items of the conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phoneagent.sim.model.config import Json
from phoneagent.sim.model.example import example_of
from phoneagent.sim.model.script import Script, ScriptedCall, ScriptedTurn

_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')
_GOODBYE = re.compile(r"\bgood-?bye\b|\bfarewell\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A function call to make, or a call of an MCP `server`'s tool. `then` is said once the output is there.

    `output` or `error` is the MCP server's answer.
    """

    name: str
    arguments: str
    then: tuple[str, ...] = ()
    server: str | None = None
    output: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The lines of one response (an audio item each), and its calls."""

    say: tuple[str, ...] = ()
    calls: tuple[PlannedCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """The input of one reply.

    `news` are the unanswered items of system, user and tools, in order. `heard` is the text of the user's audio, by
    item id. `instructions` are the response's own. `hosted` are the tools of MCP servers, as (label, name).
    `beginning`: nobody has spoken yet, though the user may have sent a text: some clients ask for a greeting with one.
    """

    news: Sequence[Json]
    heard: Mapping[str, str]
    instructions: str | None
    tools: Collection[str]
    tool_choice: Any
    beginning: bool
    hosted: Collection[tuple[str, str]] = ()
    schemas: Mapping[str, Json] = field(default_factory=dict)
    """The parameters of the functions, by name."""


class Replies:
    """One session's position in the script: the next turn, and the lines that follow each call.

    With `hears`, the caller's audio is really understood; without it, the caller's n-th turn takes the script's.
    """

    def __init__(self, script: Script, *, hears: bool) -> None:
        self._script = script
        self._hears = hears
        self._turns = 0
        self._doubtful = 0
        self._replaying = True
        self._scripted: dict[str, int] = {}
        self.idle: set[str] = set()
        """The items that stand for a caller's silence."""
        self._then: dict[str, tuple[str, ...]] = {}
        self._pending: set[str] = set()
        self._forced = 0

    def turn_began(self, item_id: str) -> str:
        """Record the caller's next turn. Returns its line, which is known only if hearing is scripted."""
        self._replaying = False
        number = self._scripted[item_id] = self._turns
        self._turns += 1
        turn = self._script.turn(number)
        return turn.caller if turn and not self._hears else ""

    def recall(self, item: Json) -> None:
        """Take in an item that the client added: part of a conversation that began in another session.

        Until something is said in this session, a message of the user counts as one of the script's turns if it is the
        line of that turn, or if the assistant answered it. So a scripted conversation continues where it stopped.
        """
        if item["type"] == "function_call":
            self.called(item["call_id"], PlannedCall(item["name"], item["arguments"], self._then_of(item["name"])))
        if not self._replaying:
            return
        if item["type"] == "function_call" or item.get("role") == "assistant":
            self._turns += self._doubtful
            self._doubtful = 0
        elif item.get("role") == "user":
            turn = self._script.turn(self._turns + self._doubtful)
            if turn and turn.caller and turn.caller == _text(item):
                self._turns += self._doubtful
                self._scripted[item["id"]] = self._turns
                self._turns, self._doubtful = self._turns + 1, 0
            else:
                self._doubtful += 1

    def _then_of(self, name: str) -> tuple[str, ...]:
        return next((turn.then for turn in self._script.turns for call in turn.calls if call.name == name), ())

    def idled(self, item_id: str) -> None:
        """Record that this item stands for a caller's silence."""
        self.idle.add(item_id)

    def called(self, call_id: str, call: PlannedCall) -> None:
        """Record a call by its `call_id`, or a call of an MCP server by its item's id."""
        self._then[call_id] = call.then
        self._pending.add(call_id)

    def returned(self, call_id: str) -> None:
        """Record that a call has its output."""
        self._pending.discard(call_id)

    def answer(self, question: Question) -> Reply:
        """Return the reply. It never calls a tool that the session lacks or that `tool_choice` forbids."""
        self._replaying = False
        reply = self._requested(question) or self._reply(question)
        return self._with_choice(reply, question)

    def _requested(self, question: Question) -> Reply | None:
        """Return the reply that instructions ask for: words in quotes, or a goodbye."""
        newest = question.news[-1] if question.news else None
        system = newest if newest is not None and newest.get("role") == "system" else None
        for text in (question.instructions or "", _text(system) if system else ""):
            if quoted := _QUOTED.findall(text):
                return Reply(("".join(quoted[-1]),))
            if _GOODBYE.search(text):
                return Reply((self._script.goodbye,))
        return None

    def _reply(self, question: Question) -> Reply:
        outputs = [item for item in question.news if item["type"] in ("function_call_output", "mcp_call")]
        from_user = [item for item in question.news if item.get("role") == "user"]
        say = self._after(outputs) if outputs else ()
        if from_user:
            turn = self._to_user(from_user[-1], question)
            return Reply((*say, *turn.say), turn.calls)
        if say:
            return Reply(say)
        if question.beginning:
            return Reply((self._script.greeting,))
        return Reply((self._script.filler if self._pending else self._script.default,))

    def _to_user(self, item: Json, question: Question) -> Reply:
        item_id = item["id"]
        if item_id in self.idle:
            return Reply((self._script.idle,))
        turn: ScriptedTurn | None
        if item_id in self._scripted and not self._hears:
            turn = self._script.turn(self._scripted[item_id])
        else:
            turn = self._script.match(question.heard.get(item_id) or _text(item))
        if turn is None:
            return Reply((self._script.greeting if question.beginning else self._script.default,))
        may_call = question.tool_choice != "none"
        calls = tuple(_planned(turn, call) for call in turn.calls if may_call and _offers(question, call))
        return Reply(turn.say or (() if calls else (self._script.default,)), calls)

    def _after(self, outputs: Sequence[Json]) -> tuple[str, ...]:
        """Return the `then` lines of the calls' turn, once, filled with all outputs."""
        returned = " ".join(map(_outcome, outputs))
        keys = (item["id"] if item["type"] == "mcp_call" else item["call_id"] for item in outputs)
        lines = next((then for key in keys if (then := self._then.get(key))), ("{output}",))
        return tuple(line for template in lines if (line := template.replace("{output}", returned).strip()))

    def _with_choice(self, reply: Reply, question: Question) -> Reply:
        choice = question.tool_choice
        if isinstance(choice, dict) and choice.get("type") == "mcp":
            return self._with_server(reply, choice, question)
        wanted = choice.get("name") if isinstance(choice, dict) and choice.get("type") == "function" else None
        if not question.tools or (wanted not in question.tools if wanted is not None else choice != "required"):
            return reply
        if any(wanted in (None, call.name) for call in reply.calls):
            return reply
        if wanted is not None:  # a model that is forced to call a function does nothing else
            return Reply(calls=(PlannedCall(wanted, self._forced_arguments(wanted, question)),))
        return Reply(reply.say, (*reply.calls, PlannedCall(sorted(question.tools)[0], "{}")))

    def _forced_arguments(self, name: str, question: Question) -> str:
        outcomes = self._script.outcomes
        if not outcomes:
            return json.dumps(example_of(question.schemas.get(name, {"type": "object"})))
        self._forced += 1
        return json.dumps(dict(outcomes[min(self._forced, len(outcomes)) - 1]), default=str)

    def _with_server(self, reply: Reply, choice: Json, question: Question) -> Reply:
        """Return the reply with the script's call of the MCP server that `tool_choice` names."""
        for turn in self._script.turns:
            for call in turn.calls:
                chosen = call.server == choice["server_label"] and choice.get("name") in (None, call.name)
                if chosen and _offers(question, call):
                    made = any((each.server, each.name) == (call.server, call.name) for each in reply.calls)
                    return reply if made else Reply(reply.say, (*reply.calls, _planned(turn, call)))
        return reply


def _text(item: Json) -> str:
    """Return all text of a message, transcripts included."""
    content = item.get("content", [])
    return " ".join(str(part.get("text") or part.get("transcript") or "") for part in content).strip()


def _planned(turn: ScriptedTurn, call: ScriptedCall) -> PlannedCall:
    arguments = json.dumps(dict(call.arguments), default=str)
    return PlannedCall(call.name, arguments, turn.then, server=call.server, output=call.output, error=call.error)


def _offers(question: Question, call: ScriptedCall) -> bool:
    return call.name in question.tools if call.server is None else (call.server, call.name) in question.hosted


def _outcome(item: Json) -> str:
    """Return the outcome of a call in words to say."""
    return str(item["error"]["message"]) if item.get("error") else _spoken(item["output"])


def _spoken(output: str) -> str:
    """Return a tool's output in words to say: a JSON string without its quotes."""
    try:
        value = json.loads(output)
    except ValueError:
        return output
    return value if isinstance(value, str) else output
