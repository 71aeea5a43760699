"""The script of the simulated model: a small TOML file of turns.

    default = "Sorry, could you say that again?"   # no turn matched, or the turns are used up
    greeting = "Hello! How can I help you?"        # the model speaks first
    goodbye = "Goodbye!"                           # the model is asked for a goodbye
    idle = "Are you still there?"                  # the caller said nothing for `idle_timeout_ms`
    filler = "One moment, please."                 # the model speaks while a tool runs
    outcome = { booked = true }                    # the arguments of a function that the client makes the model call

    [[turn]]
    heard = "table|book"                           # a regular expression for the caller's words; case is ignored
    caller = "Hello, a table for four, please."    # the caller's words, when hearing is scripted
    keys = "4#"                                    # the keys that the demo's caller presses after the answer
    say = "Of course. For what time?"              # or a list: one audio item each

    [[turn]]
    heard = "half past seven"
    caller = "Half past seven."
    say = "Let me see."                            # spoken before the call, in the same response; optional
    call = "book_table"                            # a function call, if the session has that tool
    arguments = { guests = 4, time = "19:30" }
    then = "Done. {output}"                        # spoken once the output is there; {output} is the tool's output

    [[turn]]
    heard = "parcel"
    caller = "Where is my parcel?"
    call = "track"                                 # a tool of an MCP server, if the session has that server
    server = "shop"                                # its server_label
    output = "It left on Monday."                  # the server's answer; or `error`, why it fails
    then = "{output}"

`outcome` is for a function that `tool_choice` names and that no turn calls, like the one for the outcome of a call. If
it is a list, the session's first such call takes the first table, the second call the second one, and so on; the last
one is repeated. Without `outcome`, the model makes up arguments that the function's schema allows.

Several calls in one response: `calls = [{ name = "...", arguments = {} }, ...]`; `server` and its keys work there too.

With an ear, and always for text, the first turn whose `heard` matches is taken, as often as it matches. A text that is
only the name of a function, like "hang up", takes the first turn that calls it.

Without an ear, hearing is *scripted*: the caller's n-th turn takes the n-th `[[turn]]`, whatever the caller said, and
its transcript is `caller`. If the client adds the items of an earlier session's conversation, the script continues
after their turns.

Keys of a turn: heard, caller, keys, say, call, arguments, server, output, error, calls, then. Unknown keys are refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phoneagent.errors import DefinitionError

MAX_SCRIPT_BYTES = 1 << 20
"""The maximum size of a script file."""


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """A function call of a turn; with a `server`, a call of that MCP server's tool.

    The MCP server answers with the `output`, or fails with the `error`.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    server: str | None = None
    output: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ScriptedTurn:
    """One answer: the words that trigger it (`heard`), its lines and its calls.

    `caller` is for scripted hearing, and `keys` for a phone.
    """

    heard: re.Pattern[str] | None = None
    caller: str = ""
    keys: str = ""
    say: tuple[str, ...] = ()
    calls: tuple[ScriptedCall, ...] = ()
    then: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that the model can say. The module's documentation describes the file format."""

    turns: tuple[ScriptedTurn, ...] = ()
    default: str = "Sorry, could you say that again?"
    greeting: str = "Hello! How can I help you?"
    goodbye: str = "Goodbye!"
    idle: str = "Are you still there?"
    filler: str = "One moment, please."
    outcomes: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Script:
        """Read a script file. Raises `DefinitionError` if it cannot be read or understood."""
        try:
            data = Path(path).read_bytes()
            text = data[: MAX_SCRIPT_BYTES + 1].decode()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise DefinitionError(f"the script {path} cannot be read ({why}): name a TOML file") from error
        if len(data) > MAX_SCRIPT_BYTES:
            raise DefinitionError(f"the script {path} has {len(data)} bytes; keep it below {MAX_SCRIPT_BYTES}")
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str = "script") -> Script:
        """Read a script from its text. Errors name the `source`. Raises `DefinitionError`."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DefinitionError(f"{source} is not TOML: {error}") from error
        lines = {"default", "greeting", "goodbye", "idle", "filler"}
        _refuse_unknown(document, lines | {"turn", "outcome"}, source)
        turns, outcome = document.pop("turn", []), document.pop("outcome", [])
        outcomes = outcome if isinstance(outcome, list) else [outcome]
        if not all(isinstance(each, dict) for each in outcomes):
            raise DefinitionError(f"{source}: `outcome` must be a table or a list of tables, not {outcome!r}")
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise DefinitionError(f"{source}: `turn` must be a table; write [[turn]]")
        return cls(
            turns=tuple(_turn(turn, f"{source}, turn {number}") for number, turn in enumerate(turns, 1)),
            outcomes=tuple(outcomes),
            **{key: _text(value, key, source) for key, value in document.items()},
        )

    @classmethod
    def of(cls, script: Script | str | Path | None) -> Script:
        """Return the script given as a `Script`, as TOML text or as the path of a file; None is the built-in one."""
        if script is None:
            return cls.parse(BUILT_IN, source="the built-in script")
        if isinstance(script, Script):
            return script
        # A path has no line break, and TOML of one line needs an equals sign.
        if isinstance(script, str) and ("\n" in script or "=" in script):
            return cls.parse(script)
        return cls.load(script)

    def match(self, text: str) -> ScriptedTurn | None:
        """Return the turn that calls the function named `text`, or the first turn whose `heard` is found in `text`."""
        words = _words(text)
        named = (turn for turn in self.turns if words and any(_words(call.name) == words for call in turn.calls))
        return next(named, None) or next((turn for turn in self.turns if turn.heard and turn.heard.search(text)), None)

    def turn(self, number: int) -> ScriptedTurn | None:
        """Return the turn of scripted hearing for the caller's turn `number`, counted from 0."""
        return self.turns[number] if number < len(self.turns) else None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


_OF_A_CALL = {"arguments", "server", "output", "error"}


def _turn(table: dict[str, Any], at: str) -> ScriptedTurn:
    _refuse_unknown(table, {"heard", "caller", "keys", "say", "call", "calls", "then"} | _OF_A_CALL, at)
    calls = [_call(call, at) for call in _list(table.get("calls", []), "calls", at)]
    own = {key: table[key] for key in table if key in _OF_A_CALL}
    if "call" in table:
        calls.insert(0, _call({"name": table["call"], **own}, at))
    elif own:
        raise DefinitionError(f"{at}: `{next(iter(own))}` belongs to a `call`; name the function")
    turn = ScriptedTurn(
        heard=_pattern(table["heard"], at) if "heard" in table else None,
        caller=_text(table.get("caller", ""), "caller", at),
        keys=_keys(table.get("keys", ""), at),
        say=_lines(table.get("say", []), "say", at),
        calls=tuple(calls),
        then=_lines(table.get("then", []), "then", at),
    )
    if not turn.say and not turn.calls:
        raise DefinitionError(f"{at} neither says nor calls anything; give it a `say` or a `call`")
    return turn


def _call(table: object, at: str) -> ScriptedCall:
    if not isinstance(table, dict):
        raise DefinitionError(f"{at}: a call must be a table with a name, not {table!r}")
    _refuse_unknown(table, {"name"} | _OF_A_CALL, at)
    arguments = table.get("arguments", {})
    if not isinstance(arguments, dict):
        raise DefinitionError(f"{at}: `arguments` must be a table, not {arguments!r}")
    texts = {key: _text(table[key], key, at) for key in ("server", "output", "error") if key in table}
    if "server" not in texts and texts:
        raise DefinitionError(f"{at}: `{next(iter(texts))}` is what an MCP server answers; name the `server`")
    return ScriptedCall(_text(table.get("name"), "call", at), arguments, **texts)


def _pattern(value: object, at: str) -> re.Pattern[str]:
    try:
        return re.compile(_text(value, "heard", at), re.IGNORECASE)
    except re.error as error:
        raise DefinitionError(f"{at}: `heard` is not a regular expression: {error}") from error


def _keys(value: object, at: str) -> str:
    keys = _text(value, "keys", at)
    if not set(keys) <= set("0123456789*#ABCD"):
        raise DefinitionError(f"{at}: `keys` has one that no telephone has; use 0-9, A-D, * and #")
    return keys


def _lines(value: object, key: str, at: str) -> tuple[str, ...]:
    return tuple(_text(line, key, at) for line in (value if isinstance(value, list) else [value]))


def _list(value: object, key: str, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise DefinitionError(f"{at}: `{key}` must be a list, not {value!r}")
    return value


def _text(value: object, key: str, at: str) -> str:
    if not isinstance(value, str):
        raise DefinitionError(f"{at}: `{key}` must be text, not {value!r}")
    return value


def _refuse_unknown(table: Mapping[str, Any], known: set[str], at: str) -> None:
    for key in table:
        if key not in known:
            raise DefinitionError(f"{at}: unknown key `{key}`; known are {', '.join(sorted(known))}")


BUILT_IN = r"""
default = "I see. Tell me a little more about that, please."

[[turn]]
heard = "hello|hear me|good (morning|evening|afternoon)"
caller = "Hello! Can you hear me?"
say = "Hello! I am a simulated model: I know very little, but I like to talk. What can I do for you?"

[[turn]]
heard = 'who are you|what are you\b|your name'
caller = "Who are you?"
say = "I am the simulated model that phoneagent brings along. I follow a script, and you can give me one of your own."

[[turn]]
heard = "what time|open|hours"
caller = "What are your opening hours?"
say = "I follow a script, so I know nothing of opening hours. A real model asks your agent."

[[turn]]
heard = "book|appointment|table|reserv"
caller = "I would like to book an appointment."
say = "That is for a real model: I follow a script. Give me one that calls your tools, and I will."

[[turn]]
heard = "bye|that's all|that is all|nothing else"
caller = "That is all. Thank you, goodbye."
say = "Thank you for calling. Goodbye!"
call = "hang_up"
"""
"""The default script: enough for small talk."""
