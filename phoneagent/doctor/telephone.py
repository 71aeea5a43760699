"""Checks of the telephone: Twilio's account and number, and the app as Twilio sees it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from phoneagent.doctor.checks import Check, failed, note, ok, skipped
from phoneagent.errors import TelephonyError, network
from phoneagent.protocol.dialing import region
from phoneagent.server import VOICE_PATH
from phoneagent.settings import Settings
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.twiml import Verb, parse
from phoneagent.sim.twilio.webhook import Web
from phoneagent.twilio.rest import Account, PhoneNumbers
from phoneagent.twilio.spellings import is_same_page

REQUEST_SECONDS = 10.0

MAX_SKEW_SECONDS = 60
"""How far this machine's clock may differ from Twilio's."""


# --- Twilio -----------------------------------------------------------------------------------------------------------


async def check_twilio(settings: Settings) -> AsyncIterator[Check]:
    """Check the account, this machine's clock and the number."""
    numbers = PhoneNumbers(settings.twilio_account_sid, settings.auth_tokens[0], api_url=settings.twilio_api_url)
    try:
        account = await numbers.account()
    except TelephonyError as error:
        yield failed("Twilio", str(error))
        for name in ("clock", "number", "calling out"):
            yield skipped(name, "Twilio must answer first")
    else:
        yield _check_account(account)
        yield check_clock(account.date, datetime.now(UTC))
        yield await _check_number(numbers, settings)
        yield await _check_calling_out(numbers, settings)


def _check_account(account: Account) -> Check:
    if account.status != "active":
        return failed("Twilio", f"the account is {account.status}: check it in the Twilio console")
    kind = ", a trial account: only verified callers get through" if account.kind == "Trial" else ""
    return ok("Twilio", f"the credentials are valid{kind}")


def check_clock(twilio: datetime | None, ours: datetime) -> Check:
    """Compare this machine's clock with Twilio's; both times are timezone-aware."""
    if twilio is None:
        return skipped("clock", "Twilio's answer had no date")
    skew = (ours - twilio).total_seconds()
    if abs(skew) > MAX_SKEW_SECONDS:
        where = "ahead of" if skew > 0 else "behind"
        return failed("clock", f"this machine is {abs(skew):.0f} s {where} Twilio: synchronize it with a time server")
    return ok("clock", f"within {MAX_SKEW_SECONDS} s of Twilio's")


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
    if not is_same_page(points_to, expected):  # a query becomes `call.parameters`
        where = f"points to {points_to}" if points_to else "has no webhook"
        return failed("number", f'it {where}: set "A call comes in" to {expected}')
    return ok("number", f"its calls go to {expected}")


async def _check_calling_out(numbers: PhoneNumbers, settings: Settings) -> Check:
    """Check whether calls can be made: the caller ID and its country. It never fails: an app need not make any."""
    name, number = "calling out", settings.twilio_phone_number
    if number is None:
        return skipped(name, "TWILIO_PHONE_NUMBER is not set")
    country = region(number)
    try:
        try:
            await numbers.find(number)
        except TelephonyError:
            if not await numbers.is_verified(number):
                words = (
                    "TWILIO_PHONE_NUMBER is neither a number of the account nor verified: no calls can be made from it"
                )
                return note(name, words)
        if country is None or await numbers.may_call(country):
            return ok(name, "the caller ID is valid" + ("" if country is None else f", {country} may be called"))
    except TelephonyError as error:
        return note(name, f"whether calls can be made is unknown: {error}")
    return note(name, f"{country} may not be called: allow it in the console, Voice > Settings > Geo permissions")


# --- the app, as Twilio sees it ---------------------------------------------------------------------------------------


async def check_app(settings: Settings, local: str | None) -> list[Check]:
    """Request the webhook and the media socket, with a valid and a forged signature. For `local`, see `examine`."""
    public = settings.public_url
    address = ((local or public).rstrip("/") + VOICE_PATH, public if local else None)
    form = _webhook_form(settings)
    async with (
        Web(*address, settings.auth_tokens[0]) as twilio,
        Web(*address, secrets.token_hex(16)) as stranger,
    ):
        try:
            answer = await twilio.request(twilio.entry, form)
            verbs = parse(answer.body, answer.content_type).verbs
        except CallFailed as failure:
            words = webhook_trouble(failure, twilio.entry, twilio.local(twilio.entry))
            return [failed("webhook", words), skipped("media socket", _AFTER_WEBHOOK)]
        stream, denied = stream_url(verbs), is_denied(verbs)
        if stream is None and not denied:
            return [failed("webhook", _NO_STREAM), skipped("media socket", _AFTER_WEBHOOK)]
        refused = await _is_refused(stranger, {**form, "CallSid": _call_sid()})
        if stream is None:
            return [_judge_webhook(refused, twilio.entry), skipped("media socket", _DENIED)]
        forged = await _handshake(stranger, stream)
        signed = await _handshake(twilio, stream)
    return [_judge_webhook(refused, twilio.entry), _judge_socket(forged, signed)]


async def check_insecure_app(settings: Settings, local: str | None) -> list[Check]:
    """Request the webhook and the media socket of `serve --insecure` as a phone on this machine does, unsigned."""
    if local is None:
        return [skipped("webhook", "an insecure app has no public address: name its own with --local")]
    async with Web(local.rstrip("/") + VOICE_PATH, None, None) as phone:
        try:
            answer = await phone.request(phone.entry, _webhook_form(settings))
            verbs = parse(answer.body, answer.content_type).verbs
        except CallFailed as failure:
            words = webhook_trouble(failure, phone.entry, phone.entry)
            if failure.status == 403:
                words = f"{phone.entry} takes signed calls only: run the doctor with the app's own settings"
            return [failed("webhook", words), skipped("media socket", _AFTER_WEBHOOK)]
        if is_denied(verbs):
            return [ok("webhook", _UNSIGNED), skipped("media socket", _DENIED)]
        if (stream := stream_url(verbs)) is None:
            return [failed("webhook", _NO_STREAM), skipped("media socket", _AFTER_WEBHOOK)]
        opened = await _handshake(phone, stream)
    if opened is not None:
        return [ok("webhook", _UNSIGNED), failed("media socket", f"it does not open ({opened}): see the app's log")]
    return [ok("webhook", _UNSIGNED), ok("media socket", "opens for calls from this machine")]


_UNSIGNED = "answers calls from this machine, unsigned (--insecure)"
_NO_STREAM = "the app takes no calls now: it is shutting down, or MAX_CALLS calls are live. Try again later"
_AFTER_WEBHOOK = "the webhook must answer first"
_CALLER = "+15550100001"
_DENIED = f"ALLOW_CALLERS or DENY_CALLERS rejects the doctor's caller {_CALLER}: allow it to have the socket checked"


def _call_sid() -> str:
    return "CA" + secrets.token_hex(16)


def _webhook_form(settings: Settings) -> dict[str, str]:
    caller, called = _CALLER, settings.twilio_phone_number or "+15550100002"
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
    """Return the address of the media stream that TwiML connects a call to, or copies it to; None if there is none."""
    children = (child for verb in verbs if verb.name in ("Connect", "Start") for child in verb.children)
    streams = (child for child in children if child.name == "Stream")
    return next((stream.attributes.get("url") for stream in streams), None)


def is_denied(verbs: tuple[Verb, ...]) -> bool:
    """Return whether TwiML rejects the caller for good, rather than with a busy tone."""
    return any(verb.name == "Reject" and verb.attributes.get("reason") != "busy" for verb in verbs)


def webhook_trouble(failure: CallFailed, url: str, address: str) -> str:
    """Explain why the webhook at `url`, requested at `address`, did not answer with TwiML, and what to do."""
    if failure.status == 403:
        return f"{url} refuses Twilio's signature: give the app the same PUBLIC_URL and TWILIO_AUTH_TOKEN as here"
    if failure.status == 404:
        return f"there is no phoneagent at {url}: check PUBLIC_URL, and the path of a mounted app"
    if failure.status is not None:
        return f"{url} answers with HTTP {failure.status}: see the app's log"
    cause = failure.__cause__
    if isinstance(cause, aiohttp.ClientConnectorError) and not isinstance(
        getattr(cause, "os_error", None), ConnectionRefusedError
    ):
        return f"{url} cannot be reached: {network.explain(cause, address, network.DIRECT)}"
    if failure.code in (11200, 11205):
        return f"nothing answers at {url}: start the app, and its tunnel if it has one"
    return f"the answer of {url} is not phoneagent's ({failure.reason}): check PUBLIC_URL"


async def _is_refused(stranger: Web, form: dict[str, str]) -> bool:
    try:
        await stranger.request(stranger.entry, form)
    except CallFailed as failure:
        return failure.status is not None and 400 <= failure.status < 500
    return False


async def _handshake(signer: Web, url: str) -> str | None:
    """Open a media socket, signed by `signer`, and close it at once; return what went wrong, None if it opened.

    No `start` is sent, so no call begins and nothing is said.
    """
    try:
        async with connect(
            signer.local(url),
            additional_headers=signer.signature(url, {}),
            user_agent_header="Twilio.TmeWs/1.0",
            compression=None,
            open_timeout=REQUEST_SECONDS,
            close_timeout=1,
            proxy=None,  # like the webhook's client
        ):
            return None
    except InvalidStatus as error:
        return f"HTTP {error.response.status_code}"
    except (OSError, WebSocketException) as error:  # a TimeoutError is an OSError
        return type(error).__name__


def _judge_webhook(refused: bool, url: str) -> Check:
    if not refused:
        return failed("webhook", f"{url} answers unsigned requests: run the app with TWILIO_AUTH_TOKEN, not --insecure")
    return ok("webhook", "answers Twilio and refuses a forged signature")


def _judge_socket(forged: str | None, signed: str | None) -> Check:
    if forged is None:
        words = "it opens for unsigned requests: run the app with TWILIO_AUTH_TOKEN, not --insecure"
        return failed("media socket", words)
    if signed is not None:
        words = f"it does not open ({signed}): let proxy and tunnel forward WebSockets, with the path unchanged"
        return failed("media socket", words)
    return ok("media socket", "opens for Twilio and refuses a forged signature")
