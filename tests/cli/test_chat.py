"""`phoneagent chat`: a conversation through a pipe, as a process of its own, against the simulated model."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace

import pytest

from phoneagent.cli import chat as command
from phoneagent.sim import Faults, Model, Script
from phoneagent.sim.model.service import ANY_BETA
from tests import forks
from tests.patience import HANG_SECONDS
from tests.sim.model.chat_server import ChatServer, called, chat_server, said

pytestmark = pytest.mark.anyio

APP = '''
import time
from pathlib import Path
from pydantic import BaseModel
from phoneagent import Agent, Call, McpServer, PhoneApp, ToolError, Turns, hang_up, tool

@tool
async def book_table(call: Call, guests: int) -> str:
    """Book a table."""
    call.add("The table is by the window.")
    return f"Booked for {guests}."

@tool
def fails(call: Call) -> str:
    """Fail."""
    raise ToolError("the \\x1b[31moven is cold")

@tool
def breaks(name: str) -> str:
    """Break."""
    return {}[name]

@tool
async def taxi(call: Call) -> str:
    """Call a taxi."""
    call.hang_up(goodbye=False)
    return "It comes."

paid = 0

@tool(once=True)
async def pay(amount: float) -> str:
    """Pay."""
    global paid
    paid += 1
    return f"Payment {paid} of {amount}."

@tool
def slow() -> str:
    """Take long."""
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return "It is done."

def choose(call: Call) -> Agent:
    if call.called == "+15550100009":
        return Agent(name="cafe", instructions="You serve coffee.")
    return host

class Bill(BaseModel):
    month: str
    paid: bool = False

billing = Agent(name="billing", instructions="You do bills.", voice="cedar", outcome=Bill)
host = Agent(
    name="host", instructions="You book tables.", greeting="Good evening!",
    tools=[book_table, fails, breaks, taxi, pay, slow, hang_up, McpServer("shop", "https://shop.example")],
    turns=Turns(idle_timeout_ms=5000), handoffs=[billing],
)
app = PhoneApp(choose)
'''
SCRIPT = """
default = "I see."
[[turn]]
heard = "table"
say = "Let me see."
call = "book_table"
arguments = { guests = 4 }
then = "Done. {output}"
[[turn]]
heard = "pizza"
call = "fails"
arguments = {}
then = "Sorry."
[[turn]]
heard = "taxi"
call = "taxi"
arguments = {}
[[turn]]
heard = "pay 10.0"
call = "pay"
arguments = { amount = 10.0 }
[[turn]]
heard = "pay"
call = "pay"
arguments = { amount = 10 }
[[turn]]
heard = "long"
call = "slow"
arguments = {}
[[turn]]
heard = "bill"
call = "hand_off_to_billing"
arguments = {}
then = "Which bill?"
[[turn]]
heard = "bye"
say = "Goodbye!"
call = "hang_up"
arguments = {}
"""
OWN = ("TWILIO", "OPENAI", "AZURE", "REALTIME", "HELICONE", "PHONEAGENT", "PUBLIC_URL", "DATABASE_URL")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(APP, encoding="utf-8")
    (tmp_path / "script.toml").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


async def chat(folder: Path, *arguments: str, lines: str = "", **environment: str) -> tuple[int, list[str], str]:
    """Run it to its end; return its status, the lines it wrote, and what it wrote to standard error."""
    neutral = {name: value for name, value in os.environ.items() if not name.upper().startswith(OWN)}
    read, write = os.pipe()
    os.write(write, lines.encode())
    os.close(write)
    return await ran(folder, *arguments, stdin=read, env={**neutral, "PHONEAGENT_ENV_FILE": "", **environment})


async def ran(folder: Path, *arguments: str, stdin: int, env: dict[str, str]) -> tuple[int, list[str], str]:
    with os.fdopen(stdin, "rb") as given, TemporaryFile() as out, TemporaryFile() as err:
        process = await forks.start(["chat", *arguments], cwd=folder, env=env, stdin=given, stdout=out, stderr=err)
        try:
            async with asyncio.timeout(HANG_SECONDS):
                status = await process.wait()
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return status, out.read().decode().splitlines(), err.read().decode()


async def test_a_conversation_through_a_pipe(folder: Path) -> None:
    async with Model(Script.parse(SCRIPT), api_key="sk-key") as model:
        lines = "Hello?\n\n  A table, please.  \nbye\nnobody reads this\n"
        status, out, err = await chat(folder, lines=lines, REALTIME_URL=model.url, REALTIME_API_KEY="sk-key")
        assert (status, err) == (0, "")
        assert out == [
            "host at 127.0.0.1",
            "Ctrl-D or /quit ends the conversation.",
            "host: Good evening!",
            "you: Hello?",
            "host: I see.",
            "you: ",
            "you:   A table, please.  ",
            "host: Let me see.",
            'tool: book_table {"guests": 4}',
            "tool: book_table → Booked for 4.",
            "host: Done. Booked for 4.",
            "you: bye",
            "host: Goodbye!",
            "tool: hang_up {}",
            "tool: hang_up → The call ends as soon as the caller has heard your goodbye.",
        ]
        (session,) = model.sessions
        assert session.session["output_modalities"] == ["text"]
        assert session.session["audio"]["input"]["turn_detection"] is None
        assert session.session["instructions"] == "You book tables."
        assert [call.output for call in session.tool_calls][:1] == ["Booked for 4."]
        assert "The table is by the window." in [
            item["content"][0]["text"] for item in session.brought if "role" in item
        ]
        assert model.violations == []
        assert model.races == []


async def test_a_beta_server_is_written_to_as_well(folder: Path) -> None:
    async with Model(Script.parse(SCRIPT), service=ANY_BETA) as model:
        status, out, err = await chat(
            folder, lines="A table!\n", REALTIME_URL=model.url, REALTIME_DIALECT="beta", REALTIME_API_KEY="sk"
        )
        assert (status, err) == (0, "")
        assert out[-1] == "host: Done. Booked for 4."
        assert model.sessions[0].dialect == "beta"
        assert model.violations == []


async def test_without_a_key_it_is_the_simulated_model_and_says_so(folder: Path) -> None:
    status, out, err = await chat(folder, "main.py", lines="Hello!\n/quit\nnobody reads this\n")
    assert (status, err) == (0, "")
    assert out[0].startswith("This is the simulated model")
    assert out[0].endswith("OPENAI_API_KEY is not set.")
    assert out[-2] == "you: Hello!"
    assert out[-1].startswith("host: I am a simulated model, so I say what my script tells me")


async def test_without_a_script_each_tool_of_the_agent_runs_when_it_is_asked_for(folder: Path) -> None:
    status, out, err = await chat(folder, "main.py", lines="Please book a table.\n/quit\n")
    assert (status, err) == (0, "")
    assert "tool: book_table → Booked for 2." in out


async def test_the_next_agents_tools_run_too_when_they_are_asked_for(folder: Path) -> None:
    (folder / "team.py").write_text(
        "from phoneagent import Agent, PhoneApp, tool\n"
        "@tool\n"
        "def refund() -> str:\n"
        "    'Refund.'\n"
        "    return 'It is refunded.'\n"
        "billing = Agent(name='billing', instructions='You do bills.', tools=[refund])\n"
        "app = PhoneApp(Agent(name='host', instructions='You answer.', handoffs=[billing]))\n"
    )
    status, out, err = await chat(folder, "team.py", "--sim", lines="hand off to billing\nrefund\n")
    assert (status, err) == (0, "")
    assert "billing: You have been handed over. What can I do for you?" in out
    assert out[-2:] == ["tool: refund → It is refunded.", "billing: refund returned: It is refunded."]


async def test_a_tool_that_raises_is_one_line_with_the_users_own(folder: Path) -> None:
    (folder / "break.toml").write_text(
        '[[turn]]\nheard = "break"\ncall = "breaks"\narguments = { name = "x" }\nthen = "Hm."\n'
    )
    status, out, err = await chat(folder, "--script", "break.toml", lines="Break it.\n")
    assert (status, err) == (0, "")
    (line,) = [each for each in out if each.startswith("! ")]
    number = APP.splitlines().index("    return {}[name]") + 1
    assert line == f"! tool breaks failed: KeyError: 'x' (main.py, line {number})"


async def test_instructions_that_fail_are_shown_as_the_users_own_line(folder: Path) -> None:
    (folder / "bad.py").write_text(
        "from phoneagent import Agent, PhoneApp\n"
        "def say(call):\n"
        "    return call.nothing\n"
        "app = PhoneApp(Agent(name='a', instructions=say))\n"
    )
    status, _, err = await chat(folder, "bad.py", lines="/quit\n")
    assert status == 2
    assert "bad.py, line 3: AttributeError" in err
    assert len(err.splitlines()) <= 3


async def test_the_simulated_model_with_a_script_although_there_is_a_key(folder: Path) -> None:
    arguments = ("main:app", "--sim", "--script", "script.toml")
    status, out, err = await chat(folder, *arguments, lines="pizza", OPENAI_API_KEY="sk-x")
    assert (status, err) == (0, "")
    assert out[0].startswith("This is the simulated model")
    assert "OPENAI_API_KEY" not in out[0]
    assert out[-3:] == ["tool: fails {}", 'tool: fails → {"error":"the \\u001b[31moven is cold"}', "host: Sorry."]


async def test_the_agent_s_code_may_end_it(folder: Path) -> None:
    status, out, err = await chat(folder, "--script", "script.toml", lines="A taxi!\n")
    assert (status, err) == (0, "")
    assert out[-2:] == ["tool: taxi {}", "tool: taxi → It comes."]


async def test_one_agent_hands_over_to_another(folder: Path) -> None:
    async with Model(Script.parse(SCRIPT)) as model:
        status, out, err = await chat(folder, lines="My bill!\n", REALTIME_URL=model.url, REALTIME_API_KEY="sk")
        assert (status, err) == (0, "")
        assert out[-4:-3] == ["tool: hand_off_to_billing {}"]
        assert out[-2:] == ["billing: Which bill?", 'outcome: {"month": "example", "paid": false}']
        assert model.sessions[0].session["instructions"] == "You do bills."
        assert model.violations == []


async def test_what_acts_once_acts_once_here_too(folder: Path) -> None:
    status, out, err = await chat(folder, "--script", "script.toml", lines="I pay!\nI pay 10.0!\nI pay!\n")
    assert (status, err) == (0, "")
    assert [line for line in out if "→" in line] == ["tool: pay → Payment 1 of 10.0."] * 3


async def test_a_hosted_server_that_cannot_be_reached_is_told(folder: Path) -> None:
    async with Model(Script.parse(SCRIPT), faults=Faults(mcp_unreachable={"shop"})) as model:
        status, out, err = await chat(folder, lines="Hello?\n", REALTIME_URL=model.url, REALTIME_API_KEY="sk")
    assert (status, err) == (0, "")
    assert "! an MCP server could not be asked for its tools by the model's provider" in out


async def test_the_agent_may_depend_on_the_called_number(folder: Path) -> None:
    status, out, err = await chat(folder, "--sim", "--called", "+15550100009", lines="Hello!\n")
    assert (status, err) == (0, "")
    assert out[-1].startswith("cafe: I am a simulated model")


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (Faults(refuse_status=401), "refused the model session with HTTP 401 server_error: check REALTIME_API_KEY"),
        (Faults(fail_responses=9), "the model failed two responses in a row: server_error: start anew"),
        (Faults(drop_after_seconds=3.0), "the model's socket broke without a close: start anew"),
        (
            Faults(error_events=((3.0, {"type": "x", "code": "session_expired"}),)),
            "refused: session_expired: start anew",
        ),
        (
            Faults(error_events=((3.0, {"type": "x", "code": "model_not_found"}),)),
            "model_not_found: check OPENAI_MODEL",
        ),
    ],
    ids=["key", "responses", "socket", "time", "model"],
)
async def test_a_model_in_trouble_is_one_line(folder: Path, faults: Faults, words: str) -> None:
    async with Model(faults=faults) as model:
        read, write = os.pipe()  # a user who types nothing
        try:
            env = {**os.environ, "PHONEAGENT_ENV_FILE": "", "REALTIME_URL": model.url, "REALTIME_API_KEY": "sk-key"}
            status, _, err = await ran(folder, stdin=read, env=env)
        finally:
            os.close(write)
    assert status == 1
    (line,) = err.splitlines()
    assert words in line
    assert "sk-key" not in line


# --- how it ends ---


@asynccontextmanager
async def chatting(folder: Path, model: Model, stdin: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run it with somebody at the keyboard."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "phoneagent", "chat"),
        cwd=folder,
        env={**os.environ, "PHONEAGENT_ENV_FILE": "", "REALTIME_URL": model.url, "REALTIME_API_KEY": "sk-key"},
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(HANG_SECONDS):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def shown(process: asyncio.subprocess.Process, words: str) -> None:
    """Wait until it has written these words."""
    assert process.stdout is not None
    seen = ""
    while words not in seen:
        chunk = await process.stdout.read(4096)
        assert chunk, f"it ended with {seen}"
        seen += chunk.decode()


async def test_a_tool_is_finished_though_the_session_is_lost(folder: Path) -> None:
    read, write = os.pipe()
    async with Model(Script.parse(SCRIPT)) as model, chatting(folder, model, read) as process:
        os.write(write, b"It may take long.\n")
        await shown(process, "tool: slow {}")
        while not (folder / "begun").exists():
            await asyncio.sleep(0.01)
        model.sessions[0].kill()
        await model.wait_for(lambda: model.sessions[0].closed)
        (folder / "go").touch()
        out, err = await process.communicate()
    os.close(read)
    os.close(write)
    assert out.decode().splitlines() == ["tool: slow → It is done."]
    assert err.decode() == "phoneagent: the model's socket broke without a close: start anew\n"
    assert process.returncode == 1


@pytest.mark.parametrize("moment", ["while it connects", "at the prompt", "while a tool runs"])
async def test_ctrl_c_ends_it_politely(folder: Path, moment: str) -> None:
    faults = Faults(stall_after_seconds=0.0 if moment == "while it connects" else None)
    read, write = os.pipe()
    async with Model(Script.parse(SCRIPT), faults=faults) as model, chatting(folder, model, read) as process:
        if moment == "while it connects":
            await model.wait_for(lambda: model.sessions, 60)
        else:
            await shown(process, "Good evening!")
        if moment == "while a tool runs":
            os.write(write, b"It may take long.\n")
            await shown(process, "tool: slow {}")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        await model.wait_for(lambda: model.sessions[0].closed)
        assert model.violations == []
    os.close(read)
    os.close(write)
    assert (process.returncode, err) == (0, b"")


async def test_ctrl_d_at_a_terminal_ends_it_politely(folder: Path) -> None:
    keyboard, terminal = pty.openpty()
    try:
        async with Model(Script.parse(SCRIPT)) as model, chatting(folder, model, terminal) as process:
            await shown(process, "you: ")
            os.write(keyboard, b"Hello?\n")
            await shown(process, "I see.\nyou: ")
            os.write(keyboard, b"\x04")
            out, err = await process.communicate()
            await model.wait_for(lambda: model.sessions[0].closed)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert (process.returncode, out, err) == (0, b"\n", b"")


async def test_a_windows_terminal_is_read_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = io.StringIO("grüß\n\x1a\nlost\n")
    monkeypatch.setattr(command, "sys", SimpleNamespace(platform="win32", stdin=typed))
    monkeypatch.setattr(command, "os", SimpleNamespace(isatty=lambda number: True))
    assert [line async for line in command._lines()] == ["grüß"]


async def test_settings_that_are_wrong_are_a_line_each(folder: Path) -> None:
    status, _, err = await chat(folder, REALTIME_URL="http://example.com")
    assert status == 2
    assert err == "phoneagent: REALTIME_URL is malformed: it must begin with ws:// or wss:// and name a host\n"
    status, _, err = await chat(folder, AZURE_OPENAI_ENDPOINT="https://x.openai.azure.com")
    assert status == 2
    assert err.startswith("phoneagent: AZURE_OPENAI_DEPLOYMENT")


async def test_with_a_brain_it_thinks_with_the_agents_own_instructions_and_tools(folder: Path) -> None:
    answers = [said("For how many?"), called("book_table", '{"guests": 4}'), said("The window is yours.")]
    async with chat_server(ChatServer(*answers)) as server:
        status, out, err = await chat(
            folder, "--brain", server.url, lines="A table, please.\nFour.\n", BRAIN_API_KEY="secret"
        )
    assert (status, err) == (0, "")
    assert out[0] == f"The simulated model thinks with tiny at {server.url.split('/')[2]}."
    assert out[2:] == [
        "host: Good evening!",
        "you: A table, please.",
        "host: For how many? ",
        "you: Four.",
        'tool: book_table {"guests": 4}',
        "tool: book_table → Booked for 4.",
        "host: The window is yours. ",
    ]
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "You book tables."}
    assert set(server.keys) == {"Bearer secret"}


async def test_a_brain_that_fails_is_one_line(folder: Path) -> None:
    async with chat_server(ChatServer((500, "out of memory"))) as server:
        _, out, _ = await chat(folder, "--brain", server.url, lines="A table, please.\n")
    line = f"the brain tiny at {server.url.split('/')[2]} answers HTTP 500 (out of memory): see the server's own log"
    assert f"! {line}" in out
    status, _, err = await chat(folder, "--brain", server.url)
    assert status == 1
    assert err.startswith("phoneagent: the brain does not answer: 127.0.0.1:")
    assert "nothing listens there" in err


OUTCOMES = [
    ('outcome = { month = "May" }', 'outcome: {"month": "May", "paid": false}'),
    ("outcome = { paid = true }", "! outcome: the model did not fill it in correctly: month: Field required"),
]


@pytest.mark.parametrize(("outcome", "shown"), OUTCOMES)
async def test_the_outcome_is_shown_at_the_end(folder: Path, outcome: str, shown: str) -> None:
    async with Model(Script.parse(f"{outcome}\n{SCRIPT}"), api_key="sk") as model:
        given = {"REALTIME_URL": model.url, "REALTIME_API_KEY": "sk"}
        status, out, err = await chat(folder, lines="A table.\nThe bill, please.\n", **given)
        assert (status, err) == (0, "")
        assert out[-1] == shown
        _, asked = model.sessions
        told = asked.items[0]["content"][0]["text"].splitlines()
        assert '{"caller": "The bill, please."}' in told
        assert '{"agent": "Which bill?"}' in told
        assert '{"tool": "book_table", "arguments": "{\\"guests\\": 4}", "output": "Booked for 4."}' in told
        assert model.violations == []


async def test_an_outcome_of_a_conversation_in_which_nothing_was_typed_is_not_asked_for(folder: Path) -> None:
    async with Model(Script.parse(SCRIPT), api_key="sk") as model:
        await chat(folder, lines="\n", REALTIME_URL=model.url, REALTIME_API_KEY="sk")
        assert len(model.sessions) == 1


async def test_a_guardrail_that_fails_and_a_tool_that_is_not_there_are_told(folder: Path) -> None:
    (folder / "gd.py").write_text(
        "from phoneagent import Agent, PhoneApp\n"
        "def guard(call, text):\n"
        "    raise ValueError('x')\n"
        "app = PhoneApp(Agent(instructions='x', guardrail=guard, greeting='Hi \U0001f44b'))\n",
        encoding="utf-8",
    )
    (folder / "nope.toml").write_text('[[turn]]\nheard = "a"\nsay = "Hm."\ncall = "nope"\n')
    status, out, err = await chat(folder, "gd.py", "--script", "nope.toml", lines="a\n", OPENAI_APIKEY="sk-x")
    assert (status, err) == (0, "")
    assert "! the guardrail failed: ValueError: x (gd.py, line 3)" in out
    assert any(each.startswith("! the script calls nope, which is no tool of agent: correct it") for each in out)
    assert "! OPENAI_APIKEY is set, but nothing reads it: did you mean OPENAI_API_KEY?" in out
