"""Signing in to the console with the configured token, and signing out."""

from __future__ import annotations

import asyncio
import re
from html import escape
from urllib.parse import parse_qs, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from phoneagent.console.gate import SIGN_IN_PATH, Gate, without_token
from phoneagent.console.problems import BadRequest
from phoneagent.console.sessions import COOKIE, SESSION_SECONDS
from phoneagent.console.shell import page, root_of, template

MAX_BODY_BYTES = 4096
MAX_FIELDS = 10
BODY_SECONDS = 10.0
HOME = "/console"

_INSIDE = re.compile(r"(/console(?:/[A-Za-z0-9_\-./]*)?)(?:\?([!-\"$-~]*))?")
"""The places to continue to after the sign-in: a path, and the visible ASCII characters of a query.

Another site never matches, however it is spelled: only the path could lead to one.
"""


class SignIn:
    """The sign-in page, its answer, and the sign-out. `public_url` tells whether browsers use https."""

    def __init__(self, gate: Gate, public_url: str) -> None:
        self._gate = gate
        self._is_public_https = urlsplit(public_url).scheme == "https"

    def routes(self) -> list[BaseRoute]:
        return [
            self._gate.route(SIGN_IN_PATH, {"GET": self._show, "POST": self._sign_in}, public=True),
            self._gate.route("/console/sign-out", {"POST": self._sign_out}, public=True),
        ]

    async def _show(self, request: Request) -> Response:
        wanted = inside(request.query_params.get("next", ""))
        if self._gate.access.check_page(request):
            return _redirect(request, wanted)
        return _form(request, wanted)

    async def _sign_in(self, request: Request) -> Response:
        try:
            form = parse_qs(await _body(request), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            raise BadRequest(f"the form has more than {MAX_FIELDS} fields: give the token alone") from None
        wanted = inside(form.get("next", [""])[0])
        access = self._gate.access
        if access.sessions is None:  # there is no token, and this machine needs none
            return _redirect(request, wanted)
        refusal = access.try_token(request, form.get("token", [""])[0].strip())
        if refusal is not None:
            return _form(request, wanted, refusal.detail, refusal.status_code, refusal.headers.get("retry-after"))
        response = _redirect(request, wanted)
        response.set_cookie(
            COOKIE,
            access.sessions.issue(),
            max_age=SESSION_SECONDS,
            path=root_of(request) or "/",
            secure=self._is_https(request),
            httponly=True,
            samesite="strict",
        )
        return response

    async def _sign_out(self, request: Request) -> Response:
        if (sessions := self._gate.access.sessions) is not None:
            sessions.end(request.cookies.get(COOKIE))
        response = RedirectResponse(root_of(request) + SIGN_IN_PATH, 303, {"Cache-Control": "no-store"})
        response.delete_cookie(COOKIE, path=root_of(request) or "/", httponly=True, samesite="strict")
        return response

    def _is_https(self, request: Request) -> bool:
        """Tell whether the browser used https, which a proxy hides."""
        if (origin := request.headers.get("origin", "")).startswith("http"):
            return origin.startswith("https:")
        return request.url.scheme == "https" or self._is_public_https


def inside(place: str) -> str:
    """Return a place in the console to continue to; the first page for anything else."""
    found = _INSIDE.fullmatch(place)
    if found is None or "//" in found[1] or ".." in found[1]:
        return HOME
    query = without_token(found[2] or "")
    return f"{found[1]}?{query}" if query else found[1]


def _form(
    request: Request, wanted: str, problem: str = "", status: int = 200, retry_after: str | None = None
) -> Response:
    body = template("signin.html").substitute(
        action=escape(root_of(request) + SIGN_IN_PATH),
        next=escape(wanted),
        problem=f'<p class="problem" id="problem" role="alert">{escape(problem)}</p>' if problem else "",
        described='aria-invalid="true" aria-describedby="problem"' if problem else "",
    )
    response = page(request, "Sign in", body, module="signin.js", status=status)
    if retry_after is not None:
        response.headers["Retry-After"] = retry_after
    return response


def _redirect(request: Request, place: str) -> RedirectResponse:
    return RedirectResponse(root_of(request) + place, 303, {"Cache-Control": "no-store"})


async def _body(request: Request) -> str:
    """Return the body of a form.

    Raises:
        BadRequest: it is too large, or too slow.
    """
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise BadRequest(f"the form has more than {MAX_BODY_BYTES} bytes: give the token alone")
    except (TimeoutError, ClientDisconnect):
        raise BadRequest("the form did not arrive: send it again") from None
    return body.decode("utf-8", "replace")
