"""A script for a user's own agent, made from its tools: it calls each of them once and says what came back.

The arguments are made up from the tool's JSON schema, so the tools really run, with values that mean nothing. If a
tool has the caller press keys, those mean nothing either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_DEPTH = 5
"""The maximum depth of a made-up argument; a schema may contain itself."""

_PHONE_NUMBER = "+15550100001"
_FORMATS = {
    "date": "2027-01-15",
    "date-time": "2027-01-15T19:30:00Z",
    "time": "19:30:00",
    "email": "caller@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_HEADER = """\
# What the simulated model says and does in a call with {name}, and what the caller says.
# Play it: phoneagent demo {target} --script FILE, or type to it: phoneagent chat {target} --script FILE.
# The format: docs/scripts.md. The model reads no instructions here; it only follows these lines.

greeting = {greeting}    # if the agent has no greeting of its own and is asked to speak first
default = "I see. Tell me a little more about that, please."    # when no turn matches
goodbye = "Thank you for calling. Goodbye!"

[[turn]]
heard = "help|hello|what can"    # a regular expression for what the caller says or types
caller = "Hello! What can you help me with?"    # the caller's line in the demo
say = "I am a simulated model, so I say what my script tells me, whatever your instructions are. I can talk for quite \
a while, and you can stop me at any time, in the middle of a sentence, as you would stop a person."

[[turn]]
heard = "stop|prices|wait"
caller = "Sorry, can I stop you there? Tell me about your prices."
say = "Of course. I am free of charge, and I need neither an account nor a key. Is there anything else?"
"""
_TOOL = """
[[turn]]
heard = {heard}
{asked}
call = {name}
arguments = {arguments}    # made up from the tool's schema: change them
then = {then}    # {{output}} is what the tool returned
"""
_NOT_ASKED = "# only when it is typed, and after the hand-off to the agent that has this tool"
_TYPED = """\
say = "Please type that on your telephone now."
keys = {keys}    # what the caller then presses, made up as well
"""
_END = """
[[turn]]
heard = "bye|that's all|thank{hang_up}"
caller = "No, that's all. Thank you, goodbye!"
say = "Thank you for calling. Goodbye!"
"""
_HAND_OFF = """
[[turn]]
heard = {heard}    # only when it is typed: the caller in the demo does not ask for it
call = {name}
then = "You have been handed over. What can I do for you?"    # what the other agent says
"""


def derive(
    name: str,
    tools: Sequence[Mapping[str, Any]],
    *,
    others: Sequence[Mapping[str, Any]] = (),
    greeting: str | None,
    target: str,
    keys: Mapping[str, str] | None = None,
) -> str:
    """Return a commented script, as TOML, for an agent. `tools` are its functions as a session has them.

    `others` are the functions of the other agents of its team. The caller asks for none of them; each can be typed.

    `keys` are the keys that the caller presses, by the name of the tool that gathers them.
    """
    functions: dict[str, Mapping[str, Any]] = {}
    for each in (*tools, *others):
        if each["type"] == "function":
            functions.setdefault(each["name"], each)
    names = list(functions)
    own = {each.get("name") for each in tools}
    handoffs = [name for name in names if name.startswith("hand_off_to_")]
    tried = {
        name: _turn(each, (keys or {}).get(name, ""), _heard(name, names), asked=name in own)
        for name, each in functions.items()
        if name != "hang_up" and name not in handoffs
    }
    parts = [_HEADER.format(name=_comment(name), target=_comment(target), greeting=_toml(greeting or "Hello!"))]
    parts += [turn for name, turn in tried.items() if name in own]
    hangs_up = "hang_up" in names
    parts.append(_END.format(hang_up="|hang.*up" if hangs_up else "") + ('call = "hang_up"\n' if hangs_up else ""))
    parts += [_HAND_OFF.format(heard=_toml(_heard(name, names)), name=_toml(name)) for name in handoffs]
    parts += [turn for name, turn in tried.items() if name not in own]
    return "".join(parts)


def made_up(schema: Mapping[str, Any], name: str = "value", *, root: Mapping[str, Any] | None = None) -> Any:
    """Return a value that a JSON schema allows, as far as types, choices and limits go; `name` is the parameter's."""
    return _value(schema, name, schema if root is None else root, MAX_DEPTH)


def _value(schema: Any, name: str, root: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth == 0:
        return name
    schema = _resolved(schema, root)
    for key in ("const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    for key in ("examples", "enum"):
        if chosen := [each for each in schema.get(key) or () if each is not None]:
            return chosen[0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "string")
    match kind:
        case "object":
            known = schema.get("properties") or {}
            return {each: _value(known.get(each), each, root, depth - 1) for each in schema.get("required") or ()}
        case "array":
            count = max(1, int(schema.get("minItems", 1)))
            return [_value(schema.get("items"), name, root, depth - 1)] * min(count, 10)
        case "boolean":
            return True
        case "integer" | "number":
            return _number(schema, whole=kind == "integer")
        case _:
            return _text(schema, name)


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow references and take the first choice that is not null."""
    for _ in range(MAX_DEPTH):
        if reference := str(schema.get("$ref", "")).removeprefix("#/"):
            found: Any = root
            for step in reference.split("/"):
                found = found.get(step, {}) if isinstance(found, Mapping) else {}
            schema = found
        elif options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
            schema = next((each for each in options if each.get("type") != "null"), {})
        else:
            break
    return schema


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    step = schema.get("multipleOf") or (1 if whole else 0.5)
    least = schema.get("minimum")
    if least is None and "exclusiveMinimum" in schema:
        least = schema["exclusiveMinimum"] + step
    most = schema.get("maximum")
    if most is None and "exclusiveMaximum" in schema:
        most = schema["exclusiveMaximum"] - step
    value = max(2, step) if least is None else max(2, least)
    value = value if most is None else min(value, most)
    if "multipleOf" in schema:
        value = -(-value // step) * step
    return int(value) if whole else float(value)


def _text(schema: Mapping[str, Any], name: str) -> str:
    text = _FORMATS.get(str(schema.get("format")), name.replace("_", " "))
    if "format" not in schema:
        lowered = name.lower()
        if "phone" in lowered:
            text = _PHONE_NUMBER
        elif lowered == "date":
            text = _FORMATS["date"]
        elif lowered in ("day", "weekday"):
            text = "Sunday"
        elif lowered in ("time", "hour"):
            text = "19:30"
        elif "number" in lowered.split("_"):
            text = "123456"
    text = text.ljust(int(schema.get("minLength", 0)), "x")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _heard(name: str, names: Sequence[str]) -> str:
    """Return a pattern for a tool's name in words. It leaves out the longer names that contain this one."""
    pattern = _in_words(name)
    longer = [each for each in map(_in_words, names) if each != pattern and re.search(pattern, each.replace(".*", " "))]
    return f"^{''.join(f'(?!.*{each})' for each in longer)}.*{pattern}" if longer else pattern


def _in_words(name: str) -> str:
    return ".*".join(word for word in re.split(r"[\W_]+", name) if word)


def _turn(tool: Mapping[str, Any], keys: str, heard: str, *, asked: bool) -> str:
    name = tool["name"]
    arguments = made_up(tool.get("parameters") or {})
    turn = _TOOL.format(
        heard=_toml(heard),
        asked=f"caller = {_toml(_request(name, str(tool.get('description') or '')))}" if asked else _NOT_ASKED,
        name=_toml(name),
        arguments=_toml(arguments if isinstance(arguments, dict) else {}),
        then=_toml(f"{name.replace('_', ' ')} returned: {{output}}"),
    )
    return turn + _TYPED.format(keys=_toml(keys)) if keys else turn


def _request(name: str, description: str) -> str:
    """Return a caller's request for a tool: its name in words, and the first sentence of its description."""
    spoken = name.replace("_", " ").replace("-", " ")
    sentence = re.split(r"[.\n]", description.strip(), maxsplit=1)[0].strip()[:120]
    if not sentence:
        return f"Please {spoken}."
    wish = sentence[0].lower() + sentence[1:]
    return f"Please {wish}." if _in_order(spoken, wish) else f"Please {wish}: {spoken}."


def _in_order(words: str, sentence: str) -> bool:
    return re.search(".*".join(map(re.escape, words.lower().split())), sentence.lower()) is not None


def _toml(value: Any) -> str:
    """Return a JSON value as TOML on one line. Null has no spelling there, so it becomes text."""
    match value:
        case dict():
            inner = ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case bool() | int() | float():
            return json.dumps(value)
        case _:
            # JSON's escapes of an emoji are surrogates, which TOML refuses, so text stays as it is
            text = "" if value is None else str(value).encode("utf-8", "replace").decode()
            return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _comment(text: str) -> str:
    return "".join(each for each in text if each.isprintable())
