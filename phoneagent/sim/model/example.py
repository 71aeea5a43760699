"""A value that a JSON schema allows: the arguments with which the simulated model calls a forced function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 32
"""How deep a value may be nested; deeper parts are null."""

_TEXTS = {
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "date-time": "2026-01-31T12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "binary": "",
}


def example_of(schema: Mapping[str, Any]) -> Any:
    """Return a value that a schema allows, with only the required parts. A `pattern` is ignored."""
    return _value(schema, schema, 0)


def _value(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return None
    if (reference := schema.get("$ref")) is not None:
        return _value(_found(str(reference), root), root, depth + 1)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if schema.get("enum"):
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return _value(schema[keyword][0], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_type(kind[0] if isinstance(kind, list) and kind else kind, schema, root, depth)


def _of_type(kind: Any, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: _value(properties.get(name, {}), root, depth + 1) for name in schema.get("required", ())}
        case "array":
            parts = [_value(part, root, depth + 1) for part in schema.get("prefixItems", ())]
            missing = max(0, int(schema.get("minItems", 0)) - len(parts))
            return parts + [_value(schema.get("items", {}), root, depth + 1)] * missing
        case "integer" | "number":
            return _number(schema, whole=kind == "integer")
        case "boolean":
            return False
        case "null":
            return None
        case _:
            text = _TEXTS.get(str(schema.get("format")), "example")
            text += "e" * (int(schema.get("minLength", 0)) - len(text))
            return text[: int(schema.get("maxLength", len(text)))]


def _number(schema: Mapping[str, Any], *, whole: bool) -> Any:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None:
        value = math.ceil(low / step) * step
        value += step if value == schema.get("exclusiveMinimum") else 0
        if high is not None and value >= high and not whole:
            return (low + high) / 2
        return value
    if high is not None and high < 1:
        value = math.floor(high / step) * step
        return value - step if value == schema.get("exclusiveMaximum") else value
    return step


def _found(reference: str, root: Mapping[str, Any]) -> Any:
    node: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        node = node.get(key) if isinstance(node, Mapping) and key else node
    return node
