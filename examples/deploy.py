"""Watch calls survive a crash and a deploy: `python examples/deploy.py`, with no account, no key and no network.

Two servers answer with this file's agent and share one database. While callers listen, server A is killed in
mid-sentence and started again. Then server B is asked to end, as in a deploy. Each call is drawn as a line of letters,
the name of the server that carries it: a capital while the agent is heard, a dot while no server has the call.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from phoneagent import Agent, Call, PhoneApp, tool
from phoneagent.sim import CallFailed, Line, Model, Phone, Script
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur

ACCOUNT, TOKEN, PUBLIC = "AC" + "0" * 32, "a-token-for-this-show", "https://agent.example"
TURN = '[[turn]]\nheard = "read"\ncaller = "Please read to me."\ncall = "next_page"\nthen = "{output}"\n'
SCRIPT = 'default = "Sorry, I have missed your last words. Where were we?"\n' + 30 * TURN


@tool
def next_page() -> str:
    """Return the next page of tonight's story."""
    return "The telephone rang, and nobody in the house moved. " * 3


def instructions(call: Call) -> str:
    return f"You read to callers. {call.sid} is answered by server {os.environ.get('SERVER')}"


app = PhoneApp(Agent(instructions=instructions, greeting="The story line, good evening!", tools=[next_page]))


class Server:
    """One `phoneagent serve` of this file."""

    def __init__(self, name: str, folder: Path, model: Model) -> None:
        self.log, self.port = folder / f"{name}.log", 0
        twilio = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN, "PUBLIC_URL": PUBLIC, "SERVER": name}
        ours = {"DATABASE_URL": f"sqlite:///{folder}/calls.db", "REALTIME_URL": model.url, "DRAIN_SECONDS": "5"}
        self.environment = {**os.environ, **twilio, **ours, "PHONEAGENT_ENV_FILE": "", "WEB_CONCURRENCY": "1"}

    async def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "phoneagent", "serve", __file__, "--host", "127.0.0.1", "--port", str(port)]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(*command, env=self.environment, stdout=log, stderr=log)
        while self.process.returncode is None and self.port != port:
            with suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                self.port = port
            await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


async def route(servers: list[Server], near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    """Pass a connection to the next server that accepts it, as a platform's router does."""
    servers.append(servers.pop(0))
    for server in list(servers):
        with suppress(OSError):
            far, there = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(pump(near, there), pump(far, back))
            return
    back.close()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def listen(line: Line, pause_ms: int) -> None:
    """Ask for one page after another, whatever happens in between."""
    wish = Murmur(pitch_hz=120).render("Please read to me.")
    while line.ended_by is None:
        with suppress(CallFailed):
            with suppress(TimeoutError):  # no answer: the words were lost on the way, so say them again
                await line.wait_for_agent(timeout=3)
                await line.wait_for_silence(ms=pause_ms, timeout=20)
            await line.say(wish)
        await asyncio.sleep(0.1)


async def draw(lines: list[Line], model: Model, live: Live) -> None:
    strips = [Text(f"call {number}  ") for number in range(1, len(lines) + 1)]
    while True:
        for line, strip in zip(lines, strips, strict=True):
            heard = [each.session["instructions"] for each in model.sessions if each.audio_items]
            server = next((each[-1] for each in reversed(heard) if line.call_sid in each), "?")
            sign = "x" if line.ended_by else "·" if line.stream is None else server if line.playing else server.lower()
            strip.append(sign, "green" if server == "A" else "blue")
        live.update(Text("\n").join(strips))
        await asyncio.sleep(0.5)


async def happen(a: Server, b: Server, console: Console) -> None:
    console.print("three calls, all of them on A")
    await asyncio.sleep(4)
    console.print("A is killed")
    await a.end(signal.SIGKILL)
    await a.start()
    await asyncio.sleep(5)
    console.print("A is back. B is asked to end: it hands its calls over, during a silence if one comes in time")
    console.print(f"B has ended with status {await b.end(signal.SIGTERM)}")
    await asyncio.sleep(6)


async def show(console: Console) -> int:
    """Return how many calls were lost."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = await stack.enter_async_context(Model(Script.parse(SCRIPT), vad=EnergyGate))
        a, b = (Server(name, folder, model) for name in "AB")
        await a.start()
        stack.push_async_callback(a.end, signal.SIGKILL)
        router = await asyncio.start_server(partial(route, [a, b]), "127.0.0.1", 0)
        stack.callback(router.close)
        url = f"http://127.0.0.1:{router.sockets[0].getsockname()[1]}/twilio/voice"
        phone = Phone(url, auth_token=TOKEN, public_url=PUBLIC, account_sid=ACCOUNT)
        lines = [await stack.enter_async_context(phone.dial()) for _ in range(3)]
        await b.start()
        stack.push_async_callback(b.end, signal.SIGKILL)
        listening = [listen(line, pause_ms) for line, pause_ms in zip(lines, (500, 1500, 2500), strict=True)]
        for work in (draw(lines, model, stack.enter_context(Live(console=console))), *listening):
            stack.callback(asyncio.create_task(work).cancel)
        await happen(a, b, console)
        lost = sum(line.ended_by is not None for line in lines)
        console.print(f"{len(lines)} calls, {lost} lost")
    return lost


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(show(Console())) else 0)
