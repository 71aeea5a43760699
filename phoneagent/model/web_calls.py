"""WebRTC calls at a Realtime server: a key for the page that makes one, and the socket to its session (side-band).

Source: OpenAI's Realtime API reference, "client secrets" and "calls".
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from phoneagent.agent.call import Call
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable, network, shown
from phoneagent.model.connection import ModelSession, join_session, masked, request_headers, secrets_of
from phoneagent.model.endpoint import Endpoint
from phoneagent.protocol.negotiation import Negotiation
from phoneagent.protocol.providers import at
from phoneagent.protocol.realtime import Dialect, Error, Failure, SessionUpdate

log = logging.getLogger("phoneagent.model.web_calls")

REQUEST_SECONDS = 8.0
MAX_ANSWER_BYTES = 1024 * 1024

CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

_HTTP = {"wss": "https", "ws": "http"}


class _Failure(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    param: str | None = None


class _Answer(msgspec.Struct):
    """A key, or an error instead."""

    value: str = ""
    expires_at: int = 0
    error: _Failure = msgspec.field(default_factory=_Failure)


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A key with which a page opens sessions until `expires_at`, in Unix seconds; `calls_url` is where.

    `recognizer` is the one that the server took, None without transcription.
    """

    value: str = field(repr=False)
    expires_at: int
    calls_url: str
    recognizer: str | None = None


async def create_client_secret(
    endpoint: Endpoint, session: Mapping[str, Any], call: Call, *, seconds: int
) -> ClientSecret:
    """Have the server make a key whose sessions are configured like `session`, which is in GA's shape.

    What the server refuses is dropped, or replaced, as in a phone call's session.

    Raises:
        EndpointError: the server makes no such key.
    """
    if endpoint.dialect is Dialect.BETA:
        raise EndpointRefused(f"{endpoint.host} speaks the beta, which makes no keys for pages: use a GA endpoint")
    negotiation = Negotiation(
        _without_formats(session), transcription_models=endpoint.transcription_models, dialect=Dialect.GA
    )
    negotiation.start(0.0)
    update = negotiation.handle_timer(math.inf)  # nothing announces a session here
    while update is not None:
        wanted = update.session
        body = {
            "expires_after": {"anchor": "created_at", "seconds": seconds},
            "session": {**wanted, **_model_of(endpoint)},
        }
        status, answer = await _post(endpoint, "client_secrets", call, body)
        if status < 300 and answer.value:
            if negotiation.dropped:
                lacks = masked("; ".join(negotiation.dropped), secrets_of(endpoint, endpoint.headers))
                log.warning("the web session runs without %s", lacks)
            recognizer = at(wanted, ("audio", "input", "transcription", "model"))
            return ClientSecret(answer.value, answer.expires_at, _url(endpoint, "calls"), recognizer)
        update = _without_refused(negotiation, answer.error) if status == 400 else None
    words = f"{endpoint.host} made no client secret: HTTP {status} {shown(answer.error.code or '', 100)}".rstrip()
    remedy = endpoint.remedies.get(answer.error.code or "") or endpoint.remedies.get(str(status))
    kind = EndpointRefused if 400 <= status < 500 and status != 429 else EndpointUnreachable
    raise kind(f"{words}: {remedy}" if remedy else words, code=answer.error.code or str(status))


async def join_call(endpoint: Endpoint, call_id: str, call: Call) -> ModelSession:
    """Open the socket to the session of a call that a page has made.

    Raises:
        EndpointError: there is no such call, or no connection.
    """
    parts = urlsplit(endpoint.url)
    address = urlunsplit(parts._replace(query=urlencode({"call_id": call_id})))
    return await join_session(replace(endpoint, url=address), call)


async def hang_up_call(endpoint: Endpoint, call_id: str, call: Call) -> None:
    """End a call; do nothing if it is over.

    Raises:
        EndpointError: the server cannot be asked.
    """
    await _post(endpoint, f"calls/{quote(call_id, safe='')}/hangup", call, {})


def _without_formats(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session for WebRTC, which negotiates the audio format itself."""
    audio = {way: {k: v for k, v in side.items() if k != "format"} for way, side in session["audio"].items()}
    return {**session, "audio": audio}


def _model_of(endpoint: Endpoint) -> dict[str, str]:
    query = dict(parse_qsl(urlsplit(endpoint.url).query))
    model = query.get("model") or query.get("deployment")
    return {} if model is None else {"model": model}


def _without_refused(negotiation: Negotiation, failure: _Failure) -> SessionUpdate | None:
    """Return the session without what was refused; None if the refusal is of something else, or of what is vital."""
    try:
        return negotiation.receive(Error(Failure(None, failure.code, failure.message, failure.param)), 0.0)
    except EndpointError:
        return None


def _url(endpoint: Endpoint, below: str) -> str:
    parts = urlsplit(endpoint.url)
    return urlunsplit((_HTTP[parts.scheme], parts.netloc, f"{parts.path.rstrip('/')}/{below}", "", ""))


async def _post(endpoint: Endpoint, below: str, call: Call, body: Mapping[str, Any]) -> tuple[int, _Answer]:
    import aiohttp  # 7 MB, and most apps have no calls by WebRTC

    url = _url(endpoint, below)
    try:
        async with (
            asyncio.timeout(REQUEST_SECONDS),
            aiohttp.ClientSession() as http,
            http.post(
                url,
                data=msgspec.json.encode(body),
                headers={**await request_headers(endpoint, call), "Content-Type": "application/json"},
                allow_redirects=False,  # another server would receive the key
            ) as response,
        ):
            content = bytearray()
            async for piece in response.content.iter_chunked(MAX_ANSWER_BYTES):
                content += piece
                if len(content) > MAX_ANSWER_BYTES:
                    break
            return response.status, _read(content)
    except TimeoutError:
        words = f"no answer from {endpoint.host} within {REQUEST_SECONDS:g} s"
        raise EndpointUnreachable(words, code="timeout") from None
    except EndpointError:
        raise
    except (OSError, aiohttp.ClientError, ValueError) as error:
        fault = network.explain(error, url, network.DIRECT)
        raise EndpointUnreachable(f"no connection to {endpoint.host}: {fault}", code="network") from None


def _read(content: bytearray) -> _Answer:
    try:
        return msgspec.json.decode(content, type=_Answer)
    except msgspec.MsgspecError:
        return _Answer()
