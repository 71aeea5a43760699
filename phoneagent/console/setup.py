"""The setup page, `/console/setup`: what the doctor finds, the number and its webhook, and trial settings.

`GET /console/setup/checks` runs the checks and returns them. With `after=N` it returns once there are more than N, so
the page shows them one by one. `POST` runs them again. `POST /console/setup/webhook` points the number here, as
`phoneagent dev` does. `PUT /console/setup/trial` changes settings for the next calls from the browser.
"""

from __future__ import annotations

import asyncio
import math
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from phoneagent.agent.agent import Agent, Answerer
from phoneagent.console.body import read_body
from phoneagent.console.checks import Checks, Examine, without_passwords
from phoneagent.console.gate import Gate
from phoneagent.console.operations import full_numbers
from phoneagent.console.problems import BadRequest, Problem
from phoneagent.console.shell import page, template
from phoneagent.console.trial import Trial, Trials, as_python, check, model_of, tool_name, voice_of
from phoneagent.errors import DefinitionError, TelephonyError
from phoneagent.model.endpoint import Endpoint
from phoneagent.protocol.providers import OPENAI_VOICES
from phoneagent.settings import Settings
from phoneagent.telemetry import masked
from phoneagent.twilio import VOICE_PATH
from phoneagent.twilio.browser import is_browser_call
from phoneagent.twilio.pointing import find_free, keeping_fallback, webhook_of
from phoneagent.twilio.rest import PhoneNumber, PhoneNumbers
from phoneagent.twilio.spellings import is_same_page

PATH = "/console/setup"
MAX_BODY_BYTES = 256 * 1024
"""The largest body of a trial: its instructions may be long."""

WAIT_SECONDS = 20.0
"""How long a request waits for the next check, before it returns those there are."""

_NO_DOCTOR = "the checks run under `phoneagent serve` and `phoneagent dev`: here, run `phoneagent doctor` in a terminal"
_NO_NUMBER = "TWILIO_PHONE_NUMBER is not set: set it to your number, and start the app again"
_NO_ACCOUNT = "the app runs without a Twilio account (--insecure), so no number can lead here"

_TUNNELS = {
    "ngrok": (".ngrok.app", ".ngrok.io", ".ngrok.dev", ".ngrok-free.app", ".ngrok-free.dev"),
    "cloudflared": (".trycloudflare.com",),
    "Tailscale": (".ts.net",),
}


class _Point(msgspec.Struct, forbid_unknown_fields=True):
    """The confirmation that a number should be pointed here."""

    confirm: bool


class App(Protocol):
    """What the page needs from an app. `examine` runs the doctor's checks; None if they were not provided."""

    @property
    def settings(self) -> Settings: ...
    @property
    def agent(self) -> Answerer: ...
    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def examine(self) -> Examine | None: ...


class Setup:
    """The server side of an app's setup page."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._settings = app.settings
        self._agent = app.agent if isinstance(app.agent, Agent) else None
        self._twilio = asyncio.Lock()  # however many pages ask, one request goes to Twilio at a time
        self.trials = Trials(lambda call: is_browser_call(call.sid))
        """The trial of this process."""

    @cached_property
    def _checks(self) -> Checks | None:
        examine = self._app.examine
        return None if examine is None else Checks(examine)

    def routes(self, gate: Gate) -> list[BaseRoute]:
        """Return the routes of the page and of its requests."""
        return [
            gate.route(PATH, {"GET": self._show}, page=True),
            gate.route(f"{PATH}/checks", {"GET": self._show_checks, "POST": self._run_checks}),
            gate.route(f"{PATH}/number", {"GET": self._show_number}),
            gate.route(f"{PATH}/webhook", {"POST": self._point_here}),
            gate.route(f"{PATH}/trial", {"GET": self._show_trial, "PUT": self._set_trial, "DELETE": self._drop_trial}),
        ]

    def end(self) -> None:
        """End the running checks: the server stops."""
        if self._checks is not None:
            self._checks.end()

    async def _show(self, request: Request) -> Response:
        body = template("setup.html").substitute()
        return page(request, "Setup", body, module="setup.js", styles=("setup.css",))

    # --- the checks ---

    async def _show_checks(self, request: Request) -> Response:
        if self._checks is None:
            return Problem(404, _NO_DOCTOR)
        after = request.query_params.get("after")
        if after is not None and not (after.isascii() and after.isdigit() and len(after) < 4):
            raise BadRequest("after must be a number from 0 to 999: the number of checks that you have")
        if not self._checks.begun:
            self._checks.begin()
        try:
            async with asyncio.timeout(None if after is None else WAIT_SECONDS):
                await self._checks.wait(None if after is None else int(after))
        except TimeoutError:
            pass  # return the checks so far
        return _json(self._checks.report(full=full_numbers(request)))

    async def _run_checks(self, request: Request) -> Response:
        if self._checks is None:
            return Problem(404, _NO_DOCTOR)
        if (wait_seconds := self._checks.begin()) > 0:
            seconds = math.ceil(wait_seconds)
            return Problem(429, f"the checks ran a moment ago: try again in {seconds} s", {"Retry-After": str(seconds)})
        return _json(self._checks.report(full=full_numbers(request)), 202)

    # --- the number ---

    @property
    def _numbers(self) -> PhoneNumbers:
        settings = self._settings
        return PhoneNumbers(settings.twilio_account_sid, settings.auth_tokens[0], api_url=settings.twilio_api_url)

    @property
    def _has_account(self) -> bool:
        return not self._settings.insecure or self._settings.twilio_api_url is not None

    async def _show_number(self, request: Request) -> Response:
        settings, number = self._settings, self._settings.twilio_phone_number
        found, problem = None, None
        if not self._has_account:
            problem = _NO_ACCOUNT
        elif number is None:
            problem = _NO_NUMBER
        else:
            try:
                async with self._twilio:
                    found = await self._numbers.find(number)
            except TelephonyError as error:
                problem = str(error)
        return _json(
            {
                "number": None if number is None else (number if full_numbers(request) else masked(number)),
                "problem": problem,
                "public_url": settings.public_url,
                "tunnel": tunnel_of(settings.public_url),
                "voice_url": settings.public_url + VOICE_PATH,
                "webhook": None if found is None else self._webhook(found),
            }
        )

    def _webhook(self, found: PhoneNumber) -> dict[str, Any]:
        """Return the webhook of the number, without a possible password."""
        here = self._settings.public_url + VOICE_PATH
        url = found.webhook.voice_url
        return {
            "voice_url": without_passwords(url.partition("#")[0]),
            "points_here": found.overridden_by is None and is_same_page(url.partition("#")[0], here),
            "taken_by": found.overridden_by,
            "has_voice": found.has_voice,
        }

    async def _point_here(self, request: Request) -> Response:
        asked, _ = await read_body(request, _Point)
        if not asked.confirm:
            raise BadRequest('write {"confirm": true}: the number\'s webhook is changed at Twilio')
        number = self._settings.twilio_phone_number
        if not self._has_account:
            return Problem(409, _NO_ACCOUNT)
        if number is None:
            return Problem(409, _NO_NUMBER)
        ours = webhook_of(self._settings.public_url)
        try:
            async with self._twilio:
                found = await find_free(self._numbers, number)
                webhook = keeping_fallback(ours, found.webhook)
                if found.webhook != webhook:
                    await self._numbers.set_webhook(found.sid, webhook)
        except TelephonyError as error:
            return Problem(502, str(error))
        kept = webhook.voice_fallback_url != ours.voice_fallback_url
        told = found.webhook.status_callback
        ours_already = told.partition("#")[0] in ("", ours.status_callback.partition("#")[0])
        return _json(
            {
                "voice_url": self._settings.public_url + VOICE_PATH,
                "before": self._webhook(found)["voice_url"],
                "fallback_kept": without_passwords(webhook.voice_fallback_url) if kept else None,
                "status_callback_before": None if ours_already else without_passwords(told),
            }
        )

    # --- trial settings ---

    async def _show_trial(self, request: Request) -> Response:
        return self._trial()

    async def _set_trial(self, request: Request) -> Response:
        trial, _ = await read_body(request, Trial, max_bytes=MAX_BODY_BYTES)
        try:
            check(self._agent, self._app.endpoint, trial)
        except DefinitionError as error:
            raise BadRequest(str(error)) from None
        self.trials.current = None if trial == Trial() else trial
        return self._trial()

    async def _drop_trial(self, request: Request) -> Response:
        self.trials.current = None
        return self._trial()

    def _trial(self) -> Response:
        trial = self.trials.current
        return _json(
            {
                "agent": self._facts(),
                "trial": None if trial is None else msgspec.to_builtins(trial),
                "python": None if trial is None else as_python(self._agent, trial),
            }
        )

    def _facts(self) -> dict[str, Any]:
        """Return the agent's own settings. If each call chooses its agent, only the model is known."""
        agent, facts = self._agent, {"model": model_of(self._app.endpoint), "voices": sorted(OPENAI_VOICES)}
        if agent is None:
            return facts
        turns = {name: value for name in _TURNS if (value := getattr(agent.turns, name)) is not None}
        voice = voice_of(agent)
        return {
            **facts,
            "name": agent.name,
            "voice": voice.name,
            "speed": voice.speed,
            "instructions": agent.instructions if isinstance(agent.instructions, str) else None,
            "turn_detection": {"type": agent.turns.detection, **turns},
            "tools": [
                {"name": tool_name(each), "description": getattr(each, "description", "")} for each in agent.tools
            ],
        }


_TURNS = ("threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms", "eagerness")


def tunnel_of(public_url: str) -> str | None:
    """Return the name of the tunnel that a URL belongs to, as its host shows; None if it belongs to none."""
    host = f".{(urlsplit(public_url).hostname or '').lower()}"
    return next((name for name, suffixes in _TUNNELS.items() if host.endswith(suffixes)), None)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(content, status, {"Cache-Control": "no-store"})
