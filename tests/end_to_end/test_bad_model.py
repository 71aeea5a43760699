"""A far end that is none, or no good: the caller hears an apology, the record says why, no other call is touched."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Agent, Call, CallEnded, Endpoint, ToolCalled, Trouble, tool
from phoneagent.bridge import renewal
from phoneagent.model import connection
from phoneagent.sim import Faults, Line, Model
from phoneagent.sim.model.server import SimulatedSession
from phoneagent.sim.model.service import ANY, AZURE, AZURE_PREVIEW, OPENAI
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import World, Worlds
from tests.end_to_end.test_endpoints import Running

pytestmark = pytest.mark.anyio
VOICE = Murmur()
KEY, WRONG = "sk-the-right-key", "sk-another-key"
AGENT = Agent(instructions="x", greeting="Hello!")
APOLOGY = resources.files("phoneagent").joinpath("calls/apology.ulaw").read_bytes()
SCRIPT = 'default = "I am still here."'

Misbehaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 2.0)
    monkeypatch.setattr(renewal, "PATIENCE_SECONDS", 1.0)


@dataclass
class Gateway:
    """A way to a model that leads elsewhere from some moment on: to another one, or into nothing."""

    to: Model | Misbehaviour
    taken: int = 0
    url: str = ""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        try:
            if isinstance(self.to, Model):
                await self._pass_on(self.to, reader, writer)
            else:
                await reader.readuntil(b"\r\n\r\n")
                await self.to(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    @staticmethod
    async def _pass_on(model: Model, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = re.search(r":(\d+)/", model.url)
        assert port is not None
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(port[1]))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        with suppress(OSError):
            await far_writer.wait_closed()


@asynccontextmanager
async def gateway(to: Model) -> AsyncIterator[Gateway]:
    made = Gateway(to)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield made


# --- what a far end does in place of a session ---


def page(status: str) -> Misbehaviour:
    body = "<!DOCTYPE html><html><body><h1>An error has occurred.</h1></body></html>" * 100

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        await reader.read()

    return answer


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        writer.write(b"<p>")
        await writer.drain()
        await asyncio.sleep(0.01)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


def faulty(service: Any = ANY, **faults: Any) -> Model:
    return Model(api_key=KEY, service=service, faults=Faults(**faults))


def openai(url: str) -> Endpoint:
    return Endpoint.openai(KEY, base_url=f"{url}/v1")


def azure(url: str) -> Endpoint:
    return Endpoint.azure(url, "talk", api_key=KEY)


def preview(url: str) -> Endpoint:
    return Endpoint.azure(url, "talk", api_key=KEY, preview="2025-04-01-preview")


def compatible(url: str) -> Endpoint:
    return Endpoint.gateway(url, "talk", api_key=KEY)


@dataclass
class Bad:
    """A far end that fails, who it is thought to be, and what the record says of it."""

    who: Callable[[str], Endpoint]
    far: Model | Misbehaviour
    reason: str
    service: Any = ANY
    tries: int | None = 1
    """How often it is tried; None for as long as the caller's patience lasts."""


def bad() -> dict[str, Bad]:
    denied, page_there = "refused the model session with HTTP 401 invalid_api_key: check", "a web page is there, and no"
    unknown, nothing = "refused the model session with HTTP 404 DeploymentNotFound: check", "no model session at 127"
    return {
        "wrong key, OpenAI": Bad(openai, Model(api_key=WRONG, service=OPENAI), f"{denied} OPENAI_API_KEY", OPENAI),
        "wrong key, Azure": Bad(azure, Model(api_key=WRONG, service=AZURE), f"{denied} AZURE_OPENAI_API_KEY", AZURE),
        "wrong key, gateway": Bad(compatible, Model(api_key=WRONG), f"{denied} REALTIME_API_KEY"),
        "wrong model, OpenAI": Bad(
            openai,
            faulty(OPENAI, refuse_models={"gpt-realtime-2.1"}),
            "model_not_found: .*: check OPENAI_MODEL",
            OPENAI,
        ),
        "wrong model, gateway": Bad(
            compatible, faulty(refuse_models={"talk"}), "model_not_found: .*check OPENAI_MODEL"
        ),
        "wrong deployment": Bad(
            azure, faulty(AZURE, refuse_models={"talk"}), f"{unknown} AZURE_OPENAI_DEPLOYMENT", AZURE
        ),
        "wrong deployment, preview": Bad(
            preview, faulty(AZURE_PREVIEW, refuse_models={"talk"}), f"{unknown} AZURE_OPENAI_DEPLOYMENT", AZURE_PREVIEW
        ),
        "no answer at all": Bad(compatible, silence, f"{nothing}.*for its answer: check that a Realtime", tries=None),
        "a session that says nothing": Bad(
            compatible, faulty(stall_after_seconds=0.0), f"{nothing}.*its answer", tries=None
        ),
        "a page, 200": Bad(compatible, page("200 OK"), f"HTTP 200: {page_there}.*check REALTIME_URL", tries=None),
        "a page, 302": Bad(azure, page("302 Found"), f"HTTP 302: {page_there}.*AZURE_OPENAI_ENDPOINT", tries=None),
        "a page, 502": Bad(openai, page("502 Bad Gateway"), "refused the model session with HTTP 502$", tries=None),
        "a page without end": Bad(compatible, endless_page, nothing, tries=None),
        "a closed door": Bad(compatible, hang_up, "no connection to the model at 127.0.0.1: ", tries=None),
    }


async def heard_an_answer(line: Line) -> None:
    await line.say(VOICE.render("Are you still there?"))
    await line.wait_for_agent(ms=200)


async def one_bad_call(world: Worlds, each: Bad, store: Store, done: asyncio.Barrier) -> None:
    """Have a call under way when the far end goes bad, and another one that begins then."""
    async with Model(SCRIPT, api_key=KEY, service=each.service) as model, gateway(model) as way:
        far = each.who(way.url)
        async with world(AGENT, model=Running(model), endpoint=far, store=store) as w:
            async with w.phone().dial() as good:
                await good.wait_for_silence(ms=100)
                way.to, way.taken = each.far, 0
                async with w.phone().dial() as line:
                    await line.wait_ended(20)
                assert line.violations == []
                assert APOLOGY in bytes(line.received)
                assert way.taken == each.tries or (each.tries is None and 1 <= way.taken < 10)
                await heard_an_answer(good)
                await w.until(lambda: w.of(CallEnded))
                (ended,) = w.of(CallEnded)
                await store.flush()
                record = await store.call(line.call_sid)
                assert record is not None
                assert (record.ended_by, record.reason) == ("error", ended.reason)
                assert re.search(each.reason, ended.reason), ended.reason
                assert KEY not in ended.reason
                assert "\n" not in ended.reason
            await done.wait()  # each world looks for what is left in the whole process
        assert model.violations == []


@pytest.mark.parametrize("half", [0, 1])
async def test_whatever_is_there_in_place_of_a_session(world: Worlds, tmp_path: Path, half: int) -> None:
    stores = {}
    for number, name in list(enumerate(bad()))[half::2]:
        stores[name] = Store.from_url(f"sqlite:///{tmp_path}/{number}.db")
        await stores[name].settle("CA0", ended_by="line", reason="")  # makes the tables: only one may do so at a time
    done = asyncio.Barrier(len(stores))
    async with asyncio.TaskGroup() as calls:
        for name, store in stores.items():
            calls.create_task(run_bad(world, bad()[name], store, done), name=name)


async def run_bad(world: Worlds, each: Bad, store: Store, done: asyncio.Barrier) -> None:
    async with each.far if isinstance(each.far, Model) else nullcontext():
        await one_bad_call(world, each, store, done)


# --- a session that goes bad during the call ---


def halve(session: SimulatedSession, kind: str) -> list[bytes]:
    """Send only the first half of the session's next event of a kind; returns where that is kept."""
    put, halved = session._wire.put, list[bytes]()

    def maybe(raw: bytes) -> None:
        if not halved and f'"type":"{kind}"'.encode() in raw:
            halved.append(raw)
            raw = raw[: len(raw) // 2]
        put(raw)

    session._wire.put = maybe  # type: ignore[method-assign]
    return halved


HALVES = [
    "input_audio_buffer.committed",
    "response.created",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_item.done",
    "response.done",
]
BY_CALL = Agent(instructions=lambda call: call.sid, greeting="Hello!")


async def session_of(w: World, line: Line) -> SimulatedSession:
    """Return the open model session of a call, once it is configured."""

    def find() -> SimulatedSession | None:
        open_ = [each for each in w.model.sessions if not each.closed]
        return next((each for each in open_ if each.session["instructions"] == line.call_sid), None)

    found: SimulatedSession = await w.until(find)
    return found


async def test_half_of_an_event_costs_an_answer_at_most(world: Worlds) -> None:
    async def one(w: World, kind: str) -> None:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=200)
            session = await session_of(w, line)
            halved = halve(session, kind)
            await line.say(VOICE.render("Hello?"))
            await w.until(lambda: halved)
            await line.wait_for_silence(ms=300)
            await heard_an_answer(line)
            assert not session.closed, kind

    async with world(BY_CALL, SCRIPT) as w:
        await asyncio.gather(*(one(w, kind) for kind in HALVES))
        await w.until(lambda: len(w.of(CallEnded)) == len(HALVES))
        assert len(w.of(Trouble)) == len(HALVES)
        assert {each.what for each in w.of(Trouble)} == {"Realtime event ignored: it is not JSON"}
        assert {each.ended_by for each in w.of(CallEnded)} == {"caller"}


async def test_a_session_that_ends_in_mid_tool(world: Worlds) -> None:
    runs: list[str] = []
    release = defaultdict[str, asyncio.Event](asyncio.Event)

    @tool
    async def book(call: Call) -> str:
        """Book."""
        runs.append(call.sid)
        await release[call.sid].wait()
        return "Booked, number 7."

    async def one(w: World, code: int | None) -> None:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=200)
            await line.say(VOICE.render("Book it."))
            await w.until(lambda: line.call_sid in runs)
            first = await session_of(w, line)
            await w.until(lambda: first.responses[-1].done_at)  # it ends a moment after the call, as at OpenAI
            await first.drop(code)
            second = await w.until(lambda: first.closed) and await session_of(w, line)
            release[line.call_sid].set()
            await w.until(lambda: second.said == ["Booked, number 7."])
            await line.wait_for_silence(ms=100)
            assert second is not first
            assert ("function_call_output", "Booked, number 7.") in second.told

    script = '[[turn]]\ncaller = "Book it."\ncall = "book"\nthen = "{output}"\n'
    async with world(replace(BY_CALL, tools=[book]), script) as w, w.phone().dial() as other:
        await other.wait_for_silence(ms=100)
        untouched = await session_of(w, other)
        await asyncio.gather(*(one(w, code) for code in (None, 1000, 1001, 1011)))
        assert len(runs) == len(set(runs)) == 4
        assert not untouched.closed
        await w.until(lambda: len(w.of(CallEnded)) >= 4)
        assert other.call_sid not in [each.call_sid for each in w.of(CallEnded)]
        assert {each.ended_by for each in w.of(CallEnded)} == {"caller"}
        assert w.model.violations == []


async def test_a_tool_outlives_the_last_session_and_is_on_record(world: Worlds, tmp_path: Path) -> None:
    release = asyncio.Event()

    @tool
    async def book() -> str:
        """Book."""
        await release.wait()
        return "Booked."

    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    script = '[[turn]]\ncaller = "Book it."\ncall = "book"\nthen = "{output}"\n'
    async with Model(script) as model, gateway(model) as way:
        agent = Agent(instructions="x", tools=[book])
        async with world(agent, model=Running(model), endpoint=compatible(way.url), store=store) as w:
            async with w.phone().dial() as line:
                await line.say(VOICE.render("Book it."))
                await w.until(lambda: w.of(ToolCalled))
                way.to = page("502 Bad Gateway")
                await model.sessions[0].drop()
                await line.wait_ended(20)
            assert APOLOGY in bytes(line.received)
            release.set()
            await w.until(lambda: not w.app.unfinished)
            await store.flush()
            record = await store.call(line.call_sid)
            assert record is not None
            assert (record.ended_by, [each.output for each in record.tools]) == ("error", ["Booked."])
