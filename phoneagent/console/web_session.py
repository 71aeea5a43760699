"""Web calls over HTTP: `POST /console/session` makes a key for a page, `/console/session/{id}/call` takes its call.

Both need the same access as the control API.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from phoneagent.calls.web_calls import SECRET_SECONDS, WebSession
from phoneagent.console.gate import Gate
from phoneagent.console.problems import BadRequest, Problem
from phoneagent.errors import EndpointError, EndpointRefused, PhoneAgentError, RequestRefused
from phoneagent.model.web_calls import CALL_ID

log = logging.getLogger("phoneagent.console.web_session")

MAX_BODY_BYTES = 16 * 1024
MAX_PARAMETERS = 32
MAX_PARAMETER_CHARS = 500


class WebCallMaker(Protocol):
    """The maker of web calls, `WebCalls`."""

    async def create(self, parameters: dict[str, str]) -> WebSession: ...
    async def connect(self, session_id: str, call_id: str) -> None: ...


class WebSessions:
    """The answers to a page, or to the server behind it. `calls` is made on the first request."""

    def __init__(self, calls: Callable[[], WebCallMaker]) -> None:
        self._calls = calls

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes, which check access first."""
        answers = {"/console/session": self.create, "/console/session/{id}/call": self.connect}
        return [gate.route(path, {"POST": answer}) for path, answer in answers.items()]

    async def create(self, request: Request) -> Response:
        """Answer `POST /console/session`: 201 with the key, where to use it, and the URL that takes the call."""
        parameters = _parameters(await _body(request))
        try:
            made = await self._calls().create(parameters)
        except RequestRefused as error:
            return Problem(429, str(error), {"Retry-After": "10"})
        except EndpointError as error:
            return _unavailable(error)
        except TimeoutError:
            return Problem(503, "the agent's own functions took too long: try again later", {"Retry-After": "10"})
        except Exception as error:  # a user's function
            log.exception("a web call has no agent")
            return Problem(500, f"the app's code gives no agent for a web call: {type(error).__name__}; see the log")
        answer = {
            "id": made.id,
            "value": made.secret.value,
            "expires_at": made.secret.expires_at,
            "calls_url": made.secret.calls_url,
        }
        return JSONResponse(answer, 201, {"Cache-Control": "no-store"})

    async def connect(self, request: Request) -> Response:
        """Answer `POST /console/session/{id}/call`: 204 once the agent's tools are available to the call."""
        call_id = (await _body(request)).get("call_id")
        if not isinstance(call_id, str) or not CALL_ID.fullmatch(call_id):
            raise BadRequest('the body has no call_id: send {"call_id": "rtc_…"}, the end of the Location header')
        try:
            await self._calls().connect(request.path_params["id"], call_id)
        except RequestRefused as error:
            return Problem(404, f"{error} (a key lives for {SECRET_SECONDS} s)")
        except EndpointError as error:
            return _unavailable(error)
        return Response(status_code=204, headers={"Cache-Control": "no-store"})


def _unavailable(error: PhoneAgentError) -> Problem:
    log.warning("a web call was not connected: %s", error)
    refused = isinstance(error, EndpointRefused)
    return Problem(502 if refused else 503, f"the model's server did not take the web call: {error}")


async def _body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request; {} if it has no body."""
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise BadRequest(f"the body has more than {MAX_BODY_BYTES} bytes")
    if not content:
        return {}
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("the body is not JSON: send Content-Type: application/json")
    try:
        body: Any = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    return body


def _parameters(body: dict[str, Any]) -> dict[str, str]:
    given = body.get("parameters", {})
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise BadRequest("parameters must be an object whose values are texts")
    if len(given) > MAX_PARAMETERS or any(len(name) + len(text) > MAX_PARAMETER_CHARS for name, text in given.items()):
        raise BadRequest(f"there are at most {MAX_PARAMETERS} parameters, each of {MAX_PARAMETER_CHARS} characters")
    return given
