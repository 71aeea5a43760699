"""What stands between a caller and the agent: everything from the settings to the model, looked at one by one.

Each check is a line of the report. What is wrong says what to do; what cannot be looked at before something else is
repaired says that. Nothing here places a call: the webhook and the media socket are asked as Twilio asks them, and the
socket is closed before a call would start.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from phoneagent.agent import Agent
from phoneagent.endpoint import Endpoint, open_session
from phoneagent.errors import ConfigurationError, EndpointError, StoreError, TelephonyError
from phoneagent.numbers import Account, PhoneNumbers
from phoneagent.server import VOICE_PATH
from phoneagent.settings import Settings
from phoneagent.sim.alerts import CallFailed
from phoneagent.sim.twiml import Verb, parse
from phoneagent.sim.webhook import Web
from phoneagent.store import Store
from phoneagent.store.database import Database

REQUEST_SECONDS = 10.0
LARGEST_ENTRY_BYTES = 64 * 1024

MOST_SKEW_SECONDS = 60
"""How far this machine's clock may be from Twilio's."""

SHUTDOWN_DAYS = 90
"""How long before a model is switched off it is time to choose another."""


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was looked at, how it is, and in words what was found and what to do."""

    name: str
    status: Status
    text: str


def settings_missing(error: ConfigurationError) -> list[Check]:
    """Return the report when the settings cannot be read: nothing else can be looked at."""
    found = [failed("settings", problem) for problem in error.problems]
    rest = ("Twilio", "clock", "number", "webhook", "media socket", "model", "database")
    return [*found, *(skipped(name, "repair the settings first") for name in rest)]


async def examine(settings: Settings, *, local: str | None = None) -> AsyncIterator[Check]:
    """Look at everything, in the order of a call; each check is yielded when it is done.

    `local` is where the app really listens (http://127.0.0.1:8000), to ask it there instead of at PUBLIC_URL.
    """
    yield ok("settings", "complete")
    numbers = PhoneNumbers(settings.twilio_account_sid, settings.auth_tokens[0], api_url=settings.twilio_api_url)
    try:
        account = await numbers.account()
    except TelephonyError as error:
        yield failed("Twilio", str(error))
        for name in ("clock", "number"):
            yield skipped(name, "Twilio has to answer first")
    else:
        yield _check_account(account)
        yield check_clock(account.date, datetime.now(UTC))
        yield await _check_number(numbers, settings)
    for check in await _check_app(settings, local):
        yield check
    for check in await _check_model(Endpoint.from_settings(settings)):
        yield check
    yield await _check_database(settings)


def ok(name: str, text: str) -> Check:
    """Return a check that came out well."""
    return Check(name, Status.OK, text)


def failed(name: str, text: str) -> Check:
    """Return a check that found something wrong; the text says what to do."""
    return Check(name, Status.FAILED, text)


def skipped(name: str, text: str) -> Check:
    """Return a check that was not done; the text says why."""
    return Check(name, Status.SKIPPED, text)


# --- Twilio -----------------------------------------------------------------------------------------------------------


def _check_account(account: Account) -> Check:
    if account.status != "active":
        return failed("Twilio", f"the account is {account.status}: see to it in the Twilio console")
    kind = ", a trial account: only verified callers are put through" if account.kind == "Trial" else ""
    return ok("Twilio", f"the credentials are good{kind}")


def check_clock(twilio: datetime | None, ours: datetime) -> Check:
    """Compare this machine's clock with Twilio's; both know their time zone."""
    if twilio is None:
        return skipped("clock", "Twilio's answer had no date")
    skew = (ours - twilio).total_seconds()
    if abs(skew) > MOST_SKEW_SECONDS:
        where = "ahead of" if skew > 0 else "behind"
        return failed("clock", f"this machine is {abs(skew):.0f} s {where} Twilio: synchronise it with a time server")
    return ok("clock", f"within {MOST_SKEW_SECONDS} s of Twilio's")


async def _check_number(numbers: PhoneNumbers, settings: Settings) -> Check:
    if settings.twilio_phone_number is None:
        return skipped("number", "TWILIO_PHONE_NUMBER is not set")
    try:
        number = await numbers.find(settings.twilio_phone_number)
    except TelephonyError as error:
        return failed("number", str(error))
    expected = settings.public_url + VOICE_PATH
    points_to = number.webhook.voice_url.partition("#")[0]
    if not number.has_voice:
        return failed("number", "the number cannot take voice calls: buy one that can")
    if number.overridden_by is not None:
        return failed("number", f"{number.overridden_by} takes its calls: remove that from the number in the console")
    if points_to != expected:
        where = f"points to {points_to}" if points_to else "has no webhook"
        return failed("number", f'it {where}: set "A call comes in" to {expected}')
    return ok("number", f"its calls come to {expected}")


# --- the app, as Twilio sees it ---------------------------------------------------------------------------------------


async def _check_app(settings: Settings, local: str | None) -> list[Check]:
    public = settings.public_url
    address = ((local or public).rstrip("/") + VOICE_PATH, public if local else None)
    form = _webhook_form(settings)
    async with (
        Web(*address, settings.auth_tokens[0]) as twilio,
        Web(*address, secrets.token_hex(16)) as stranger,
    ):
        try:
            answer = await twilio.request(twilio.entry, form)
            stream = stream_url(parse(answer.body, answer.content_type).verbs)
        except CallFailed as failure:
            return [failed("webhook", webhook_trouble(failure, twilio.entry)), skipped("media socket", _AFTER_WEBHOOK)]
        if stream is None:
            words = "the app takes no call at the moment: it is ending, or as many calls are live as MAX_CALLS allows"
            return [failed("webhook", words), skipped("media socket", _AFTER_WEBHOOK)]
        refused = await _is_refused(stranger, {**form, "CallSid": _call_sid()})
        forged = await _handshake(stranger, stream)
        signed = await _handshake(twilio, stream)
    return [_judge_webhook(refused, twilio.entry), _judge_socket(forged, signed)]


_AFTER_WEBHOOK = "the webhook has to answer first"


def _call_sid() -> str:
    return "CA" + secrets.token_hex(16)


def _webhook_form(settings: Settings) -> dict[str, str]:
    caller, called = "+15550100001", settings.twilio_phone_number or "+15550100002"
    return {
        "CallSid": _call_sid(),
        "AccountSid": settings.twilio_account_sid,
        "From": caller,
        "To": called,
        "Caller": caller,
        "Called": called,
        "CallStatus": "ringing",
        "ApiVersion": "2010-04-01",
        "Direction": "inbound",
    }


def stream_url(verbs: tuple[Verb, ...]) -> str | None:
    """Return the address of the media stream that TwiML connects a call to, None if it does not."""
    streams = (child for verb in verbs if verb.name == "Connect" for child in verb.children if child.name == "Stream")
    return next((stream.attributes.get("url") for stream in streams), None)


def webhook_trouble(failure: CallFailed, url: str) -> str:
    """Say what a webhook at `url` that did not answer with TwiML means, and what to do."""
    if failure.status == 403:
        return f"{url} refuses what Twilio signs: give the app the same PUBLIC_URL and TWILIO_AUTH_TOKEN as here"
    if failure.status == 404:
        return f"there is no phoneagent at {url}: check PUBLIC_URL, and the path of a mounted app"
    if failure.status is not None:
        return f"{url} answers HTTP {failure.status}: see the app's log"
    if failure.code in (11200, 11205):
        return f"nothing answers at {url}: start the app, and its tunnel if there is one"
    return f"{url} does not answer as phoneagent does ({failure.reason}): check PUBLIC_URL"


async def _is_refused(stranger: Web, form: dict[str, str]) -> bool:
    try:
        await stranger.request(stranger.entry, form)
    except CallFailed as failure:
        return failure.status is not None and 400 <= failure.status < 500
    return False


async def _handshake(who: Web, url: str) -> str | None:
    """Open a media socket as `who` would and close it at once; returns what went wrong, None if it opened.

    No `start` is sent, so no call begins and nothing is spoken.
    """
    try:
        async with connect(
            who.local(url),
            additional_headers=who.signature(url, {}),
            user_agent_header="Twilio.TmeWs/1.0",
            compression=None,
            open_timeout=REQUEST_SECONDS,
            close_timeout=1,
        ):
            return None
    except InvalidStatus as error:
        return f"HTTP {error.response.status_code}"
    except (OSError, WebSocketException) as error:  # a TimeoutError is an OSError
        return type(error).__name__


def _judge_webhook(refused: bool, url: str) -> Check:
    if not refused:
        return failed("webhook", f"{url} answers whoever asks: run the app with TWILIO_AUTH_TOKEN, not --insecure")
    return ok("webhook", "answers Twilio, and refuses a forged signature")


def _judge_socket(forged: str | None, signed: str | None) -> Check:
    if forged is None:
        return failed("media socket", "it opens for whoever asks: run the app with TWILIO_AUTH_TOKEN, not --insecure")
    if signed is not None:
        words = f"it does not open ({signed}): let proxy and tunnel pass WebSockets on, and the path as it is"
        return failed("media socket", words)
    return ok("media socket", "opens for Twilio, and refuses a forged signature")


# --- the model --------------------------------------------------------------------------------------------------------


async def _check_model(endpoint: Endpoint) -> list[Check]:
    url = urlsplit(endpoint.url)
    query = parse_qs(url.query)
    model = (query.get("model") or query.get("deployment") or [""])[0]
    base = url.path.removesuffix("/realtime")
    scheme = "https" if url.scheme == "wss" else "http"
    entry = urlunsplit((scheme, url.netloc, f"{base}/models/{quote(model, safe='')}", "", ""))
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            status, day = await _model_entry(entry, endpoint)
    except (aiohttp.ClientError, OSError) as error:
        return [failed("model", f"no connection to {url.hostname} ({type(error).__name__}): check the network")]
    if status == 401:
        return [
            failed("model", f"{url.hostname} refuses the key: check OPENAI_API_KEY, or REALTIME_API_KEY for another")
        ]
    checks = [] if day is None else [check_shutdown(model, day, datetime.now(UTC).date())]
    return [await _check_session(endpoint, model), *checks]


async def _model_entry(entry: str, endpoint: Endpoint) -> tuple[int, date | None]:
    """Ask for a model's entry; servers other than OpenAI's need not have one, nor a date in it."""
    async with (
        aiohttp.ClientSession(headers=dict(endpoint.headers)) as http,
        http.get(entry, allow_redirects=False) as answer,
    ):
        content = bytearray()
        async for chunk in answer.content.iter_chunked(8192):
            content += chunk
            if len(content) > LARGEST_ENTRY_BYTES:
                break
    try:
        return answer.status, date.fromisoformat(json.loads(content)["shutdown_date"])
    except (ValueError, KeyError, TypeError):  # no date, or something else altogether
        return answer.status, None


async def _check_session(endpoint: Endpoint, model: str) -> Check:
    try:
        session = await open_session(endpoint, Agent(instructions="Say nothing.").session("Say nothing."))
    except EndpointError as error:
        return failed("model", f"{error}: check OPENAI_MODEL ({model}), the key, and the account's credit")
    await session.close()
    return ok("model", f"a session with {model} opens")


def check_shutdown(model: str, day: date, today: date) -> Check:
    """Judge the day on which a model is switched off."""
    left = (day - today).days
    if left > SHUTDOWN_DAYS:
        return ok("model's end", f"{model} stays until {day}")
    when = f"is switched off on {day}, in {left} days" if left > 0 else f"was switched off on {day}"
    return failed("model's end", f"{model} {when}: set OPENAI_MODEL to a newer one")


# --- the records ------------------------------------------------------------------------------------------------------


async def _check_database(settings: Settings) -> Check:
    database = Database(settings.database_url.get_secret_value())
    if database.path is not None and not database.path.exists():
        return ok("database", f"{database.name}, made at the first call")
    async with Store(database) as store:
        try:
            await store.calls(limit=1)
        except StoreError as error:
            return failed("database", str(error))
    return ok("database", database.name)
