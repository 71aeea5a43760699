"""The pages of the console that show calls, and the files that all pages need.

The page of a call has empty sections that other modules fill: `call-actions` and `call-log`. Their `data-call-sid` has
the sid of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from phoneagent.console import files
from phoneagent.console.encoding import NAMES
from phoneagent.console.gate import Gate
from phoneagent.console.shell import page, root_of, template

CALL_MODULES = ("actions.js", "log.js")
"""The modules that fill the sections of a call's page."""

_EVENTS = " ".join([*NAMES.values(), "missed"])


def routes(gate: Gate, is_live: Callable[[str], bool]) -> list[BaseRoute]:
    """Return the routes of the pages. `is_live` tells whether the call with a CallSid is live in this process."""

    async def show_call(request: Request) -> Response:
        return _show_call(request, is_live=is_live(request.path_params["sid"]))

    return [
        gate.route("/console", {"GET": _show_live}, page=True),
        gate.route("/console/", {"GET": _go_home}, page=True),
        gate.route("/console/past", {"GET": _show_past}, page=True),
        gate.route("/console/calls/{sid}", {"GET": show_call}, page=True),
        gate.route(files.PATH + "{name:path}", {"GET": files.send_file}, public=True),
    ]


async def _show_live(request: Request) -> Response:
    body = template("live.html").substitute(base=escape(root_of(request)), events=_EVENTS)
    return page(request, "Live calls", body, module="live.js", styles=("calls.css",))


async def _go_home(request: Request) -> Response:
    return RedirectResponse(root_of(request) + "/console", 308)


async def _show_past(request: Request) -> Response:
    body = template("past.html").substitute()
    return page(request, "Past calls", body, module="past.js", styles=("vendor/uplot.css", "calls.css"))


def _show_call(request: Request, *, is_live: bool) -> Response:
    folder = escape(root_of(request)) + files.PATH + files.version()
    modules = [f'<script type="module" src="{folder}/{each}"></script>' for each in CALL_MODULES]
    body = template("call.html").substitute(
        sid=escape(request.path_params["sid"]),
        live="true" if is_live else "false",  # space is reserved for the buttons, so that nothing moves
        events=_EVENTS,
        modules="".join(modules),
    )
    return page(request, "Call", body, module="call.js", styles=("calls.css", "call.css", "actions.css"))
