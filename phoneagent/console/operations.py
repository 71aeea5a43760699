"""The operations of the control API: the answers by path and method, and their description in `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, get_args

from starlette.requests import HTTPConnection

from phoneagent.calls.outbound import MAX_KEY_CHARS
from phoneagent.console.gate import Answer
from phoneagent.console.problems import BadRequest

MAX_TEXT_CHARS = 200
"""The longest text of a parameter."""

Method: TypeAlias = Literal["GET", "POST"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A query parameter that is one of a set of words."""

    name: str
    kind: Any
    """A `Literal` of the words."""
    summary: str

    def read(self, request: HTTPConnection) -> Any:
        """Return the parameter; None if it is not given.

        Raises:
            BadRequest: it is another word.
        """
        given, choices = request.query_params.get(self.name), get_args(self.kind)
        if given is not None and given not in choices:
            raise BadRequest(f"{self.name} is not one of {', '.join(choices)}: correct it, or leave it out")
        return given

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameter."""
        return {"type": "string", "enum": list(get_args(self.kind))}


@dataclass(frozen=True, slots=True)
class Number:
    """A query parameter that is a whole number."""

    name: str
    least: int
    most: int
    default: int
    summary: str

    def read(self, request: HTTPConnection) -> int:
        """Return the parameter, or its default.

        Raises:
            BadRequest: it is not a number, or too small or too large.
        """
        given = request.query_params.get(self.name, str(self.default))
        digits = given.isascii() and given.isdigit() and len(given) <= len(str(self.most))
        if not (digits and self.least <= int(given) <= self.most):
            raise BadRequest(f"{self.name} must be a number from {self.least} to {self.most}")
        return int(given)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameter."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most, "default": self.default}


@dataclass(frozen=True, slots=True)
class Text:
    """A query parameter, or (with `place`) a header, that is any text."""

    name: str
    summary: str
    place: Literal["query", "header"] = "query"

    def read(self, request: HTTPConnection) -> str | None:
        """Return the query parameter; None if it is not given or empty.

        Raises:
            BadRequest: it is too long, or has characters that are not text.
        """
        given = request.query_params.get(self.name, "")
        if len(given) > MAX_TEXT_CHARS or not given.isprintable():
            raise BadRequest(f"{self.name} is not a text of up to {MAX_TEXT_CHARS} characters: shorten it")
        return given or None

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameter."""
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Moment:
    """A query parameter that is a date with a time and a time zone."""

    name: str
    summary: str

    def read(self, request: HTTPConnection) -> datetime | None:
        """Return the parameter; None if it is not given or empty.

        Raises:
            BadRequest: it is not such a date.
        """
        given = request.query_params.get(self.name)
        if not given:
            return None
        try:
            moment = datetime.fromisoformat(given)
            moment.astimezone(UTC)
        except (ValueError, OverflowError):
            moment = None
        if moment is None or moment.tzinfo is None:
            raise BadRequest(f"{self.name} is not a date with a time zone: write it like 2026-11-29T12:00:00Z")
        return moment

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameter."""
        return {"type": "string", "format": "date-time"}


NUMBERS = Choice("numbers", Literal["full", "masked"], "whether phone numbers are whole; else they are masked")


def full_numbers(request: HTTPConnection) -> bool:
    """Return whether a request asks for whole phone numbers.

    Raises:
        BadRequest: the parameter is another word.
    """
    return bool(NUMBERS.read(request) == "full")


KEY = Text("Idempotency-Key", "a new text for each request: one that comes again is done once", place="header")


def idempotency_key(request: HTTPConnection) -> str | None:
    """Return the idempotency key of a request; None if it has none.

    Raises:
        BadRequest: it is empty or too long.
    """
    key = request.headers.get(KEY.name)
    if key is not None and not 0 < len(key) <= MAX_KEY_CHARS:
        raise BadRequest(f"{KEY.name} is not a text of 1 to {MAX_KEY_CHARS} characters: a UUID is enough")
    return key


Parameter: TypeAlias = Choice | Number | Text | Moment


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    `body` and `result` are types that msgspec reads and writes. Without a `result` the answer is a stream of
    Server-Sent Events, or bytes of another `media_type`.
    """

    answer: Answer
    summary: str
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    result: Any = None
    status: int = 200
    problems: tuple[int, ...] = ()
    """The statuses of its problems, besides those of every operation."""
    further: tuple[int, ...] = ()
    """Other statuses of success: 204, which has no content, and 206, a part of it."""
    media_type: str = "text/event-stream"
    example: Mapping[str, Any] | None = None
    """An example body."""


Operations: TypeAlias = Mapping[str, Mapping[Method, Operation]]
"""All operations by path and method."""
