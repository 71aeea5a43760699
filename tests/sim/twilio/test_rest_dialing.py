from __future__ import annotations

import pytest

from phoneagent.sim.twilio.rest_dialing import country_permissions, verified_caller_ids
from phoneagent.sim.twilio.rest_forms import Refused


def test_a_country_is_permitted_by_its_prefix() -> None:
    assert country_permissions("US", ["+1"])["low_risk_numbers_enabled"]
    assert country_permissions("US", ["+"])["low_risk_numbers_enabled"]
    assert not country_permissions("GB", ["+1"])["low_risk_numbers_enabled"]


@pytest.mark.parametrize("country", ["", "us", "XX", "USA", "../x"])
def test_no_country(country: str) -> None:
    with pytest.raises(Refused):
        country_permissions(country, ["+"])


def test_caller_ids_are_listed_by_their_very_number() -> None:
    numbers = ["+15550100001", "+15550100002"]
    assert [each["phone_number"] for each in verified_caller_ids(numbers, "", "AC1")] == numbers
    assert [each["phone_number"] for each in verified_caller_ids(numbers, numbers[1], "AC1")] == numbers[1:]
    assert verified_caller_ids(numbers, "+1555", "AC1") == []
