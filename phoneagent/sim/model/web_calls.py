"""`/v1/realtime/calls` of the simulated Realtime server: answers to offers, and hang-ups of calls.

POST /v1/realtime/calls              an SDP offer and an ephemeral key, or a form of `sdp` and `session` and the key
POST /v1/realtime/calls/{id}/hangup
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from email.parser import BytesParser
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, parse_qs

from websockets.datastructures import Headers
from websockets.http11 import Response

from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.client_secrets import ClientSecret
from phoneagent.sim.model.config import Json, check_session, default_session, given, updated_session
from phoneagent.sim.model.http import HttpConnection, answer
from phoneagent.sim.model.mcp import named_servers

if TYPE_CHECKING:
    from phoneagent.sim.model.session import SimulatedSession
    from phoneagent.sim.model.webrtc import WebRtcCall

MAX_CALLS = 50
"""How many calls may be live at a time."""

_FOR_PAGES = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "authorization, content-type",
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Expose-Headers": "Location",
}


class Refuse(Protocol):
    """Refuses a request, and records the refusal."""

    def __call__(self, status: int, code: str | None, message: str, *, param: str | None = None) -> Response: ...


class WebRtcCalls:
    """The calls of a server. `make_session` makes the session of a call; `refuse` refuses a request."""

    def __init__(
        self,
        make_session: Callable[[WebRtcCall, str | None, Json], SimulatedSession],
        refuse: Refuse,
        *,
        default_model: str,
    ) -> None:
        self._make_session = make_session
        self._refuse_plainly = refuse
        self._default_model = default_model
        self._calls: dict[str, WebRtcCall] = {}
        self._serving: set[asyncio.Task[None]] = set()

    def named(self, url: SplitResult) -> WebRtcCall | None:
        """Return the call that a side-band socket's URL names, if there is one."""
        return self._calls.get(parse_qs(url.query).get("call_id", [""])[0])

    def answer(
        self, connection: HttpConnection, below: str, url: SplitResult, headers: Headers, secret: ClientSecret | None
    ) -> Response | Awaitable[Response]:
        """Answer a request at or below `calls`."""
        if connection.method != "POST":
            return self._refuse(405, "method_not_allowed", f"{connection.method} is not allowed here; send a POST.")
        if connection.unreadable is not None:
            return self._refuse(400, "invalid_body", connection.unreadable)
        parts = below.split("/")
        if len(parts) == 1:
            return self._begin(connection.body, url, headers, secret)
        if parts[2:] in (["accept"], ["reject"], ["refer"]):
            return self._refuse(400, "not_supported", f"/{parts[2]} is for SIP calls, and there are none here.")
        call = self._calls.get(parts[1])
        if parts[2:] != ["hangup"] or call is None:
            return self._refuse(404, "call_not_found", f"There is nothing to {'/'.join(parts[2:])[:40]} here.")
        return self._hang_up(call)

    async def close(self) -> None:
        """End all calls."""
        for call in list(self._calls.values()):
            await call.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _hang_up(self, call: WebRtcCall) -> Response:
        await call.close()
        return answer(200, {})

    async def _begin(self, body: bytes, url: SplitResult, headers: Headers, secret: ClientSecret | None) -> Response:
        try:
            from phoneagent.sim.model.webrtc import WebRtcCall
        except ImportError:
            return self._refuse(400, "not_supported", "No WebRTC here: install the extra `web`.")
        if url.query:
            return self._refuse(400, "unknown_parameter", "Unknown query: the session names the model.", param="model")
        if len(self._calls) >= MAX_CALLS:
            return self._refuse(429, "rate_limit_exceeded", f"There are {MAX_CALLS} calls already.")
        try:
            sdp, model, session = self._read(body, headers, secret)
            call = WebRtcCall()
            answered = await call.answer(sdp)
        except EventRefused as error:
            return self._refuse(400, error.code, str(error), param=error.param)
        self._calls[call.id] = call
        call.session = self._make_session(call, model, session)
        task = asyncio.create_task(self._serve(call, call.session))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return web_answer(201, answered.encode(), {"Location": f"/v1/realtime/calls/{call.id}"})

    async def _serve(self, call: WebRtcCall, session: SimulatedSession) -> None:
        try:
            await session.serve()
        finally:
            self._calls.pop(call.id, None)
            await call.close()

    def _read(self, body: bytes, headers: Headers, secret: ClientSecret | None) -> tuple[str, str | None, Json]:
        """Return the offer of a request, its model, and its session settings."""
        kind = headers.get("Content-Type", "")
        if kind.startswith("application/sdp"):
            if secret is None:
                message = "An offer alone needs an ephemeral key; with an API key send a form of `sdp` and `session`."
                raise EventRefused(message, code="missing_required_parameter", param="session")
            return body.decode("utf-8", "replace"), secret.model, secret.configuration
        if not kind.startswith("multipart/form-data"):
            message = "Unsupported content type: send application/sdp, or multipart/form-data."
            raise EventRefused(message, code="unsupported_content_type")
        form = _fields(kind, body)
        try:
            session: Any = json.loads(form.get("session", "{}"))
        except (ValueError, RecursionError) as error:
            raise EventRefused("The session is not JSON.", code="invalid_json", param="session") from error
        check_session(session)
        session = given(session)
        model = session.pop("model", None)
        updated_session(default_session(model or self._default_model, "", 0), session, spoke=False)
        named_servers(session.get("tools", []), {})
        return form.get("sdp", ""), model, session

    def _refuse(self, status: int, code: str | None, message: str, *, param: str | None = None) -> Response:
        """Refuse a request so that a page on another site can read why."""
        refusal = self._refuse_plainly(status, code, message, param=param)
        for name, value in _FOR_PAGES.items():
            refusal.headers[name] = value
        return refusal


def web_answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return an answer that pages on other sites can read; a body is SDP."""
    own = {"Content-Type": "application/sdp"} if body else {}
    all_headers = Headers({**_FOR_PAGES, **own, **(headers or {}), "Content-Length": str(len(body))})
    all_headers["Connection"] = "close"
    return Response(status, HTTPStatus(status).phrase, all_headers, body)


def _fields(kind: str, body: bytes) -> dict[str, str]:
    message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    fields = {}
    for part in message.get_payload() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        content = part.get_payload(decode=True)  # type: ignore[union-attr]
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content.decode("utf-8", "replace")
    return fields
