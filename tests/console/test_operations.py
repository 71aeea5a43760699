"""Parameters of operations: each is read as its schema describes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest
from starlette.requests import HTTPConnection

from phoneagent.console.operations import Choice, Moment, Number, Text
from phoneagent.console.problems import BadRequest
from tests.asgi import scope

COLOR = Choice("color", Literal["red", "blue"], "the color")
COUNT = Number("count", 1, 200, 50, "how many")


def asked(query: str) -> HTTPConnection:
    return HTTPConnection(scope("http", "/", query=query))


def test_a_choice() -> None:
    assert COLOR.read(asked("color=red")) == "red"
    assert COLOR.read(asked("")) is None
    assert COLOR.schema() == {"type": "string", "enum": ["red", "blue"]}
    with pytest.raises(BadRequest, match="color is not one of red, blue: correct it"):
        COLOR.read(asked("color=green"))


def test_a_number() -> None:
    assert COUNT.read(asked("count=200")) == 200
    assert COUNT.read(asked("")) == 50
    assert COUNT.schema() == {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}


@pytest.mark.parametrize("given", ["0", "201", "-1", "x", "1.0", "٣", "", "9" * 5000, " 5"])
def test_what_is_no_such_number_is_refused(given: str) -> None:
    with pytest.raises(BadRequest, match="count must be a number from 1 to 200"):
        COUNT.read(asked(f"count={given}"))


def test_a_text() -> None:
    words = Text("words", "what was said")
    assert words.schema() == {"type": "string"}
    assert (words.read(asked("words=good%20evening")), words.read(asked("words="))) == ("good evening", None)
    for given in ("x" * 201, "%00", "%0A"):
        with pytest.raises(BadRequest, match="words is not a text of up to 200 characters"):
            words.read(asked(f"words={given}"))


def test_a_moment() -> None:
    since = Moment("since", "the first moment")
    assert since.schema() == {"type": "string", "format": "date-time"}
    assert since.read(asked("since=2026-11-29T12:00:00Z")) == datetime(2026, 11, 29, 12, tzinfo=UTC)
    assert since.read(asked("")) is None
    for given in ("yesterday", "2026-11-29T12:00:00", "0001-01-01T00:00:00%2B23:59"):
        with pytest.raises(BadRequest, match="since is not a date with a time zone"):
            since.read(asked(f"since={given}"))
