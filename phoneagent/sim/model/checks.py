"""Checks of client events: small functions that raise `EventRefused` in the real server's words.

A check takes a value and its path (`session.audio.input.format`), which the message names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from phoneagent.errors import ProtocolError

Check = Callable[[Any, str], None]
Blame = Literal["client", "race", "fault"]


class EventRefused(ProtocolError):
    """The server refuses a client event; `code`, `param` and the message go into the `error` event.

    `blame` names the cause: the `client` broke a rule, the client lost a `race` that it could not foresee, or a
    configured `fault` refused what a healthy server accepts.
    """

    def __init__(self, message: str, *, code: str | None, param: str | None = None, blame: Blame = "client") -> None:
        self.code, self.param, self.blame = code, param, blame
        super().__init__(message)


def unknown_parameter(at: str, *, blame: Blame = "client") -> EventRefused:
    return EventRefused(f"Unknown parameter: '{at}'.", code="unknown_parameter", param=at, blame=blame)


def missing_parameter(at: str) -> EventRefused:
    return EventRefused(f"Missing required parameter: '{at}'.", code="missing_required_parameter", param=at)


def invalid_value(message: str, at: str | None = None, *, blame: Blame = "client") -> EventRefused:
    return EventRefused(message, code="invalid_value", param=at, blame=blame)


def unsupported_values(value: object, allowed: tuple[Any, ...], at: str, *, blame: Blame = "client") -> EventRefused:
    *others, last = [f"'{item}'" for item in allowed]
    listed = f"Supported values are: {', '.join(others)}, and {last}" if others else f"Supported value is: {last}"
    return invalid_value(f"Invalid value: '{str(value)[:80]}'. {listed}.", at, blame=blame)


def wrong_type(expected: str, value: object, at: str) -> EventRefused:
    kinds = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    kind = "null" if value is None else kinds.get(type(value), "an object")
    message = f"Invalid type for '{at}': expected {expected}, but got {kind} instead."
    return EventRefused(message, code="invalid_type", param=at)


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def boolean(value: Any, at: str) -> None:
    if not isinstance(value, bool):
        raise wrong_type("a boolean", value, at)


def string(value: Any, at: str) -> None:
    if not isinstance(value, str):
        raise wrong_type("a string", value, at)


def any_object(value: Any, at: str) -> None:
    if not isinstance(value, dict):
        raise wrong_type("an object", value, at)


def short_string(limit: int) -> Check:
    def check(value: Any, at: str) -> None:
        string(value, at)
        if len(value) > limit:
            message = f"Invalid '{at}': string too long. Expected a string with maximum length {limit}"
            message += f", but got a string with length {len(value)} instead."
            raise EventRefused(message, code="string_above_max_length", param=at)

    return check


def number(low: float, high: float, *, whole: bool = False) -> Check:
    expected = "an integer" if whole else "a decimal"

    def check(value: Any, at: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise wrong_type(expected, value, at)
        if not low <= value <= high:
            raise invalid_value(f"Invalid '{at}': expected a value between {low:g} and {high:g}, but got {value}.", at)

    return check


def integer(low: int, high: int) -> Check:
    return number(low, high, whole=True)


def one_of(*allowed: Any) -> Check:
    def check(value: Any, at: str) -> None:
        # `in` would take True for 1.
        if not any(value == item and type(value) is type(item) for item in allowed):
            raise unsupported_values(value, allowed, at)

    return check


def either(first: Check, kind: type, second: Check) -> Check:
    """Return a check that applies `first` to values of type `kind` and `second` to all others."""

    def check(value: Any, at: str) -> None:
        (first if isinstance(value, kind) else second)(value, at)

    return check


def list_of(inner: Check, *, limit: int = 1000) -> Check:
    def check(value: Any, at: str) -> None:
        if not isinstance(value, list):
            raise wrong_type("an array", value, at)
        if len(value) > limit:
            raise invalid_value(f"Invalid '{at}': expected at most {limit} elements, but got {len(value)}.", at)
        for index, item in enumerate(value):
            inner(item, f"{at}[{index}]")

    return check


def struct(fields: Mapping[str, Check], *required: str) -> Check:
    """Return a check of an object with these fields. All but the `required` ones may be missing or null."""

    def check(value: Any, at: str) -> None:
        any_object(value, at)
        for name in value:
            if name not in fields:
                raise unknown_parameter(_join(at, name))
        for name in required:
            if name not in value:
                raise missing_parameter(_join(at, name))
        for name, item in value.items():
            if item is not None or name in required:
                fields[name](item, _join(at, name))

    return check


def by_key(key: str, kinds: Mapping[str, Check]) -> Check:
    """Return a check of an object whose `key` (its type, its role) selects the check for the rest."""

    def check(value: Any, at: str) -> None:
        any_object(value, at)
        if key not in value:
            raise missing_parameter(_join(at, key))
        kind = value[key]
        if not isinstance(kind, str) or kind not in kinds:
            raise unsupported_values(kind, tuple(kinds), _join(at, key))
        kinds[kind](value, at)

    return check


def modalities(*allowed: tuple[str, ...]) -> Check:
    def check(value: Any, at: str) -> None:
        list_of(one_of("text", "audio"))(value, at)
        if sorted(value) not in [sorted(combination) for combination in allowed]:
            combinations = " and ".join(str(list(combination)) for combination in allowed)
            raise invalid_value(f"Invalid modalities: {value}. Supported combinations are: {combinations}.", at)

    return check


def function_name(value: Any, at: str) -> None:
    string(value, at)
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", value):
        pattern = "^[a-zA-Z0-9_-]{1,64}$"
        raise invalid_value(f"Invalid '{at}': string does not match pattern. Expected '{pattern}'.", at)


def metadata(value: Any, at: str) -> None:
    any_object(value, at)
    if len(value) > 16:
        raise invalid_value(f"Invalid '{at}': expected at most 16 properties, but got {len(value)}.", at)
    for key, item in value.items():
        short_string(64)(key, f"{at}.{key[:64]}")
        short_string(512)(item, f"{at}.{key[:64]}")
