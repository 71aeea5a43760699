"""The bearer token of a request."""

from __future__ import annotations

import hmac

from pydantic import SecretStr
from starlette.requests import HTTPConnection


def has_token(connection: HTTPConnection, token: SecretStr) -> bool:
    """Tell whether a request has the bearer token, in a time that does not depend on the wrong token."""
    given = connection.headers.get("authorization", "").encode()
    return hmac.compare_digest(given, f"Bearer {token.get_secret_value()}".encode())


def is_token(given: str, token: SecretStr) -> bool:
    """Tell whether a text is the token, in a time that does not depend on it."""
    return hmac.compare_digest(given.encode(), token.get_secret_value().encode())
