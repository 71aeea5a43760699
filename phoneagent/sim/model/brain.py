"""The brain of the simulated model: a language model behind any OpenAI-compatible chat endpoint.

    async with Model(brain=Brain("http://127.0.0.1:11434/v1")) as model:  # Ollama; `Brain("auto")` finds it
        ...

Ollama, llama.cpp's server, vLLM and OpenAI itself have this interface. With a brain, the simulated model follows no
script: it answers from the session's own instructions, conversation and tools. See docs/brain.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from phoneagent.errors import DefinitionError, PhoneAgentError, shown
from phoneagent.errors.network import DIRECT, explain
from phoneagent.sim.model.chat_stream import BadStream, ChatStream, ToolCall

if TYPE_CHECKING:
    import aiohttp

AUTO = {"Ollama": "http://127.0.0.1:11434/v1", "a llama.cpp server": "http://127.0.0.1:8080/v1"}
"""The servers that `auto` looks for on this machine, in order."""

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 60.0
"""How long the server may send nothing: a small machine takes a while to read a long conversation."""

MAX_ANSWER_SECONDS = 300.0
WARM_UP_SECONDS = 180.0
"""How long the first answer may take, while the server loads the model."""

MAX_BODY_BYTES = 1 << 20
"""The maximum size of an answer that is not a stream: a list of models, an error."""


class BrainFailed(PhoneAgentError):
    """The chat endpoint does not answer, refuses, or breaks off. The message names the endpoint and a remedy."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The input of one answer, in the shape of chat completions. With `max_tokens` None, the server sets the limit."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Any = "auto"
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class CutShort:
    """The end of an answer that reached a length limit."""


class Brain:
    """A chat endpoint, and the model that answers there.

    `url`: the endpoint's base URL, like `http://127.0.0.1:11434/v1`, or `auto` for a server on this machine.
    `model`: its name there; None takes the first that the server lists. `key` is sent as a bearer token.

    Raises:
        DefinitionError: `url` is not a URL.
    """

    def __init__(self, url: str, *, model: str | None = None, key: str | None = None) -> None:
        self.base = None if url == "auto" else _base(url)
        self.model = model
        self._key = key

    def __repr__(self) -> str:
        return f"<Brain {self}>"

    def __str__(self) -> str:
        return f"{self.model or 'a model'} at {self._host}"

    @property
    def _host(self) -> str:
        return "this machine" if self.base is None else urlsplit(self.base).netloc

    async def ready(self) -> None:
        """Find the server and the model, if they are not known yet.

        Raises:
            BrainFailed: there is no server, or it has no model.
        """
        if self.base is None:
            self.base = await self._found()
        if self.model is None:
            self.model = _first(await self._models(self.base, SILENT_SECONDS), self._host)

    async def warm_up(self) -> None:
        """Have the server load the model now, so that the first answer does not wait for it.

        Raises:
            BrainFailed: the server has no such model, refuses the key, or does not answer.
        """
        async for _piece in self._stream(Prompt([{"role": "user", "content": "Hello"}], max_tokens=1), WARM_UP_SECONDS):
            pass

    def think(self, prompt: Prompt) -> AsyncGenerator[str | ToolCall | CutShort]:
        """Yield an answer: its words as they arrive, then its tool calls. Close the generator to stop the server.

        Raises:
            BrainFailed: no answer comes, or it breaks off.
        """
        return self._stream(prompt, SILENT_SECONDS)

    async def _stream(self, prompt: Prompt, silent_seconds: float) -> AsyncGenerator[str | ToolCall | CutShort]:
        await self.ready()
        stream = ChatStream()
        async with self._request("POST", f"{self.base}/chat/completions", silent_seconds, self._body(prompt)) as answer:
            if answer.content_type != "text/event-stream":
                raise BadStream(f"it answers with {answer.content_type}, not with a stream of events")
            async for line in answer.content:
                if words := stream.feed(line):
                    yield words
                if stream.over:
                    break
            if not stream.ended:
                raise BadStream("the answer broke off in the middle")
        if stream.cut_short:
            yield CutShort()
            return
        for call in stream.calls:
            yield call

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": prompt.messages, "stream": True}
        if prompt.tools:
            body |= {"tools": prompt.tools, "tool_choice": prompt.tool_choice}
        if prompt.max_tokens is not None:
            # OpenAI's newer models refuse the older name; other servers know only the older one, or both.
            at_openai = is_openai(str(self.base))
            body["max_completion_tokens" if at_openai else "max_tokens"] = prompt.max_tokens
        return body

    async def _found(self) -> str:
        for base in AUTO.values():
            try:
                await self._models(base, 2.0)
            except BrainFailed:
                continue
            return base
        looked = " and ".join(f"{name} at {urlsplit(base).netloc}" for name, base in AUTO.items())
        raise BrainFailed(f"--brain auto found nothing: it tried {looked}; start one, or name another with --brain URL")

    async def _models(self, base: str, silent_seconds: float) -> list[str]:
        async with self._request("GET", f"{base}/models", silent_seconds) as answer:
            try:
                listed = msgspec.json.decode(await _body_of(answer))
                return [str(entry["id"]) for entry in listed["data"] or ()]
            except (msgspec.DecodeError, TypeError, KeyError) as error:
                raise BadStream("it answers GET /models with no list of models") from error

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, silent_seconds: float, body: Any = None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Send a request and yield its successful answer. Any failure becomes a `BrainFailed`."""
        import aiohttp
        from aiohttp.http import HttpProcessingError

        host = urlsplit(url).netloc
        timeout = aiohttp.ClientTimeout(
            total=MAX_ANSWER_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=silent_seconds
        )
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as client,
                client.request(method, url, json=body, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    raise BrainFailed(_refusal(answer.status, await _body_of(answer), host, self.model))
                yield answer
        except TimeoutError as error:
            raise BrainFailed(
                f"the brain at {host} sends nothing for {silent_seconds:g} s: use a smaller model, or a faster machine"
            ) from error
        except BadStream as error:
            raise BrainFailed(f"the brain at {host} failed: {error}") from error
        except aiohttp.ClientPayloadError as error:
            raise BrainFailed(f"the brain at {host} failed: the answer broke off in the middle") from error
        except (aiohttp.ClientError, OSError) as error:
            raise BrainFailed(f"the brain does not answer: {explain(error, url, DIRECT)}") from error
        except (ValueError, HttpProcessingError) as error:
            raise BrainFailed(f"the brain at {host} failed: it sent a line that is too long") from error


def is_openai(url: str) -> bool:
    """Return whether a URL is OpenAI's own: OPENAI_API_KEY must not be sent elsewhere."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" and (host == "api.openai.com" or host.endswith(".api.openai.com"))


def _base(url: str) -> str:
    """Return the base URL of the interface, from a URL as users write it."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or "@" in parts.netloc:
        raise DefinitionError(
            "the brain's address must be `auto` or like http://127.0.0.1:11434/v1, without a password"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _first(names: Sequence[str], host: str) -> str:
    if is_openai(f"https://{host}"):
        raise BrainFailed(f"{host} has many models: name one with --brain-model")
    name = next((name for name in names if "embed" not in name.lower()), None)
    if name is None:
        raise BrainFailed(f"the brain at {host} has no model: load one (ollama pull NAME) or start it with one")
    return name


def _refusal(status: int, body: bytes, host: str, model: str | None) -> str:
    """Return one line for a refused request, with the server's own words."""
    told: Any = ""
    try:
        error = msgspec.json.decode(body)["error"]
        told = error["message"] if isinstance(error, dict) else error
    except (msgspec.DecodeError, TypeError, KeyError):
        pass
    remedy = {
        401: "set BRAIN_API_KEY (OPENAI_API_KEY for OpenAI)",
        403: "set BRAIN_API_KEY (OPENAI_API_KEY for OpenAI)",
        404: "check the address, and the model's name (--brain-model)",
        429: "wait, or use another server",
    }.get(status, "see the server's own log" if status >= 500 else "try another model (--brain-model)")
    named = f" {model}" if model else ""
    return (
        f"the brain{named} at {host} answers HTTP {status}" + (f" ({shown(told, 300)})" if told else "") + f": {remedy}"
    )


async def _body_of(answer: aiohttp.ClientResponse) -> bytes:
    """Read an answer that is not a stream. Raises `BadStream` if it is too long."""
    body = bytearray()
    async for chunk in answer.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BadStream(f"it sent more than {MAX_BODY_BYTES} bytes")
    return bytes(body)
