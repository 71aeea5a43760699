"""The HTTP side of the simulated REST API: credentials, pages of a list, errors, and field names."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from phoneagent.sim.twilio.rest_forms import BAD_VALUE, Refused

MAX_PAGE_SIZE = 1000


def page_of(key: str, found: list[dict[str, Any]], path: str, params: Mapping[str, str]) -> dict[str, Any]:
    """Return one page of a list.

    Raises:
        Refused: the page is not a number, or too large.
    """
    try:
        size, page = int(params.get("PageSize", 50)), int(params.get("Page", 0))
    except ValueError:
        raise Refused(400, BAD_VALUE, "PageSize and Page must be numbers") from None
    if not 1 <= size <= MAX_PAGE_SIZE or page < 0:
        raise Refused(400, BAD_VALUE, f"PageSize must be between 1 and {MAX_PAGE_SIZE}")
    following = f"{path}?{urlencode({**params, 'PageSize': size, 'Page': page + 1})}"
    return {
        key: found[page * size : (page + 1) * size],
        "page": page,
        "page_size": size,
        "uri": path,
        "next_page_uri": following if len(found) > (page + 1) * size else None,
        "previous_page_uri": None,
    }


def error_body(status: int, code: int, message: str) -> dict[str, Any]:
    """Return the body of the answer to a refused request."""
    more = f"https://www.twilio.com/docs/errors/{code}"
    return {"code": code, "message": message, "more_info": more, "status": status}


def basic_credentials(header: str) -> tuple[str, str]:
    """Return the user and password of an Authorization header, empty strings without them."""
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return user, password


def same_credentials(offered: tuple[str, str], expected: tuple[str, str]) -> bool:
    """Compare two users and passwords, each in constant time."""
    return all(hmac.compare_digest(one.encode(), other.encode()) for one, other in zip(offered, expected, strict=True))


def snake_case(name: str) -> str:
    """Return the JSON name of a form field: VoiceUrl is voice_url."""
    return "".join("_" + char.lower() if char.isupper() else char for char in name).removeprefix("_")
