"""The body of a request: JSON of a bounded size, read into the type that an operation takes."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from phoneagent.console.problems import BadRequest

MAX_BODY_BYTES = 64 * 1024
"""The largest body that is read, unless an operation takes more."""

BODY_SECONDS = 10.0
"""How long a body may take to arrive."""

JSON = "application/json"

_T = TypeVar("_T")


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that is an object. Its repr omits the values, which may be phone numbers, digits or a recording."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class TooLarge(BadRequest):
    """The body is larger than any sensible one."""

    status = 413


class WrongType(BadRequest):
    """The body has another media type. A page of another site can send such a request without a CORS preflight."""

    status = 415


async def read_body(request: Request, kind: type[_T], *, max_bytes: int = MAX_BODY_BYTES) -> tuple[_T, bytes]:
    """Return the body of a request as an object of that type, and its bytes.

    Raises:
        BadRequest: it is not JSON, too large, too slow, or does not fit the type.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise WrongType(f"send a JSON body with the header Content-Type: {JSON}")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise TooLarge(f"the body is larger than {max_bytes // 1024} KiB: send less at once")
    except (TimeoutError, ClientDisconnect):
        raise BadRequest(f"the body did not arrive within {BODY_SECONDS:g} s: send it again") from None
    return decode(bytes(body), kind), bytes(body)


def decode(body: bytes, kind: type[_T]) -> _T:
    """Return a body as an object of that type.

    Raises:
        BadRequest: it is not JSON, or does not fit the type.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the body does not fit: {error}; GET /openapi.json describes it") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("the body is not JSON: send an object with the fields of GET /openapi.json") from None
