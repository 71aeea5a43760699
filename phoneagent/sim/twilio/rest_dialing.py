"""The parts of the simulated REST API that say which numbers an account may call, and from which caller IDs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from phoneagent.sim.twilio.rest_forms import Refused

COUNTRIES = "/v1/DialingPermissions/Countries/"
"""A resource of voice.twilio.com, which the simulated API serves too."""

_CODES = {"US": "1", "CA": "1", "GB": "44", "DE": "49", "FR": "33", "ES": "34", "IT": "39", "AU": "61", "JP": "81"}


def country_permissions(country: str, permitted: Sequence[str]) -> dict[str, Any]:
    """Return the geo permissions of a country (ISO 3166), given that calls to the prefixes `permitted` are allowed.

    Raises:
        Refused: there is no such country, or it is not simulated.
    """
    if not re.fullmatch("[A-Z]{2}", country) or country not in _CODES:
        raise Refused(404, 20404)
    code = "+" + _CODES[country]
    return {
        "iso_code": country,
        "name": country,
        "continent": "",
        "country_codes": [code],
        "low_risk_numbers_enabled": code.startswith(tuple(permitted)),
        "high_risk_special_numbers_enabled": False,
        "high_risk_tollfraud_numbers_enabled": False,
        "url": f"https://voice.twilio.com{COUNTRIES}{country}",
        "links": {},
    }


def verified_caller_ids(numbers: Sequence[str], wanted: str, account_sid: str) -> list[dict[str, Any]]:
    """Return all verified caller IDs, or one of them, as the API lists them."""
    return [
        {
            "sid": f"PN{index:032x}",
            "account_sid": account_sid,
            "phone_number": number,
            "friendly_name": number,
            "date_created": None,
            "date_updated": None,
            "uri": "",
        }
        for index, number in enumerate(numbers, 1)
        if wanted in ("", number)
    ]
