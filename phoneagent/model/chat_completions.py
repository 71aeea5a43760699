"""A form that a model fills in at an OpenAI-compatible chat endpoint, as structured output.

Source: OpenAI's API reference, "chat completions", `response_format`. Ollama, llama.cpp's server and vLLM speak it too.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from urllib.parse import urlsplit

import msgspec

from phoneagent.billing.usage import Reading
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable, network, shown
from phoneagent.events import Usage
from phoneagent.model.forms import ANSWER_SECONDS, Filling, Form

if TYPE_CHECKING:
    from phoneagent.settings import Settings

MAX_ANSWER_TOKENS = 8_192
"""If a model reasons first, its reasoning counts too."""

MAX_BODY_BYTES = 1024 * 1024
_PASSING = frozenset({408, 409, 425, 429})
_OF_THE_KEY = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """A chat endpoint: its base address, like `https://api.openai.com/v1`, and a model there."""

    url: str = field(repr=False)
    model: str
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> ChatEndpoint | None:
        """Return the endpoint that OUTCOME_URL and OUTCOME_MODEL name; None if they name none."""
        if settings.outcome_url is None or settings.outcome_model is None:
            return None
        key = settings.outcome_api_key
        return cls(settings.outcome_url, settings.outcome_model, None if key is None else key.get_secret_value())

    @property
    def address(self) -> str:
        """The address of its chat completions."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        return parts._replace(path=f"{path}/chat/completions").geturl()

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def limit(self) -> dict[str, int]:
        """The limit of an answer. OpenAI's newer models refuse the older name; other servers know only that one."""
        at_openai = self.host == "api.openai.com" or self.host.endswith((".api.openai.com", ".openai.azure.com"))
        return {"max_completion_tokens" if at_openai else "max_tokens": MAX_ANSWER_TOKENS}


_Count: TypeAlias = Annotated[int, msgspec.Meta(le=10**9)]  # no column has room for more


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Used(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: Any = None
    """The answer counts, whatever shape this has."""


class _Failure(msgspec.Struct):
    message: str | None = None
    code: str | int | None = None
    type: str | None = None


class _Refusal(msgspec.Struct):
    error: _Failure


class ChatFiller:
    """Fills in a form at a chat endpoint."""

    def __init__(self, endpoint: ChatEndpoint, form: Form) -> None:
        self._endpoint = endpoint
        self._form = form
        self._messages = [
            {"role": "system", "content": form.instructions},
            {"role": "user", "content": form.text},
        ]

    async def close(self) -> None:
        """Do nothing: nothing stays open between two answers."""

    async def fill(self, complaint: str | None = None) -> Filling:
        if complaint is not None:
            self._messages.append({"role": "user", "content": complaint})
        completion = await self._post()
        read = _reading(completion.usage)
        if not completion.choices:
            return Filling(self._endpoint.model, read, problem="the model answered with nothing")
        choice = completion.choices[0]
        text = choice.message.content or ""
        if choice.message.refusal or choice.finish_reason == "content_filter":
            problem: str | None = f"the model refused: {shown(choice.message.refusal or 'content filter', 200)}"
        elif choice.finish_reason == "length":
            problem = "the answer was cut off (length)"
        else:
            problem = None if text.strip() else "the model answered with nothing"
        self._messages.append({"role": "assistant", "content": text or "(nothing)"})
        return Filling(self._endpoint.model, read, text, problem)

    def _body(self) -> dict[str, Any]:
        schema = {"name": "outcome", "schema": self._form.schema, "strict": False}  # strict forbids optional fields
        return {
            "model": self._endpoint.model,
            "messages": self._messages,
            "response_format": {"type": "json_schema", "json_schema": schema},
            **self._endpoint.limit,
        }

    async def _post(self) -> _Completion:
        import aiohttp  # slow to import, and most apps have no chat endpoint

        endpoint = self._endpoint
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                aiohttp.ClientSession() as http,
                http.post(
                    endpoint.address,
                    data=msgspec.json.encode(self._body()),
                    headers=headers,
                    allow_redirects=False,  # another server would receive the key
                ) as response,
            ):
                return self._completion(response.status, await _body_of(response))
        except TimeoutError:
            words = f"no answer from OUTCOME_URL within {ANSWER_SECONDS:g} s"
            raise EndpointUnreachable(words, code="timeout") from None
        except EndpointError:
            raise
        except (OSError, aiohttp.ClientError, ValueError) as error:
            fault = network.explain(error, endpoint.address, network.DIRECT)
            raise EndpointUnreachable(f"OUTCOME_URL does not answer: {fault}", code="network") from None

    def _completion(self, status: int, body: bytes) -> _Completion:
        if status != 200:
            raise self._refused(status, body)
        try:
            return msgspec.json.decode(body, type=_Completion)
        except msgspec.MsgspecError:
            raise EndpointUnreachable("OUTCOME_URL answers with no chat completion: check the address") from None

    def _refused(self, status: int, body: bytes) -> EndpointError:
        words = f"OUTCOME_URL answers HTTP {status}"
        try:
            failure = msgspec.json.decode(body, type=_Refusal).error
        except msgspec.MsgspecError:
            failure = _Failure()
        name = failure.code or failure.type
        told = "" if status in _OF_THE_KEY else failure.message or ""  # the message may repeat a part of the key
        said = shown(": ".join(str(each) for each in (name, told) if each), 300)
        if self._endpoint.api_key:
            said = said.replace(self._endpoint.api_key, "…")
        words += f" ({said})" if said else ""
        if status in _OF_THE_KEY:
            return EndpointRefused(f"{words}: check OUTCOME_API_KEY", code=str(status))
        if status in _PASSING or status >= 500:
            return EndpointUnreachable(words, code=str(status))
        return EndpointRefused(f"{words}: check OUTCOME_URL and OUTCOME_MODEL", code=str(status))


async def _body_of(response: Any) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise EndpointUnreachable(f"OUTCOME_URL sent more than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _reading(reported: Any) -> Reading | None:
    """Read the usage of a completion; None if it contains nothing."""
    try:
        used = msgspec.convert(reported, _Used)
    except msgspec.ValidationError:
        return None
    if used.prompt_tokens is None and used.completion_tokens is None:
        return None
    whole, details = max(0, used.prompt_tokens or 0), used.prompt_tokens_details or _Details()
    cached = min(whole, max(0, details.cached_tokens or 0))
    return Reading(
        Usage(text_in=whole - cached, text_cached=cached, text_out=max(0, used.completion_tokens or 0)), assumed=False
    )
