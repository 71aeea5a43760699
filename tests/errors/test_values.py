"""Values that are wrong and names that are misspelled, in words that say how to correct them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import pydantic
import pytest
from pydantic import BaseModel, Field

from phoneagent.errors.values import counted, is_address, is_header, misspelled, python_type, verdict


class Values(BaseModel):
    whole: int = Field(8000, ge=1, le=9000)
    share: float = Field(0.5, gt=0)
    price: Decimal = Field(Decimal(1), allow_inf_nan=False)
    flag: bool = False
    kind: Literal["text", "json"] = "text"
    form: str = Field("a-preview", pattern="preview$")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("whole", "abc", "it must be a whole number, like 8000"),
        ("whole", 1.5, "it must be a whole number, like 8000"),
        ("whole", 0, "it must be 1 or more, like 8000"),
        ("whole", 9001, "it must be 9000 or less, like 8000"),
        ("share", "abc", "it must be a number, like 0.5"),
        ("share", 0, "it must be more than 0, like 0.5"),
        ("price", "abc", "it must be a number, like 1"),
        ("price", "NaN", "it must be a finite number, like 1"),
        ("flag", "maybe", "it must be 1 or 0"),
        ("kind", "xml", "it must be text or json"),
        ("form", "x", "it has another form, like a-preview"),
        ("form", [], "Input should be a valid string"),
    ],
)
def test_what_pydantic_finds_wrong_is_said_with_an_example(name: str, value: Any, words: str) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        Values.model_validate({name: value})
    (error,) = raised.value.errors()
    example = Values.model_fields[name].default
    assert verdict(error["type"], error["msg"], error.get("ctx", {}), example) == words


def test_without_an_example_none_is_made_up() -> None:
    assert verdict("int_parsing", "", {}, None) == "it must be a whole number"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["TWILIO_AUTHTOKEN"], {"TWILIO_AUTH_TOKEN": "TWILIO_AUTHTOKEN"}),
        (["TWILIO_AUTH_TOKN", "PATH"], {"TWILIO_AUTH_TOKEN": "TWILIO_AUTH_TOKN"}),
        (["TWILIO_AUTH_TOKENS", "TWILIO_AUTH_TOKEN"], {}),
        (["TWILIO_API_KEY", "OPENAI_API_BASE", "PORTS_OF_CALL"], {}),
        (["OPEN_AI_API_KEY"], {"OPENAI_API_KEY": "OPEN_AI_API_KEY"}),
    ],
)
def test_a_name_is_misspelled_where_the_right_one_is_missing(names: list[str], found: dict[str, str]) -> None:
    known = ["TWILIO_AUTH_TOKEN", "TWILIO_ACCOUNT_SID", "TWILIO_API_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "PORT"]
    assert misspelled(names, known) == found


@pytest.mark.parametrize(
    ("value", "right"),
    [("wss://one.example/v1", True), ("ws://127.0.0.1:9000", True), ("https://one.example", False), ("wss://", False),
     ("wss://one.example:0", False), ("wss://one.example:x", False), ("wss://[", False)],
)  # fmt: skip
def test_an_address_has_a_scheme_and_a_host(value: str, right: bool) -> None:
    assert is_address(value, "ws", "wss") is right


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [("X-Team", "phones", True), ("X Team", "phones", False), ("X-Team", "a\nb", False), ("X-Team", "x" * 8193, False)],
)
def test_a_header_is_printable_and_bounded(name: str, value: str, right: bool) -> None:
    assert is_header(name, value) is right


def test_one_is_not_a_plural() -> None:
    assert [counted(count, "call") for count in (0, 1, 2)] == ["0 calls", "1 call", "2 calls"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("string", "str"), ("String", "str"), ("number", "float or int"), ("integer", "int"), ("str", None)],
)
def test_a_type_of_another_language_has_one_in_python(name: str, hint: str | None) -> None:
    assert python_type(name) == hint
