"""The tree of errors: what a caller may catch, and what each error tells beside its message."""

from __future__ import annotations

import inspect
import re

import pytest

import phoneagent
from phoneagent import errors
from phoneagent.errors import (
    ConfigurationError,
    EndpointError,
    EndpointRefused,
    EndpointUnreachable,
    PhoneAgentError,
    StoreError,
    TelephonyError,
    shown,
)

CLASSES = {
    name: each
    for name, each in vars(errors).items()
    if inspect.isclass(each) and issubclass(each, Exception) and not issubclass(each, Warning)
}


def drawn() -> dict[str, str]:
    """Return the parent of each class in the tree that the module's docstring draws."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for indent, name in re.findall(r"^( {4}[ │├└─]*)([A-Z]\w+)", errors.__doc__ or "", re.M):
        depth = (len(indent) - 4) // 4
        path[depth:] = [name]
        if depth:
            parents[name] = path[depth - 1]
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn() == {name: each.__base__.__name__ for name, each in CLASSES.items() if each is not PhoneAgentError}


def test_one_except_catches_all_of_them() -> None:
    assert all(issubclass(each, PhoneAgentError) for each in CLASSES.values())
    # A handler of the standard library's errors must not swallow ours, nor the other way round.
    assert PhoneAgentError.__base__ is Exception


def test_what_a_user_may_catch_can_be_imported_from_the_package() -> None:
    assert {name for name in CLASSES if not hasattr(phoneagent, name)} == {"OutcomeUnavailable", "StoreError"}


def test_every_problem_of_a_configuration_is_a_line() -> None:
    given = ["PUBLIC_URL is missing: set it", "PORT is malformed: it must be a number"]
    error = ConfigurationError(given)
    given.clear()
    assert error.problems == ("PUBLIC_URL is missing: set it", "PORT is malformed: it must be a number")
    assert str(error).splitlines() == list(error.problems)


@pytest.mark.parametrize("kind", [EndpointError, EndpointRefused])
def test_only_an_unreachable_endpoint_is_tried_again(kind: type[EndpointError]) -> None:
    assert kind("no", code="401").retry is False
    assert EndpointUnreachable("away").retry is True


def test_an_endpoint_s_code_is_the_far_end_s_or_none() -> None:
    error = EndpointRefused("no such model", code="model_not_found")
    assert (error.code, str(error)) == ("model_not_found", "no such model")
    assert EndpointUnreachable("away").code is None


def test_a_database_is_tried_again_unless_it_refused_the_data() -> None:
    assert StoreError("away").retry is True
    assert StoreError("too large", retry=False).retry is False


def test_twilio_s_api_is_asked_again_only_where_it_may_help() -> None:
    assert (TelephonyError("no").code, TelephonyError("no").retry) == (None, False)
    busy = TelephonyError("too many requests", code=20429, retry=True)
    assert (busy.code, busy.retry, str(busy)) == (20429, True, "too many requests")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("Bad key", "Bad key"),
        ("  two\r\nlines\t", "two lines"),
        ("\x1b[31mred\x00\x07", "[31mred"),
        ("\u202eback\u2028wards", "back wards"),
        ("\ud800", ""),
        ("é 日本 😀", "é 日本 😀"),
        (503, "503"),
        ("", ""),
    ],
)
def test_a_far_ends_words_are_one_printable_line(words: object, line: str) -> None:
    assert shown(words) == line


def test_a_far_ends_words_are_cut() -> None:
    assert shown("x" * 500) == "x" * 500
    assert shown("x" * 501) == "x" * 500 + "…"
    assert shown("x" * 10**6, 10) == "x" * 10 + "…"
    assert shown("\n" * 10**6) == ""
