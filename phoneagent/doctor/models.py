"""Checks of the model: a session at every endpoint, and the dates on which its models are switched off."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import aiohttp

from phoneagent.agent.agent import Agent
from phoneagent.doctor.checks import Check, failed, note, ok
from phoneagent.errors import ConfigurationError, EndpointError
from phoneagent.model.connection import open_session
from phoneagent.model.endpoint import Endpoint, TokenProvider
from phoneagent.protocol.session_object import transcription_model_of
from phoneagent.settings import OWN_SETTINGS, Settings

ENTRY_SECONDS = 10.0
MAX_ENTRY_BYTES = 64 * 1024

MAX_SHOWN_CHARS = 400
"""Characters of a server's error message that are shown."""

MAX_ANSWER_CHARS = 100
"""Characters of each server answer that are shown."""

SHUTDOWN_DAYS = 90
"""A model that is switched off within this many days fails its check: choosing another takes time."""

_NO_MODEL = frozenset({"400", "404", "model_not_found"})
_CREDIT = frozenset({"429", "insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"})
_HELICONE = (
    "Helicone asks its provider for the beta interface, and OpenAI has switched that off. A provider that refuses it "
    "ends every session at once or stays silent, with no reason given. Then remove {gateway_key} to connect directly"
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where each part of an endpoint comes from: the setting, or the code, to change when that part is wrong."""

    address: str
    key: str
    model: str
    recognizer: str = "transcription_models in your code"
    gateway: str = "the gateway's address in your code"
    gateway_key: str = "Helicone's key in your code"
    dialect: str = "dialect=GA in your code"
    behind: Endpoint | None = None
    """The provider behind Helicone's gateway, if it is known."""


async def check_models(
    settings: Settings, endpoints: Sequence[Endpoint], agent: Agent | None = None
) -> AsyncIterator[Check]:
    """Check the endpoints in the app's code, in order, or else the one that the settings name."""
    try:
        found = [(each, _from_code(each)) for each in endpoints] or [_from_settings(settings)]
    except ConfigurationError as error:
        yield failed("model", str(error))
        return
    for number, (endpoint, source) in enumerate(found):
        for check in await _check(f"fallback {number}" if number else "model", endpoint, source, agent):
            yield check


def _from_code(endpoint: Endpoint) -> Source:
    key = "its token provider" if endpoint.token is not None else "its key in your code"
    return Source("its address in your code", key, "its model in your code")


def _from_settings(settings: Settings) -> tuple[Endpoint, Source]:
    endpoint = Endpoint.from_settings(settings)
    if settings.realtime_url is not None:
        in_url = parse_qs(urlsplit(settings.realtime_url).query).keys() & {"model", "deployment"}
        source = Source("REALTIME_URL", "REALTIME_API_KEY", "the model in REALTIME_URL" if in_url else "OPENAI_MODEL")
    elif settings.realtime_provider not in (None, *OWN_SETTINGS):
        source = Source("REALTIME_PROVIDER", "REALTIME_API_KEY", "OPENAI_MODEL")
    elif settings.azure_openai_endpoint is not None and settings.realtime_provider != "openai":
        source = Source("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_DEPLOYMENT")
    else:
        address = "the network" if settings.openai_base_url is None else "OPENAI_BASE_URL"
        source = Source(address, "OPENAI_API_KEY", "OPENAI_MODEL")
    behind = None
    if _through_helicone(endpoint) and settings.helicone_api_key is not None:
        behind = Endpoint.from_settings(settings.model_copy(update={"helicone_api_key": None}))
    gateway = "the network" if settings.helicone_url is None else "HELICONE_URL"
    if any(name.lower() in ("authorization", "api-key") for name in settings.realtime_headers):
        source = replace(source, key="REALTIME_HEADERS")
    names = {"gateway": gateway, "gateway_key": "HELICONE_API_KEY", "dialect": "REALTIME_DIALECT=ga"}
    names["recognizer"] = "PHONEAGENT_TRANSCRIPTION_MODELS"
    return endpoint, replace(source, **names, behind=behind)


def _through_helicone(endpoint: Endpoint) -> bool:
    return any(name.lower() == "helicone-auth" for name in endpoint.headers)


async def _check(name: str, endpoint: Endpoint, source: Source, agent: Agent | None) -> list[Check]:
    query = parse_qs(urlsplit(endpoint.url).query)
    model = next((query[key][0] for key in ("model", "deployment") if key in query), "an unnamed model")
    helicone = _through_helicone(endpoint)
    tokens: list[str] = []
    asked = replace(endpoint, token=_noting(endpoint.token, tokens), remedies={})  # the doctor has its own remedies
    if agent is not None and (recognizers := agent.hearing.transcription_models) is not None:
        asked = replace(asked, transcription_models=recognizers)
        source = replace(source, recognizer="the agent's Hearing in your code")
    code, recognizer = None, "unknown"
    try:
        # Instructions may be a function of a call, and there is no call. The rest is the agent's own.
        wanted = (agent or Agent(instructions="")).session("Say nothing.")
        session = await open_session(asked, wanted)
    except EndpointError as error:
        words = " ".join(str(error).split())[:MAX_SHOWN_CHARS]  # some servers answer with a whole page
        words = words if endpoint.host in words else f"{endpoint.host}: {words}"
        if error.code not in ("environment", "network"):  # these name their remedy
            words = f"{words}: {await _remedy(error, endpoint, source, model)}"
        elif error.code == "network":
            words = f"{words} (it comes from {source.gateway if helicone else source.address})"
        checks = [failed(name, words)]
        if error.answered:
            checks.append(note(f"{name}'s answers", _in_order(error.answered)))
        code = error.code or "unknown"
    else:
        await session.close()
        recognizer = transcription_model_of(session.effective)
        whose = "a session" if agent is None else f"{agent.name}'s session"
        checks = [ok(name, f"{whose} with {model} opens at {endpoint.host}")]
        checks += (
            [note(f"{name}'s session", f"it runs without {'; '.join(session.dropped)}")] if session.dropped else []
        )
    if left_out := endpoint.provider.unsupported:
        paths = ", ".join(".".join(path) for path in left_out)
        checks.append(note(f"{name}'s provider", f"it does not know these, so no session has them: {paths}"))
    if helicone:
        checks.append(note(f"{name}'s gateway", _HELICONE.format(gateway_key=source.gateway_key)))
    provider = source.behind if helicone else endpoint
    if provider is not None and (code is None or code in _NO_MODEL):
        checks += await _check_end(provider, model, tokens, name, source.model)
        if _is_openai(provider) and recognizer not in ("unknown", model):
            checks += await _check_end(provider, recognizer, tokens, f"{name}'s recognizer", source.recognizer)
    return checks


def _in_order(answered: Sequence[str]) -> str:
    """Return what a server answered before an opening failed, on one line."""
    parts = [each if len(each) <= MAX_ANSWER_CHARS else f"{each[:MAX_ANSWER_CHARS]}…" for each in answered]
    return ", then ".join(parts) if len(parts) > 1 else f"{parts[0]}, and then nothing"


async def _check_end(endpoint: Endpoint, model: str, tokens: Sequence[str], name: str, where: str) -> list[Check]:
    _, day = await _entry(endpoint, model, tokens)
    return [] if day is None else [check_shutdown(model, day, datetime.now(UTC).date(), name=name, where=where)]


def _is_openai(endpoint: Endpoint) -> bool:
    """Return whether `Endpoint.openai` made an endpoint. At Azure, say, a recognizer has a deployment's name."""
    return "OpenAI-Safety-Identifier" in endpoint.call_headers


def check_shutdown(model: str, day: date, today: date, *, name: str = "model", where: str = "OPENAI_MODEL") -> Check:
    """Check the day on which a model is switched off. `where` is the setting, or the code, that names the model."""
    left = (day - today).days
    if left > SHUTDOWN_DAYS:
        return ok(f"{name}'s end", f"{model} is available until {day}")
    when = f"is switched off on {day}, in {left} days" if left > 0 else f"was switched off on {day}"
    return failed(f"{name}'s end", f"{model} {when}: choose a newer one, and change {where}")


# --- remedies ---------------------------------------------------------------------------------------------------------


async def _remedy(error: EndpointError, endpoint: Endpoint, source: Source, model: str) -> str:
    code = error.code or ""
    helicone = _through_helicone(endpoint)
    address = source.gateway if helicone else source.address
    if code in _CREDIT:
        return "check the account's credit and limits"
    if code == "account_deactivated":
        return "check the account"
    if code == "401" and "/openai/v1/" in endpoint.url and "api-version=" in endpoint.url:
        return f"leave api-version out of {source.address}: Azure's /openai/v1 takes none. Then check {source.key}"
    if code in ("401", "403", "invalid_api_key"):
        return f"check {source.gateway_key if helicone and code != 'invalid_api_key' else source.key}"
    if code == "1008":
        return f"check {source.key} and {source.model}"
    if code in ("beta_api_shape_disabled", "4000"):
        return f"remove {source.gateway_key}" if helicone else f"it takes only the GA interface: set {source.dialect}"
    if helicone and code in ("timeout", "1000"):
        return await _behind(source, model)
    if code in _NO_MODEL:
        return f"check {source.model}" + (f", and {address}" if code == "404" and address != "the network" else "")
    if code in ("format", "session"):
        return f"it does not support what a phone call needs: check {source.model}"
    if code == "no websocket":
        return f"that address has a web page, not a model: check {address}"
    if code.startswith("5") and len(code) == 3:
        return f"the server has a problem, or is the wrong server: try again later, or check {address}"
    if endpoint.token is not None and "token provider" in str(error):
        return "fix it first"
    return f"check {address}" + ("" if address == "the network" else ", and the network")


async def _behind(source: Source, model: str) -> str:
    """Return what to do about a gateway that gives no reason. The provider behind it may give one."""
    guess = f"check {source.key} and {source.model}, or remove {source.gateway_key} to connect directly"
    if source.behind is None:
        return guess
    status, _ = await _entry(source.behind, model, [])
    if status in (401, 403):
        return f"its provider {source.behind.host} refuses the key: check {source.key}"
    if status is None:
        return f"its provider {source.behind.host} cannot be reached either: check the network"
    return guess


# --- the provider's entry for a model ---------------------------------------------------------------------------------


def _noting(provider: TokenProvider | None, noted: list[str]) -> TokenProvider | None:
    """Return a token provider that keeps a copy of each token, so that the real one is called only once."""
    if provider is None:
        return None

    async def noted_later(token: Awaitable[str]) -> str:
        noted.append(await token)
        return noted[-1]

    def ask() -> str | Awaitable[str]:
        token = provider()
        if inspect.isawaitable(token):
            return noted_later(token)
        noted.append(token)
        return token

    async def ask_async() -> str:
        return await noted_later(provider())  # type: ignore[arg-type]

    return ask_async if inspect.iscoroutinefunction(provider) else ask


async def _entry(endpoint: Endpoint, model: str, tokens: Sequence[str]) -> tuple[int | None, date | None]:
    """Request the entry for a model; return the HTTP status and the shutdown date, each None if there is none.

    Servers other than OpenAI's may have no entries, or entries without dates. That is not a fault.
    """
    url = urlsplit(endpoint.url)
    path = f"{url.path.removesuffix('/realtime')}/models/{quote(model, safe='')}"
    version = {key: value for key, value in parse_qs(url.query).items() if key == "api-version"}
    address = urlunsplit(("https" if url.scheme == "wss" else "http", url.netloc, path, urlencode(version, True), ""))
    headers = dict(endpoint.headers)
    if tokens:
        headers["Authorization"] = f"Bearer {tokens[-1]}"
    content = bytearray()
    try:
        async with (
            asyncio.timeout(ENTRY_SECONDS),
            aiohttp.ClientSession(headers=headers) as http,
            http.get(address, allow_redirects=False) as answer,
        ):
            async for chunk in answer.content.iter_chunked(8192):
                content += chunk
                if len(content) > MAX_ENTRY_BYTES:
                    break
    except (aiohttp.ClientError, OSError):  # a TimeoutError is an OSError
        return None, None
    try:
        return answer.status, date.fromisoformat(json.loads(content)["shutdown_date"])
    except (ValueError, KeyError, TypeError, RecursionError):  # no date, or no entry at all
        return answer.status, None
