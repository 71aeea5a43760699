from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.protocol.dialing import NUMBER, canonical, refusal, region


@pytest.mark.parametrize(
    "number", ["+15550100001", "+442079460000", "+18005551234", "+493012345678", "sip:desk@pbx.example", "client:anna"]
)
def test_a_number_that_may_be_called(number: str) -> None:
    assert refusal(number) is None


@pytest.mark.parametrize("number", ["911", "112", "999", "110", "+911", "+112", "+1911", "+44999", "+49110"])
def test_an_emergency_number(number: str) -> None:
    assert "emergency" in str(refusal(number))


@pytest.mark.parametrize("number", ["+19005551234", "+499001234567", "+33899123456", "+97912345678"])
def test_a_premium_number(number: str) -> None:
    assert "premium" in str(refusal(number))


@pytest.mark.parametrize("number", ["+2101234567", "+9991234567"])
def test_a_country_code_that_is_none(number: str) -> None:
    assert "not a phone number" in str(refusal(number))


@pytest.mark.parametrize("number", ["+881612345678", "+88216123456", "+870773123456"])
def test_a_number_of_no_country(number: str) -> None:
    assert "expensive" in str(refusal(number))


@pytest.mark.parametrize(
    "number",
    [
        "",
        "anna",
        "5550100001",
        "+0123456789",
        "+1555010",
        "+1555010000100",
        "+1 555 010 0001",
        "+١٥٥٥٠١٠٠٠٠١",
        "+15550100001;ext=9",
        "+15550100001\n",
        "sip:desk",
        "sip:a b@c",
        "sip:x@y\n",
        "client:",
        "tel:+15550100001",
        "+1555010000" + "1" * 400,
        None,
        15550100001,
    ],
)
def test_no_number(number: object) -> None:
    assert "E.164" in str(refusal(number))  # type: ignore[arg-type]


@given(st.text(alphabet="+0123456789", max_size=18))
def test_only_numbers_in_e164_may_be_called_and_no_refusal_repeats_one(number: str) -> None:
    why = refusal(number)
    assert why is None or len(number) < 4 or number not in why.replace("+15550100001", "")
    assert why is not None or NUMBER.fullmatch(number)


@pytest.mark.parametrize(
    ("number", "country"), [("+442079460000", "GB"), ("+15550100001", "US"), ("+881612345678", None), ("x", None)]
)
def test_the_country_of_a_number(number: str, country: str | None) -> None:
    assert region(number) == country


@pytest.mark.parametrize(
    ("number", "found"),
    [("+4402079460000", "+442079460000"), ("+15550100001", "+15550100001"), ("sip:anna@host", "sip:anna@host")],
)
def test_a_number_has_one_spelling(number: str, found: str) -> None:
    assert canonical(number) == found
