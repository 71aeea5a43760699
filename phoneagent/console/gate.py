"""The gate of the console: each path is checked for access before it answers.

Every page and action is a route made here, so none can forget the check:

    gate.route("/console/phone", {"GET": show}, page=True)
    gate.route("/calls/{sid}/say", {"POST": say})
    gate.socket("/console/media/{token}", run)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.parse import unquote_plus, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from phoneagent.console.access import Access, Hidden
from phoneagent.console.problems import BadRequest, Problem
from phoneagent.errors import StoreError

SIGN_IN_PATH = "/console/sign-in"

Answer: TypeAlias = Callable[[Request], Awaitable[Response]]


class Gate:
    """The maker of routes that allow only what `access` allows.

    `not_found` answers a client that must not learn anything.
    """

    def __init__(self, access: Access, not_found: ASGIApp) -> None:
        self.access = access
        self._not_found = not_found

    def route(self, path: str, answers: Mapping[str, Answer], *, page: bool = False, public: bool = False) -> Route:
        """Return a route with an answer for each method.

        With `page`, a browser that is not signed in is sent to the sign-in page. With `public`, the path is open to all
        clients that may know that the console exists: the sign-in page and its files.
        """

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            response = await self._respond(request, answers, page=page, public=public)
            await response(scope, receive, send)

        return Route(path, _Endpoint(respond))

    def socket(self, path: str, run: Callable[[WebSocket], Awaitable[None]]) -> WebSocketRoute:
        """Return a WebSocket route. A refused socket is closed before it is accepted: HTTP 403."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            websocket = WebSocket(scope, receive, send)
            try:
                refused = self.access.check(websocket) is not None
            except Hidden:
                refused = True
            await (websocket.close() if refused else run(websocket))

        return WebSocketRoute(path, _Endpoint(serve))

    async def _respond(self, request: Request, answers: Mapping[str, Answer], *, page: bool, public: bool) -> ASGIApp:
        try:
            refusal = self.access.check_public(request) if public else self.access.check(request)
            if refusal is not None:
                can_sign_in = page and request.method == "GET" and refusal.status_code in (401, 429)
                return _to_sign_in(request) if can_sign_in else refusal
            answer = answers.get(request.method)
            if answer is None:
                methods = ", ".join(answers)
                verb = "is" if len(answers) == 1 else "are"
                return Problem(405, f"only {methods.replace(', ', ' and ')} {verb} possible here", {"Allow": methods})
            return await answer(request)
        except Hidden:
            return self._not_found
        except BadRequest as error:
            return Problem(error.status, str(error))
        except StoreError as error:
            return Problem(503, f"the records cannot be read now: {error}", {"Retry-After": "5"})


class _Endpoint:
    """An ASGI app as the endpoint of a route, for any method: a refused client does not learn which methods exist."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def without_token(query: str) -> str:
    """Return a query without a `token`: some put the secret into a link, and it must not get into more URLs."""
    return "&".join(each for each in query.split("&") if unquote_plus(each.partition("=")[0]).lower() != "token")


def _to_sign_in(request: Request) -> Response:
    """Return a redirect to the sign-in page, which sends the browser back here."""
    root: str = request.scope.get("root_path", "")
    wanted = request.scope["path"].removeprefix(root)
    query = without_token(request.url.query)
    place = f"{root}{SIGN_IN_PATH}?{urlencode({'next': f'{wanted}?{query}' if query else wanted})}"
    return RedirectResponse(place, 303, {"Cache-Control": "no-store"})
