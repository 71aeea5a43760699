"""The checks, one by one: what each takes, and the words of its refusal."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.errors import ProtocolError
from phoneagent.sim.model import checks
from phoneagent.sim.model.checks import Check, EventRefused


def refused(check: Check, value: Any, at: str = "session.x") -> EventRefused:
    with pytest.raises(EventRefused) as caught:
        check(value, at)
    return caught.value


def test_a_refusal_is_the_client_s_fault_unless_it_is_said_otherwise() -> None:
    error = EventRefused("No.", code="invalid_value")

    assert isinstance(error, ProtocolError)
    assert (str(error), error.code, error.param, error.blame) == ("No.", "invalid_value", None, "client")
    assert checks.unknown_parameter("a.b", blame="fault").blame == "fault"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "a boolean"),
        (3, "an integer"),
        (0.5, "a decimal"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_a_wrong_type_names_what_came(value: Any, kind: str) -> None:
    error = refused(checks.string, value)

    assert str(error) == f"Invalid type for 'session.x': expected a string, but got {kind} instead."
    assert (error.code, error.param) == ("invalid_type", "session.x")


def test_simple_types() -> None:
    checks.boolean(False, "x")
    checks.string("", "x")
    checks.any_object({"anything": object()}, "x")
    assert refused(checks.boolean, 0).code == "invalid_type"
    assert refused(checks.any_object, []).code == "invalid_type"


def test_a_string_has_a_maximum_length() -> None:
    check = checks.short_string(3)
    check("abc", "x")

    assert str(refused(check, "abcd")) == (
        "Invalid 'session.x': string too long. Expected a string with maximum length 3, "
        "but got a string with length 4 instead."
    )


@pytest.mark.parametrize("value", [0, 1, 0.5])
def test_numbers_include_their_limits(value: float) -> None:
    checks.number(0, 1)(value, "x")


@pytest.mark.parametrize(
    ("check", "value", "code"),
    [
        (checks.number(0, 1), 1.01, "invalid_value"),
        (checks.number(0, 1), True, "invalid_type"),
        (checks.number(0, 1), "1", "invalid_type"),
        (checks.number(0, 1), float("nan"), "invalid_value"),
        (checks.integer(1, 9), 1.0, "invalid_type"),
        (checks.integer(1, 9), 10, "invalid_value"),
    ],
)
def test_numbers_that_are_refused(check: Check, value: Any, code: str) -> None:
    assert refused(check, value).code == code


def test_a_choice_lists_what_is_supported() -> None:
    check = checks.one_of("auto", "none", "required")
    check("none", "x")

    assert str(refused(check, "never")) == (
        "Invalid value: 'never'. Supported values are: 'auto', 'none', and 'required'."
    )
    assert str(refused(checks.one_of("only"), "x")) == "Invalid value: 'x'. Supported value is: 'only'."
    assert len(str(refused(check, "x" * 10_000))) < 200


def test_a_choice_does_not_take_a_boolean_for_a_number() -> None:
    assert refused(checks.one_of(1), True).code == "invalid_value"
    checks.one_of(1, True)(True, "x")


def test_null_passes_where_nothing_is_required() -> None:
    check = checks.struct({"name": checks.string, "note": checks.string}, "name")
    check({"name": "x", "note": None}, "x")
    assert refused(check, {"name": None}).param == "session.x.name"
    assert refused(check, {"name": "x", "note": 1}).code == "invalid_type"


def test_either_goes_by_the_type() -> None:
    check = checks.either(checks.one_of("inf"), str, checks.integer(1, 4096))
    check("inf", "x")
    check(4096, "x")
    assert refused(check, "infinite").code == "invalid_value"
    assert refused(check, 0.5).code == "invalid_type"


def test_a_list_names_the_element_and_is_bounded() -> None:
    check = checks.list_of(checks.string, limit=2)
    check([], "x")

    assert refused(check, ["a", 1]).param == "session.x[1]"
    assert refused(check, ["a"] * 3).code == "invalid_value"
    assert refused(check, "ab").code == "invalid_type"


def test_a_structure_names_the_field() -> None:
    check = checks.struct({"name": checks.string, "size": checks.integer(1, 9)}, "name")
    check({"name": "a"}, "x")

    unknown, missing, wrong = (refused(check, value) for value in ({"name": "a", "nom": 1}, {"size": 1}, {"name": 1}))
    assert (unknown.code, unknown.param) == ("unknown_parameter", "session.x.nom")
    assert (missing.code, missing.param) == ("missing_required_parameter", "session.x.name")
    assert (wrong.code, wrong.param) == ("invalid_type", "session.x.name")
    assert refused(check, {"nom": 1}, "").param == "nom"  # at the top a field stands alone


def test_the_key_decides_which_check_an_object_passes() -> None:
    check = checks.by_key("type", {"a": checks.struct({"type": checks.string}), "b": checks.any_object})
    check({"type": "b", "more": 1}, "x")

    assert refused(check, {"type": "a", "more": 1}).param == "session.x.more"
    assert refused(check, {}).code == "missing_required_parameter"
    assert refused(check, {"type": "c"}).param == "session.x.type"
    assert refused(check, {"type": ["a"]}).code == "invalid_value"


def test_modalities_go_by_their_combination_in_any_order() -> None:
    check = checks.modalities(("text",), ("text", "audio"))
    check(["audio", "text"], "x")

    assert "Supported combinations are: ['text'] and ['text', 'audio']" in str(refused(check, ["audio"]))
    assert refused(check, ["video"]).param == "session.x[0]"
    assert refused(check, ["text", "text"]).code == "invalid_value"


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "é", "a\n"])
def test_a_function_has_a_plain_name(name: str) -> None:
    checks.function_name("book_table-2", "x")
    assert refused(checks.function_name, name).code == "invalid_value"


def test_metadata_is_small() -> None:
    checks.metadata({str(number): "x" * 512 for number in range(16)}, "x")

    assert refused(checks.metadata, {str(number): "" for number in range(17)}).param == "session.x"
    assert refused(checks.metadata, {"k": "x" * 513}).param == "session.x.k"
    assert len(refused(checks.metadata, {"k" * 1000: ""}).param or "") < 100
