"""Numbers that are never called: emergency, premium-rate and satellite numbers, and what is not a number.

A wrong or injected number costs money, or a dispatcher's time. `refusal` is the one rule for everything that calls out,
and its message never repeats the number.
"""

from __future__ import annotations

import re

NUMBER = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
"""A phone number in E.164."""

MAX_ADDRESS_CHARS = 256

_ADDRESS = re.compile(r"(?:sips?:[^\s@<>\"]+@[^\s@<>\"]+|client:[^\s<>\"]+)", re.ASCII)
_EMERGENCY = "it is an emergency number: an agent must not call one"

_WORLDWIDE = {
    870: "a satellite phone",
    878: "a personal number",
    881: "a satellite phone",
    882: "an international network",
    883: "an international network",
    979: "a premium-rate number",
}
"""Codes that belong to no country. A minute costs many dollars, so fraud uses them."""


def refusal(number: str) -> str | None:
    """Return why `number` must not be called, or None if it may be.

    A number is written in E.164. The addresses `sip:user@host` and `client:name` may be called too.
    """
    if not isinstance(number, str) or len(number) > MAX_ADDRESS_CHARS:
        return "it is not a phone number: write it in E.164, like +15550100001"
    if _ADDRESS.fullmatch(number):
        return None
    import phonenumbers as pn  # its tables are large, and most processes call no number
    from phonenumbers import shortnumberinfo as short

    digits = number.removeprefix("+")
    if digits.isascii() and digits.isdecimal() and len(digits) <= 6 and _is_emergency_somewhere(digits):
        return _EMERGENCY
    try:
        parsed = pn.parse(number) if re.fullmatch(r"\+[1-9][0-9]{2,14}", number, re.ASCII) else None
    except pn.NumberParseException:
        parsed = None
    if parsed is None:
        return "it is not a phone number: write it in E.164, like +15550100001"
    national, country = pn.national_significant_number(parsed), parsed.country_code or 0
    regions = pn.region_codes_for_country_code(country)
    if len(national) <= 6 and any(short.is_emergency_number(national, region) for region in regions):
        return _EMERGENCY
    if kind := _WORLDWIDE.get(country):
        return f"it is {kind}, whose minutes are expensive"
    if not NUMBER.fullmatch(number) or not pn.is_possible_number(parsed):
        return "it has too few or too many digits for its country: write it in E.164, like +15550100001"
    if pn.number_type(parsed) == pn.PhoneNumberType.PREMIUM_RATE:
        return "it is a premium-rate number"
    return None


def canonical(number: str) -> str:
    """Return a number in E.164 without what is only dialed within its country: +44 0 20… is +44 20….

    Another address is returned as it is.
    """
    import phonenumbers as pn

    try:
        return str(pn.format_number(pn.parse(number), pn.PhoneNumberFormat.E164))
    except pn.NumberParseException:
        return number


def region(number: str) -> str | None:
    """Return the ISO 3166 country code of a number in E.164, like "US"; None if it has none."""
    import phonenumbers as pn

    try:
        parsed = pn.parse(number)
    except pn.NumberParseException:
        return None
    found = pn.region_code_for_number(parsed) or pn.region_code_for_country_code(parsed.country_code or 0)
    return found if len(found) == 2 and found != "ZZ" else None


def _is_emergency_somewhere(digits: str) -> bool:
    from phonenumbers import shortnumberinfo as short

    return any(short.is_emergency_number(digits, country) for country in short.SUPPORTED_SHORT_REGIONS)
