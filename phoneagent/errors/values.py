"""Values and names that users give: whether they can be right, what is wrong, and how to correct it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

NEARNESS = 0.88
"""How much of two names must agree, from 0 to 1, for one to be a misspelling of the other."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[ -~]{0,8192}")


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: 1 call, 2 calls."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def verdict(kind: str, words: str, context: Mapping[str, Any], example: object) -> str:
    """Return pydantic's verdict on a value, reworded; `kind` is pydantic's type of error, `words` its message."""
    match kind:
        case "int_parsing" | "int_from_float" | "int_type":
            found = "it must be a whole number"
        case "float_parsing" | "decimal_parsing" | "float_type" | "decimal_type":
            found = "it must be a number"
        case "finite_number":
            found = "it must be a finite number"
        case "bool_parsing" | "bool_type":
            return "it must be 1 or 0"
        case "literal_error":
            return f"it must be {str(context['expected']).replace(chr(39), '')}"
        case "greater_than_equal":
            found = f"it must be {context['ge']:g} or more"
        case "greater_than":
            found = f"it must be more than {context['gt']:g}"
        case "less_than_equal":
            found = f"it must be {context['le']:g} or less"
        case "string_pattern_mismatch":
            found = "it has another form"
        case _:
            return words.removeprefix("Value error, ")
    return found if example is None else f"{found}, like {example}"


def misspelled(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Return misspelled names, by the missing known name that each almost matches."""
    given, wanted = set(names), set(known)
    free = wanted - given
    found: dict[str, str] = {}
    for name in sorted(given - wanted):
        for near in get_close_matches(name, sorted(free), n=1, cutoff=NEARNESS):
            found.setdefault(near, name)
    return found


def python_type(name: str) -> str | None:
    """Return the type hint for what other languages name so; None if it is no such name."""
    return _OTHER_TYPES.get(name.lower())


_OTHER_TYPES = {"string": "str", "number": "float or int", "integer": "int", "boolean": "bool", "array": "list"}


def is_address(value: str, *schemes: str) -> bool:
    """Return whether `value` is a URL with one of these schemes and a host."""
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_header(name: str, value: str) -> bool:
    """Return whether a header can be sent as it is: printable ASCII of a bounded length, without line breaks."""
    return bool(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value))
