"""The JSON schema of a tool's parameters: what the Realtime API refuses in it, and what it needs written out.

A server refuses a whole session for one bad schema. OpenAI requires more than JSON Schema does: the top level must be
an object without alternatives, and an array must say what its items are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import pydantic

MAX_PROBLEMS = 5
"""How many problems with its output the model gets in words; the rest are counted."""

MAX_DEPTH = 64
"""How deep a schema may be nested; a model would not fill in a deeper one."""

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
ALTERNATIVES = ("anyOf", "oneOf", "allOf", "not", "enum")
"""What the top level must not have."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLES = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list | tuple) and value else (value,)
    return all(_is_text(name) and name in TYPES for name in names)


_TYPE_NAMES = ", ".join(map(repr, TYPES))
_KEYWORDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_type, f"choose from {_TYPE_NAMES}"),
    "required": (_is_texts, "write a list of names beside `properties`"),
    "enum": (lambda value: isinstance(value, list | tuple) and len(value) > 0, "write a list of at least one value"),
    **dict.fromkeys(("description", "title", "format", "pattern", "$ref"), (_is_text, "write text")),
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (_is_number, "write a number")
    ),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "write a whole number that is not negative"),
    ),
    "uniqueItems": (lambda value: isinstance(value, bool), "write True or False"),
    **dict.fromkeys(_MAPS, (lambda value: isinstance(value, Mapping), "write a dict of schemas")),
    **dict.fromkeys(
        _LISTS, (lambda value: isinstance(value, list | tuple) and len(value) > 0, "write a list of schemas")
    ),
}


def problem_of(schema: Mapping[str, Any]) -> str | None:
    """Return the first problem in a tool's parameters for which a server would refuse the session, or None.

    `schema` can be written as JSON.
    """
    if (kind := schema.get("type", "object")) != "object":
        return f"has parameters of type {kind!r}: write the type 'object'"
    for keyword in ALTERNATIVES:
        if keyword in schema:
            return f"has {keyword!r} at the top of its parameters: write it into one of the `properties`"
    return next(_problems(schema, schema, "parameters", 0), None)


def _problems(schema: Any, root: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        yield f"has parameters that are nested more than {MAX_DEPTH} levels deep: make them flatter"
        return
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield f"has {at}={_shown(schema)}: write a schema, a dict"
        return
    for keyword, value in schema.items():
        is_right, remedy = _KEYWORDS.get(keyword, (None, ""))
        if is_right is not None and not is_right(value):
            yield f"has {at}.{keyword}={_shown(value)}: {remedy}"
            return
    if (reference := schema.get("$ref")) is not None and not _resolves(reference, root):
        yield f"has {at}.$ref={_shown(reference)}, which leads nowhere: define it in `$defs`"
    for name, part in _parts(schema):
        yield from _problems(part, root, f"{at}.{name}", depth + 1)


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the schemas within a schema, each with its path."""
    for keyword in _MAPS:
        for name, part in schema.get(keyword, {}).items():
            yield f"{keyword}.{name}", part
    for keyword in _LISTS:
        for index, part in enumerate(schema.get(keyword, ())):
            yield f"{keyword}[{index}]", part
    for keyword in _SINGLES:
        parts = schema.get(keyword, True)
        if isinstance(parts, list | tuple):  # an older spelling of `prefixItems`
            yield from ((f"{keyword}[{index}]", part) for index, part in enumerate(parts))
        else:
            yield keyword, parts


def _resolves(reference: str, root: Mapping[str, Any]) -> bool:
    """Return whether a reference leads to a schema. Some generators let one lead into a list (`#/…/anyOf/1`)."""
    start, *keys = unquote(reference).split("/")
    node: Any = root
    for key in keys:
        if isinstance(node, Mapping):
            node = node.get(key.replace("~1", "/").replace("~0", "~"))
        elif isinstance(node, list | tuple) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return False
    return start == "#" and isinstance(node, Mapping | bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def problems_in(error: pydantic.ValidationError, whole: str) -> str:
    """Return the first problems with what a model wrote, in one line; `whole` names the value as a whole."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = found[:MAX_PROBLEMS]
    problems = [f"{'.'.join(map(str, each['loc'])) or whole}: {each['msg']}" for each in first]
    more = [f"and {len(found) - len(first)} more"] if len(found) > len(first) else []
    return "; ".join(problems + more)


def written_out(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with the same meaning that spells out everything servers require.

    `schema` must have no problem. An object gets its `properties` and an array its `items`, the older spelling of a
    tuple becomes the newer one, and a default that JSON cannot express is left out.
    """
    written: dict[str, Any] = _written_out({"type": "object", **schema})
    return written


def _written_out(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    result = dict(schema)
    if isinstance(default := result.get("default"), float) and not math.isfinite(default):
        del result["default"]
    if isinstance(items := result.get("items"), list | tuple):
        result["prefixItems"] = list(items)
        result["items"] = result.pop("additionalItems", {})
    kinds = result.get("type")
    kinds = (kinds,) if isinstance(kinds, str) else kinds or ()
    if "object" in kinds:
        result.setdefault("properties", {})
    if "array" in kinds and isinstance(more := result.get("items", True), bool):
        result["items"] = {}
        if not more:  # nothing beyond the tuple's own items
            result.setdefault("maxItems", len(result.get("prefixItems", ())))
    for keyword in _MAPS:
        if keyword in result:
            result[keyword] = {name: _written_out(part) for name, part in result[keyword].items()}
    for keyword in _LISTS:
        if keyword in result:
            result[keyword] = [_written_out(part) for part in result[keyword]]
    for keyword in _SINGLES:
        if keyword in result:
            result[keyword] = _written_out(result[keyword])
    return result
