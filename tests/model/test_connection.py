"""Opening model sessions: addresses, and everything that a far end can do wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

import pytest
from websockets.asyncio.server import Request, Response, ServerConnection, serve

from phoneagent import Agent, Call, Endpoint, EndpointError, EndpointRefused, EndpointUnreachable, TokenProvider
from phoneagent.errors import ProtocolError
from phoneagent.model import connection
from phoneagent.model.connection import ModelSession, open_session
from phoneagent.protocol import negotiation, realtime
from phoneagent.protocol.realtime import AudioAppend, AudioDelta, Dialect, SessionUpdate
from phoneagent.protocol.transcoding import ToPcm
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


SESSION = Agent(instructions="Be brief.").session("Be brief.")
CREATED = {"type": "session.created", "session": {"type": "realtime", "audio": {}}}
Behaviour = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def server(behaviour: Behaviour, refuse: HTTPStatus | None = None, body: str = "no\n") -> AsyncIterator[Endpoint]:
    def check(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(refuse, body) if refuse else None

    async with serve(behaviour, "127.0.0.1", 0, process_request=check, compression=None) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        yield Endpoint(f"ws://127.0.0.1:{port}/v1/realtime?model=m", transcription_models=("first", "second"))


async def say(connection: ServerConnection, **event: Any) -> None:
    await connection.send(json.dumps(event))


def updated(session: dict[str, Any]) -> dict[str, Any]:
    return {"type": "session.updated", "session": session}


async def agreeable(connection: ServerConnection) -> None:
    await say(connection, **CREATED)
    update = json.loads(await connection.recv())
    await say(connection, **updated(update["session"]))
    async for message in connection:
        await connection.send(message)


class Reader:
    """The reader of a session, which keeps what it was passed."""

    def __init__(self, session: ModelSession) -> None:
        self._events: asyncio.Queue[bytes] = asyncio.Queue()
        self._reading = asyncio.create_task(session.read(self._events.put_nowait, lambda: None))
        self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may end unread

    async def next(self) -> bytes:
        """Return the next event, or raise what ended the session."""
        event = asyncio.create_task(self._events.get())
        async with asyncio.timeout(HANG_SECONDS):
            await asyncio.wait((event, self._reading), return_when=asyncio.FIRST_COMPLETED)
        if event.done():
            return event.result()
        event.cancel()
        return await self._reading


async def test_a_session_is_configured_and_carries_events() -> None:
    async with server(agreeable) as far:
        session = await open_session(far, SESSION)
        reader = Reader(session)
        assert (session.dialect, session.dropped) == (Dialect.GA, ())
        session.write([AudioAppend("AAAA")])
        assert json.loads(await reader.next()) == {"type": "input_audio_buffer.append", "audio": "AAAA"}
        await session.close()
        with pytest.raises(EndpointUnreachable):
            await reader.next()
        with pytest.raises(EndpointUnreachable):
            session.write([AudioAppend("AAAA")])


async def test_an_open_session_keeps_no_key() -> None:
    async with server(agreeable) as far:
        session = await open_session(Endpoint(far.url, {"Authorization": "Bearer sk-secret"}), SESSION)
        handshake = session._connection.request, session._connection.response
        assert [message is not None and list(message.headers) for message in handshake] == [[], []]
        await session.close()


async def test_the_key_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with server(agreeable) as far:
        session = await open_session(Endpoint(far.url, {"Authorization": "Bearer sk-secret"}), SESSION)
        await session.close()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")]
    assert not any("sk-secret" in line for line in ours)


async def test_beta_is_found_out_by_itself() -> None:
    async def beta(connection: ServerConnection) -> None:
        await say(connection, type="session.created", session={"modalities": ["audio", "text"]})
        update = json.loads(await connection.recv())
        assert update["session"]["input_audio_format"] == "g711_ulaw"
        await say(connection, **updated(update["session"]))
        await connection.wait_closed()

    async with server(beta) as far:
        session = await open_session(far, SESSION)
        assert session.dialect is Dialect.BETA
        await session.close()


async def test_refused_fields_are_dropped_and_said() -> None:
    async def picky(connection: ServerConnection) -> None:
        await say(connection, **CREATED)
        refusals = iter(["session.audio.input.transcription.model", "session.audio.output.voice"])
        while True:
            update = json.loads(await connection.recv())
            param = next(refusals, None)
            if param is None:
                break
            error = {"code": "invalid_value", "message": "no", "param": param, "event_id": update["event_id"]}
            await say(connection, type="error", error=error)
        assert update["session"]["audio"]["input"]["transcription"] == {"model": "second"}
        assert "voice" not in update["session"]["audio"]["output"]
        await say(connection, **updated(update["session"]))
        await connection.wait_closed()

    async with server(picky) as far:
        session = await open_session(far, SESSION)
        assert [line.split(" (")[0] for line in session.dropped] == ["transcription by first", "audio.output.voice"]
        await session.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (HTTPStatus.UNAUTHORIZED, EndpointRefused),
        (HTTPStatus.NOT_FOUND, EndpointRefused),
        (HTTPStatus.OK, EndpointUnreachable),
        (HTTPStatus.FOUND, EndpointUnreachable),
        (HTTPStatus.BAD_GATEWAY, EndpointUnreachable),
        (HTTPStatus.SERVICE_UNAVAILABLE, EndpointUnreachable),
        (HTTPStatus.TOO_MANY_REQUESTS, EndpointUnreachable),
    ],
)
async def test_http_refusals(status: HTTPStatus, kind: type[Exception]) -> None:
    async with server(agreeable, refuse=status) as far:
        with pytest.raises(kind, match=str(status.value)):
            await open_session(far, SESSION)


PAGE = "<!DOCTYPE html><html><body><h1>Sign in</h1></body></html>"


@pytest.mark.parametrize("status", [HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.BAD_GATEWAY])
async def test_a_web_page_in_place_of_a_session(status: HTTPStatus) -> None:
    remedies = {"no websocket": "another address", "404": "another model", "502": "patience"}
    async with server(agreeable, refuse=status, body=PAGE) as far:
        with pytest.raises(EndpointError) as raised:
            await open_session(replace(far, remedies=remedies), SESSION)
    remedy = "another address" if status == HTTPStatus.OK else remedies[str(status.value)]
    assert str(raised.value) == f"127.0.0.1 refused the model session with HTTP {status.value}: {remedy}"


async def test_redirects_are_not_followed_with_the_keys() -> None:
    led: list[ServerConnection] = []

    async def elsewhere(connection: ServerConnection) -> None:
        led.append(connection)
        await agreeable(connection)

    def redirect(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(HTTPStatus.TEMPORARY_REDIRECT, "")
        response.headers["Location"] = other.url
        return response

    async with server(elsewhere) as other, serve(agreeable, "127.0.0.1", 0, process_request=redirect) as first:
        far = Endpoint(f"ws://127.0.0.1:{first.sockets[0].getsockname()[1]}", {"api-key": "s3cret"})
        with pytest.raises(EndpointUnreachable, match="HTTP 307"):
            await open_session(far, SESSION)
    assert led == []


async def test_something_else_than_http() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read(1)
        writer.close()
        await writer.wait_closed()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running:
        port = running.sockets[0].getsockname()[1]
        words = rf"no connection to the model at 127\.0\.0\.1: 127\.0\.0\.1:{port} ends the connection, or answers with"
        with pytest.raises(EndpointUnreachable, match=words):
            await open_session(Endpoint(f"ws://127.0.0.1:{port}"), SESSION)


async def fatal_error(connection: ServerConnection) -> None:
    await say(connection, type="error", error={"code": "beta_api_shape_disabled", "message": "use GA"})
    await connection.close(4000)


async def hangs_up(connection: ServerConnection) -> None:
    await connection.close(1008, "policy")


async def breaks_off(connection: ServerConnection) -> None:
    connection.transport.abort()


async def speaks_alaw(connection: ServerConnection) -> None:
    await say(connection, **CREATED)
    await connection.recv()
    await say(connection, **updated({"audio": {"output": {"format": {"type": "audio/pcma"}}}}))
    await connection.wait_closed()


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        (fatal_error, EndpointRefused, "beta_api_shape_disabled"),
        (hangs_up, EndpointRefused, "1008 policy"),
        (breaks_off, EndpointUnreachable, "without a close"),
        (speaks_alaw, EndpointRefused, "speak audio/pcma"),
    ],
)
async def test_bad_servers(behaviour: Behaviour, kind: type[Exception], words: str) -> None:
    async with server(behaviour) as far:
        with pytest.raises(kind, match=words):
            await open_session(far, SESSION)


async def silent(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def half(connection: ServerConnection) -> None:
    await connection.send('{"type": "session.created"')
    await connection.wait_closed()


@pytest.mark.parametrize("behaviour", [silent, half])
async def test_a_server_that_never_answers(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.2)
    async with server(behaviour) as far:
        with pytest.raises(EndpointUnreachable, match=r"within 0\.2 s") as raised:
            await open_session(far, SESSION)
        assert ("an answer that can be read (Realtime event ignored: " in str(raised.value)) == (behaviour is half)
        assert len(asyncio.all_tasks()) < 20


async def test_nothing_listens_at_the_address() -> None:
    async with server(agreeable) as far:
        gone = far
    with pytest.raises(EndpointUnreachable, match="no connection"):
        await open_session(gone, SESSION)


def deaf(checked: asyncio.Event) -> Callable[[ServerConnection], Awaitable[None]]:
    """Return a server that reads nothing once the session is configured, until that was `checked`."""

    async def behave(far: ServerConnection) -> None:
        await say(far, **CREATED)
        update = json.loads(await far.recv())
        await say(far, **updated(update["session"]))
        far.transport.pause_reading()
        await checked.wait()
        far.transport.abort()

    return behave


async def test_a_far_end_that_does_not_answer_a_close_keeps_nothing_open() -> None:
    checked = asyncio.Event()
    async with server(deaf(checked)) as far:
        session = await open_session(far, SESSION)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.close()
            assert session._connection.transport.is_closing()
        finally:
            checked.set()


async def test_a_far_end_that_reads_nothing_holds_no_close_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CLOSE_SECONDS", 0.05)

    checked = asyncio.Event()
    async with server(deaf(checked)) as far:
        session = await open_session(far, SESSION)
        try:
            async with asyncio.timeout(HANG_SECONDS):
                while session._connection.writable:
                    session._connection.write([bytes(100_000)])
                    await asyncio.sleep(0)
                await session.close()
            assert session._connection.transport.is_closing()
        finally:
            checked.set()


# --- openings that are not OpenAI's ---


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANNOUNCED_SECONDS", "ACKNOWLEDGED_SECONDS", "REFUSED_SECONDS"):
        monkeypatch.setattr(negotiation, name, 0.02)


async def test_a_server_that_waits_to_be_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def waits(connection: ServerConnection) -> None:
        await say(connection, type="conversation.created", conversation={"id": "c"})
        await say(connection, **updated(json.loads(await connection.recv())["session"]))
        await connection.wait_closed()

    async with server(waits) as far:
        session = await open_session(far, SESSION)
        assert session.effective["instructions"] == "Be brief."
        assert session.dropped == ()
        await session.close()


@pytest.mark.parametrize("late", ["session.updated", "a refusal", "a refused key", "nothing"])
async def test_a_server_that_acknowledges_late_or_never(monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    quick(monkeypatch)
    again: list[Any] = []

    async def slow(connection: ServerConnection) -> None:
        await say(connection, **CREATED)
        update = json.loads(await connection.recv())
        await opened.wait()
        await connection.send("no event")
        if late == "session.updated":
            await say(connection, **updated({"input_audio_format": "pcm16", "output_audio_format": "pcm16"}))
        elif late == "nothing":
            await say(connection, type="response.created", response={"id": "r"})
        else:
            code = "invalid_value" if late == "a refusal" else "invalid_api_key"
            error = {"code": code, "param": "session.audio.output.voice", "event_id": update["event_id"]}
            await say(connection, type="error", error={**error, "message": "no"})
            again.append(json.loads(await connection.recv()))
            await say(connection, **updated(again[0]["session"]))
        await say(connection, type="response.output_audio.delta", response_id="r", item_id="i", delta="A" * 640)
        await connection.wait_closed()

    opened = asyncio.Event()
    async with server(slow) as far:
        session = await open_session(far, SESSION)
        reader = Reader(session)
        assert "no session.updated came within 0.02 s" in session.dropped[0]
        opened.set()
        assert await reader.next() == b"no event"
        if late == "a refused key":
            with pytest.raises(EndpointRefused, match="invalid_api_key: no"):
                await reader.next()
        else:
            received = [await reader.next() for _ in range(3 if late == "a refusal" else 2)]
            heard = session.decode(received[-1])
            assert isinstance(heard, AudioDelta)
            assert len(heard.delta) == (108 if late == "session.updated" else 640)  # 480 bytes of PCM are 80 of µ-law
            await session.close()
    assert ["voice" in update["session"]["audio"]["output"] for update in again] == [False] * (late == "a refusal")


async def test_pcm_from_a_server_that_never_said_what_it_speaks_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    recording = sorted((Path(__file__).parents[1] / "data").glob("*.wav"))[0].read_bytes()
    pcm = ToPcm().feed(recording[recording.index(b"data") + 8 :])
    pieces = [base64.b64encode(pcm[start : start + 9600]).decode() for start in range(0, len(pcm) - 9600, 9600)]

    async def speaks_pcm(connection: ServerConnection) -> None:
        await say(connection, **CREATED)
        await connection.recv()
        await opened.wait()
        for delta in pieces:
            await say(connection, type="response.output_audio.delta", response_id="r", item_id="i", delta=delta)
        await connection.wait_closed()

    told, sizes, opened = [], [], asyncio.Event()
    async with server(speaks_pcm) as far:
        session = await open_session(far, SESSION)
        reader = Reader(session)
        opened.set()
        for _ in pieces:
            try:
                event = session.decode(await reader.next())
                assert isinstance(event, AudioDelta)
                sizes.append(len(base64.b64decode(event.delta)))
            except ProtocolError as error:
                told.append(str(error))
        await session.close()
    assert len(told) == 1
    assert "audio is converted from here on" in told[0]
    assert (sizes[0], sizes[-1]) == (9600, 1600)


async def test_what_a_server_refused_is_not_sent_to_it_later() -> None:
    async def picky(connection: ServerConnection) -> None:
        await say(connection, **CREATED)
        first = json.loads(await connection.recv())
        error = {"code": "invalid_value", "message": "no", "param": "session.tools[0].name"}
        await say(connection, type="error", error={**error, "event_id": first["event_id"]})
        await say(connection, **updated(json.loads(await connection.recv())["session"]))
        async for message in connection:
            await connection.send(message)

    tools = [{"type": "function", "name": name} for name in ("bad", "good")]
    async with server(picky) as far:
        session = await open_session(far, {**SESSION, "tools": tools})
        reader = Reader(session)
        assert session.dropped == ("the tool bad (invalid_value: no)",)
        session.write([SessionUpdate(event_id="agent_1", session={"type": "realtime", "tools": tools})])
        assert json.loads(await reader.next())["session"]["tools"] == tools[1:]
        await session.close()


async def test_a_known_server_gets_its_own_session_and_a_new_key_each_time() -> None:
    asked: list[tuple[str, Any]] = []

    async def inworld(connection: ServerConnection) -> None:
        assert connection.request is not None
        await say(connection, **CREATED)
        update = json.loads(await connection.recv())
        asked.append((connection.request.path, update["session"]))
        await say(connection, **updated({}))
        await connection.wait_closed()

    async with server(inworld) as far:
        url = far.url.split("?")[0]
        for _ in range(2):
            session = await open_session(Endpoint.preset("inworld", "some/model", url=url), SESSION)
            assert session.dropped == ()
            await session.close()
    paths, sessions = zip(*asked, strict=True)
    assert len(set(paths)) == 2
    assert all(path.startswith("/v1/realtime?protocol=realtime&key=") for path in paths)
    assert sessions[0]["model"] == "some/model"
    assert "voice" not in sessions[0]["audio"]["output"]


# --- what a server answered, when an opening fails ---


async def answers(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> tuple[str, tuple[str, ...]]:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    async with server(behaviour) as far:
        with pytest.raises(EndpointError) as raised:
            await open_session(replace(far, headers={"Authorization": "Bearer s3cret-t0ken"}), SESSION)
    return str(raised.value), raised.value.answered


async def test_the_answers_are_kept_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talks(connection: ServerConnection) -> None:
        await say(connection, type="conversation.created", conversation={})
        await say(connection, **CREATED)
        await connection.send("[]")
        error = {"code": "odd", "message": "s3cret-t0ken\n is odd", "param": "item.id"}
        await say(connection, type="error", error=error)
        await connection.close(1000, "bye")

    words, answered = await answers(talks, monkeypatch)
    assert words == "the model closed the session with 1000 bye, after the error odd: … is odd"
    assert answered == (
        "the WebSocket's handshake",
        "conversation.created",
        "session.created",
        "something that is not an event",
        "error (odd, about item.id, … is odd)",
        "a close with 1000",
    )


async def test_a_server_that_talks_without_end_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talks(connection: ServerConnection) -> None:
        for _ in range(30):
            await say(connection, type="error", error={"type": "odd"})
        connection.transport.abort()

    _, answered = await answers(talks, monkeypatch)
    assert answered[1:] == ("error (odd)",) * connection.MAX_ANSWERS + (f"{31 - connection.MAX_ANSWERS} more",)


async def test_a_silent_server_answered_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    words, answered = await answers(silent, monkeypatch)
    assert "within 0.3 s, still waiting for its answer" in words
    assert answered == ("the WebSocket's handshake",)


# --- headers, tokens, and what a refusal says ---


CALL = Call(sid="CA" + "1" * 32, caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


async def headers_at(far: Endpoint, call: Call | None = None, **changes: Any) -> dict[str, str]:
    """Open a session and return the headers it was opened with."""
    seen: dict[str, str] = {}

    async def note(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.update(connection.request.headers.raw_items())
        await agreeable(connection)

    async with server(note) as running:
        session = await open_session(replace(far, url=running.url, **changes), SESSION, call)
        await session.close()
    return seen


async def test_a_session_tells_of_its_call() -> None:
    far = Endpoint("ws://x", {"X-Key": "k"}, call_headers={"X-Call": "{call_sid}", "X-Who": "{caller}"})
    told = await headers_at(far, CALL, pseudonym_key=b"secret")
    assert (told["X-Key"], told["X-Call"], len(told["X-Who"])) == ("k", CALL.sid, 32)
    assert not {"X-Call", "X-Who"} & (await headers_at(far)).keys()


async def test_a_token_is_fetched_for_each_session() -> None:
    tokens = iter(["first", "second", "third"])

    async def asynchronous() -> str:
        return next(tokens)

    def plain() -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()  # it may block: it is not called on the loop
        return next(tokens)

    async def later() -> str:
        return next(tokens)

    providers: list[TokenProvider] = [asynchronous, plain, lambda: later()]
    told = [(await headers_at(Endpoint("ws://x", token=each)))["Authorization"] for each in providers]
    assert told == ["Bearer first", "Bearer second", "Bearer third"]


def broken() -> str:
    raise OSError("no such tenant: s3cret")


@pytest.mark.parametrize(
    ("provider", "kind", "words"),
    [
        (broken, EndpointUnreachable, "token provider failed: OSError"),
        (lambda: "two words", EndpointRefused, "no token"),
        (lambda: None, EndpointRefused, "no token"),
        (lambda: "", EndpointRefused, "no token"),
    ],
)
async def test_a_provider_that_gives_none(provider: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as raised:
        await open_session(Endpoint("ws://127.0.0.1:1", token=provider), SESSION)
    assert "s3cret" not in str(raised.value)


async def test_a_provider_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.05)
    with pytest.raises(EndpointUnreachable, match="still waiting for its token provider"):
        await open_session(Endpoint("ws://127.0.0.1:1", token=never), SESSION)


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (429, {"error": {"code": "insufficient_quota", "message": "s3cret"}}, EndpointRefused, "insufficient_quota"),
        (429, {"error": {"code": "rate_limit_exceeded"}}, EndpointUnreachable, "429"),
        (404, {"error": {"code": "DeploymentNotFound"}}, EndpointRefused, "404"),
        (503, {"error": "s3cret"}, EndpointUnreachable, "503"),
        (503, {"error": {"code": "s3cret-1"}}, EndpointUnreachable, "503"),
    ],
)
async def test_a_refusal_s_own_code(status: int, body: Any, kind: type[EndpointError], code: str) -> None:
    remedies = {"insufficient_quota": "pay", "429": "wait", "404": "look", "503": "wait"}
    async with server(agreeable, refuse=HTTPStatus(status), body=json.dumps(body)) as far:
        with pytest.raises(kind, match=f"HTTP {status}.*: {remedies[code]}$") as raised:
            await open_session(replace(far, remedies=remedies), SESSION)
    assert raised.value.code == code
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("code", "kind"), [("server_error", EndpointUnreachable), ("rate_limit_exceeded", EndpointUnreachable),
                       ("model_not_found", EndpointRefused)]
)  # fmt: skip
async def test_a_refusal_in_place_of_a_session(code: str, kind: type[EndpointError]) -> None:
    async def refuses(connection: ServerConnection) -> None:
        await say(connection, type="error", error={"code": code, "message": "no"})
        await connection.wait_closed()

    async with server(refuses) as far:
        with pytest.raises(kind, match=f"{code}: no: a remedy$"):
            await open_session(replace(far, remedies={code: "a remedy"}), SESSION)


async def test_a_far_end_s_words_are_one_line_and_repeat_no_key() -> None:
    words = "Incorrect API key provided:\n\tsk-ab***yz, or s3cret-t0ken.\x1b[31m " + "blah " * 500

    async def refuses(connection: ServerConnection) -> None:
        await say(connection, type="error", error={"code": "invalid_api_key", "message": words})
        await connection.wait_closed()

    async def closes(connection: ServerConnection) -> None:
        await connection.close(1008, words[:90])

    for behaviour in (refuses, closes):
        async with server(behaviour) as far:
            with pytest.raises(EndpointRefused, match="key provided: …, or …") as raised:
                await open_session(replace(far, headers={"Authorization": "Bearer s3cret-t0ken."}), SESSION)
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 600


async def test_pcm_that_is_said_to_be_pcmu_is_told_once() -> None:
    noise = Random(1)
    pcm = b"".join(noise.randrange(-3000, 3000).to_bytes(2, "little", signed=True) for _ in range(12_000))

    async def speaks_noise(connection: ServerConnection) -> None:
        await say(connection, **CREATED)
        await connection.recv()
        await say(connection, **updated({"audio": {"output": {"format": {"type": "audio/pcmu"}}}}))

    def delta(audio: bytes) -> bytes:
        fields = {"response_id": "r1", "item_id": "i1", "delta": base64.b64encode(audio).decode()}
        return json.dumps({"type": "response.output_audio.delta", **fields}).encode()

    async with server(speaks_noise) as far:
        session = await open_session(far, SESSION)
        with pytest.raises(ProtocolError, match=r"the caller hears noise: .*REALTIME_AUDIO=pcm16"):
            session.decode(delta(pcm))
        assert isinstance(session.decode(delta(pcm)), realtime.AudioDelta)
        await session.close()


async def test_a_key_is_hidden_when_a_running_session_is_closed_too() -> None:
    key, in_address = "a-gateway-key-1234", "an-address-key-5678"

    async def revokes(connection: ServerConnection) -> None:
        await say(connection, **CREATED)
        await connection.recv()
        await say(connection, **updated({"audio": {"output": {"format": {"type": "audio/pcmu"}}}}))
        await connection.close(1011, f"{key} and {in_address} were revoked")

    async with server(revokes) as far:
        url = f"{far.url}{'&' if '?' in far.url else '?'}key={in_address}"
        with_keys = replace(far, url=url, headers={"Authorization": f"Bearer {key}"})
        session = await open_session(with_keys, SESSION)
        reader = Reader(session)
        with pytest.raises(EndpointUnreachable, match="revoked") as closed:
            await reader.next()
        await session.close()
    assert key not in str(closed.value)
    assert in_address not in str(closed.value)
