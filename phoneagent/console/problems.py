"""Errors of the control API as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse


class Problem(JSONResponse):
    """A response that says what is wrong with a request. `detail` is one line with the remedy."""

    media_type = "application/problem+json"

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.detail = detail
        title = HTTPStatus(status).phrase
        content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        super().__init__(content, status, {"Cache-Control": "no-store", **(headers or {})})


class BadRequest(Exception):
    """A part of the request cannot be used; the message is the problem's detail."""

    status = 400


class Conflict(BadRequest):
    """The request cannot be carried out in the current state."""

    status = 409


class Refused(BadRequest):
    """The request is never carried out."""

    status = 422
