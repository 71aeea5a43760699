"""Checks of WEBHOOK_URL and WEBHOOK_SECRET."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from phoneagent.errors.values import is_address

SECRET_BYTES = range(24, 65)
"""The allowed length of a Standard Webhooks secret, in bytes."""

MAKE_SECRET = 'echo "whsec_$(openssl rand -base64 32)"'  # noqa: S105 - it makes one
_PREFIX = "whsec_"


def check_url(value: str, *, allow_private: bool) -> None:
    """Check the receiver's URL.

    Raises:
        ValueError: the URL is not allowed; the message does not show it.
    """
    if not is_address(value, "http", "https"):
        raise ValueError("it must begin with https:// and name a host")
    parts = urlsplit(value)
    if parts.scheme == "http" and not allow_private:
        raise ValueError("it must begin with https://; http:// is for a private network, with WEBHOOK_ALLOW_PRIVATE=1")
    if "@" in parts.netloc:
        raise ValueError("it may have no user or password: the signature shows where a webhook comes from")
    if parts.fragment:
        raise ValueError("it may have no fragment (#)")


def split_secrets(value: str) -> tuple[str, ...]:
    """Return the secrets in a comma-separated list.

    Raises:
        ValueError: one of them is not a Standard Webhooks secret.
    """
    found = tuple(each.strip() for each in value.split(","))
    for secret in found:
        try:
            size = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
        except ValueError:
            size = 0
        if not secret.startswith(_PREFIX) or size not in SECRET_BYTES:
            raise ValueError(f"it must be whsec_ and 24 to 64 bytes in base64: make one with {MAKE_SECRET}")
    return found
