"""The documentation is true: its Python runs, and answers calls; its commands and its links lead somewhere."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import typer.main

import phoneagent
from phoneagent import LocalMcpServer, cli, events
from phoneagent.cli.init import write
from phoneagent.settings import load
from phoneagent.sim import Model, Phone, Script, serving
from phoneagent.sim.speech import Murmur
from phoneagent.telemetry import Metrics
from tests.cli.conftest import run
from tests.examples.conftest import HUM, Quick
from tests.patience import HANG_SECONDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FILES = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]
REPOSITORY = "https://github.com/phoneagent/phoneagent/blob/main/"

ACCOUNT, TOKEN, PUBLIC = "AC" + "0" * 32, "a-token-for-tests", "https://agent.example"
OURS = (
    "TWILIO",
    "OPENAI",
    "AZURE",
    "REALTIME",
    "HELICONE",
    "PHONEAGENT",
    "PUBLIC_URL",
    "DATABASE",
    "MAX_",
    "OUTCOME_",
    "PORT",
    "RECORD",
)
PLATFORMS = ["docker", "gcloud", "heroku", "kubectl"]
PROGRAMS = frozenset([".", "cd", "cp", "curl", "git", "mkdocs", "mypy", "pytest", "python3", "ruff", *PLATFORMS])
"""Programs whose options are not checked here."""

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    title: str
    text: str
    line: int
    section: str
    """The anchor of the heading above."""


def slug(heading: str) -> str:
    """Return the anchor that Python-Markdown gives a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return BLOCK.sub("", text)


def blocks(page: Path) -> list[Block]:
    text = read(page)
    found = []
    for each in BLOCK.finditer(text):
        headings = [heading[2] for heading in HEADING.finditer(BLOCK.sub(_blank, text)[: each.start()])]
        title = re.search(r'title="([^"]+)"', each[2])
        line = text.count("\n", 0, each.start()) + 1
        section = slug(headings[-1]) if headings else ""
        found.append(Block(page.name, each[1], title[1] if title else "", each[3], line, section))
    return found


def _blank(found: re.Match[str]) -> str:
    """Return as much of nothing, so that a comment of a block is no heading, and positions stay."""
    return re.sub(r"[^\n]", " ", found[0])


BLOCKS = {page.name: blocks(page) for page in FILES}
PYTHON = {name: [each for each in found if each.language == "python"] for name, found in BLOCKS.items()}


# --- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with the project that `phoneagent init` writes, and settings for a call of the simulators."""
    for variable in [each for each in os.environ if each.upper().startswith(OURS)]:
        monkeypatch.delenv(variable)
    given = {
        "TWILIO_ACCOUNT_SID": ACCOUNT,
        "TWILIO_AUTH_TOKEN": TOKEN,
        "PUBLIC_URL": PUBLIC,
        "REALTIME_URL": "ws://127.0.0.1:1",
        "DATABASE_URL": f"sqlite:///{tmp_path}/calls.db",
        "PHONEAGENT_ENV_FILE": "",
    }
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("main", "stock"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def run_blocks(found: list[Block], folder: Path) -> dict[str, Any]:
    """Run Python blocks in order, as one module; a block with a title is a file of that name."""
    module = ModuleType("page")
    module.__dict__["__name__"] = "page"
    sys.modules["page"] = module
    for block in found:
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
            sys.modules.pop(block.title.removesuffix(".py"), None)
            continue
        code = compile("\n" * block.line + block.text, block.page, "exec")
        exec(code, module.__dict__)
    return module.__dict__


@pytest.mark.parametrize("page", [name for name, found in PYTHON.items() if found])
def test_the_python_of_a_page_runs(page: str, user: Path) -> None:
    """Its tests too, all at once: each plays a call in real time."""
    names = run_blocks(PYTHON[page], user)
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(thing) for name, thing in names.items() if name.startswith("test_")]
    for each in running:
        each.result()


@dataclass(frozen=True)
class Conversation:
    """A call to the `app` of a section: the model's script, and what comes of it."""

    script: str = 'default = "Yes, of course."'
    turns: int = 1
    """How many times the caller speaks."""
    says: str = "Yes, of course."
    """What the agent says in the end."""
    outputs: tuple[str, ...] = ()
    """What the tools returned."""
    keys: str = ""
    """What the caller presses before they speak."""
    greeted: bool = True
    voice: Quick | Murmur = field(default_factory=Quick)
    mounted: str = ""
    """The path at which the app is mounted in another one; the page calls it `phone` then."""


CALLS = {
    ("agent.md", "your-agent"): Conversation(),
    ("agent.md", "instructions-for-each-call"): Conversation(),
    ("agent.md", "tools"): Conversation(
        """
        [[turn]]
        caller = "A city bike for two days."
        call = "reserve"
        arguments = { model = "city", days = 2 }
        then = "It is yours."
        [[turn]]
        caller = "And a mountain bike."
        call = "reserve"
        arguments = { model = "mountain", days = 1 }
        then = "Sorry, there is none."
        """,
        turns=2,
        says="Sorry, there is none.",
        outputs=(
            '{"model":"city","days":2}',
            """{"error":"No mountain bicycle is left. Left are: ['city']."}""",
        ),
    ),
    ("agent.md", "run-a-tool-once"): Conversation(
        """
        [[turn]]
        caller = "I pay."
        call = "pay"
        arguments = { order = "7", euros = 20 }
        then = "{output}"
        [[turn]]
        caller = "Did you hear? I pay."
        call = "pay"
        arguments = { order = "7", euros = 20 }
        then = "Again: {output}"
        """,
        turns=2,
        says="Again: Paid. The receipt is number 1.",
        outputs=("Paid. The receipt is number 1.", "Paid. The receipt is number 1."),
        greeted=False,
    ),
    ("agent.md", "say-something-while-a-tool-runs"): Conversation(
        """
        filler = "One moment, I am looking that up."
        [[turn]]
        caller = "Where is order 7?"
        call = "find_order"
        arguments = { number = "7" }
        then = "{output}"
        """,
        says="One moment, I am looking that up. Order 7 left the warehouse this morning.",
        outputs=("Order 7 left the warehouse this morning.",),
        greeted=False,
    ),
    ("agent.md", "hand-offs"): Conversation(
        """
        [[turn]]
        caller = "I want my money back."
        call = "hand_off_to_billing"
        then = "Billing, hello."
        [[turn]]
        caller = "For order 7."
        call = "refund"
        arguments = { order = "7" }
        then = "{output}"
        """,
        turns=2,
        says="Order 7 is refunded.",
    ),
    ("agent.md", "guardrail"): Conversation(
        """
        [[turn]]
        caller = "Will it last?"
        say = "I guarantee it for ten years, and if it ever breaks, we send you a new one by express."
        """,
        says="I cannot promise that, but a colleague can call you back.",
        greeted=False,
        voice=Murmur(),
    ),
    ("agent.md", "interruptions"): Conversation(says="The garage, hello! This call may be recorded. Yes, of course."),
    ("agent.md", "turns-hearing-voice-and-limits"): Conversation(greeted=False),
    ("agent.md", "act-on-a-call-from-your-code"): Conversation(keys="1", turns=0, says="We are at five Mill Street."),
    ("agent.md", "mcp-servers"): Conversation(
        """
        [[turn]]
        caller = "Do you have a bell?"
        call = "in_stock"
        arguments = { article = "bell" }
        then = "We have {output}."
        """,
        says="We have 12.",
        greeted=False,
    ),
    ("agent.md", "servers-that-the-provider-calls"): Conversation(
        """
        [[turn]]
        caller = "Where is my parcel?"
        call = "track"
        server = "parcels"
        output = "Monday."
        then = "On {output}"
        """,
        says="On Monday.",
        greeted=False,
    ),
    ("agent.md", "one-app-for-many-numbers"): Conversation(says="The workshop, hello! Yes, of course."),
    ("agent.md", "after-your-own-twiml"): Conversation(says="Sales, hello! Yes, of course."),
    ("keys.md", "what-the-caller-presses"): Conversation(
        keys="1", turns=0, greeted=False, says="We are at five Mill Street."
    ),
    ("keys.md", "a-pin-that-no-model-learns"): Conversation(greeted=False),
    ("keys.md", "keys-that-the-agent-presses"): Conversation(
        """
        [[turn]]
        caller = "For opening hours, press two."
        say = "Two."
        call = "press_keys"
        arguments = { keys = "2" }
        """,
        says="Two.",
        outputs=("Pressed. Wait for what the far end says.",),
        greeted=False,
    ),
    ("mounting.md", "mounting-into-fastapi"): Conversation(mounted="/phone"),
    ("mounting.md", "run-its-lifespan"): Conversation(mounted="/phone"),
    ("mounting.md", "serve-the-phone-app-instead"): Conversation(),
    ("events.md", "events"): Conversation(),
    ("README.md", "write-an-agent"): Conversation(
        """
        [[turn]]
        caller = "A table for two at eight, please."
        call = "book_table"
        arguments = { guests = 2, time = "20:00" }
        then = "{output} Goodbye!"
        """,
        says="Booked for 2 at 20:00, reference",
    ),
    ("index.md", "3-write-your-own"): Conversation(
        """
        [[turn]]
        caller = "Are you open on Sunday?"
        call = "opening_hours"
        arguments = { day = "Sunday" }
        then = "We are {output}."
        """,
        says="We are closed.",
        outputs=("closed",),
    ),
}


def test_every_agent_of_its_page_answers_a_call() -> None:
    made = {block.section for block in PYTHON["agent.md"] if "app = PhoneApp(" in block.text}
    assert made == {section for page, section in CALLS if page == "agent.md"}


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


@pytest.mark.anyio
async def test_the_agent_of_each_section_answers_a_call(user: Path) -> None:
    """A few calls run at a time, because most of their time is speech, and a busy machine has few databases at once."""
    calls, few = {}, asyncio.Semaphore(4)

    async def played(names: dict[str, Any], expected: Conversation, database: str) -> None:
        async with few:
            await call(names, expected, database)

    for page, section in CALLS:
        sections = list(dict.fromkeys(block.section for block in PYTHON[page]))
        until = sections[: sections.index(section) + 1]
        names = run_blocks([block for block in PYTHON[page] if block.section in until], user)
        calls[section] = played(names, CALLS[page, section], f"sqlite:///{section}.db")
    outcomes = await asyncio.gather(*calls.values(), return_exceptions=True)
    assert {section: outcome for section, outcome in zip(calls, outcomes, strict=True) if outcome is not None} == {}


async def call(names: dict[str, Any], expected: Conversation, database: str) -> None:
    """Call the app of a page and talk to it as `expected`."""
    app, public = names["phone" if expected.mounted else "app"], PUBLIC + expected.mounted
    async with Model(Script.parse(expected.script), voice=expected.voice) as model:
        app.settings = load({"realtime_url": model.url, "database_url": database, "public_url": public})
        async with serving(names["app"]) as url:
            for each in names.values():  # a call waits 3 s for them, which is little on a busy machine
                assert not isinstance(each, LocalMcpServer) or await each.ready(60)
            phone = Phone(
                f"{url}{expected.mounted}/twilio/voice", auth_token=TOKEN, public_url=PUBLIC, account_sid=ACCOUNT
            )
            async with phone.dial() as line:
                if expected.greeted:
                    await line.wait_for_silence(ms=200)
                if expected.keys:
                    await line.press(expected.keys)
                for _ in range(expected.turns):
                    await line.say(HUM)
                    await line.wait_for_silence(ms=200)
                async with asyncio.timeout(HANG_SECONDS):
                    while expected.says not in " ".join((talk := model.sessions[-1]).said) or any(
                        each.output is None for each in talk.tool_calls[: len(expected.outputs)]
                    ):
                        await asyncio.sleep(0.01)
    (session,) = model.sessions
    assert line.violations == model.violations == []
    if expected.outputs:
        assert tuple(each.output for each in session.tool_calls) == expected.outputs


@pytest.mark.parametrize("page", FILES, ids=lambda page: page.name)
def test_toml_is_toml(page: Path) -> None:
    for block in BLOCKS[page.name]:
        if block.language == "toml":
            tomllib.loads(block.text)


# --- commands ---------------------------------------------------------------------------------------------------------


def commands(block: Block) -> list[str]:
    """Return the commands of a block: the lines of `sh`, and those after a `$` of `console`."""
    text = block.text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


SHELL = [each for found in BLOCKS.values() for each in found if each.language in ("sh", "console")]
COMMANDS = sorted({(each.page, command) for each in SHELL for command in commands(each)})


def words(command: str) -> list[str]:
    """Return the words of a command, without what is set before it, and without a comment."""
    found = shlex.split(command, comments=True)
    while found and re.match(r"[A-Z_]+=", found[0]):
        del found[0]
    return found


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_exists(page: str, command: str, user: Path) -> None:
    for part in re.split(r" && | \| ", command):
        program, *arguments = words(part)
        program = Path(program).name or program  # the dot reads a file
        if program == "phoneagent":
            check_ours(arguments)
        elif program == "pip":
            check_extras(arguments)
        else:
            assert program in PROGRAMS, f"{page}: {program}"
            assert all((ROOT / each).exists() for each in arguments if each.startswith("tests/")), part


def check_ours(arguments: list[str]) -> None:
    """Check a command of ours by parsing its options, without running it."""
    command: Any = typer.main.get_command(cli.app)
    while hasattr(command, "commands") and arguments:
        assert arguments[0] in command.commands, arguments
        command, arguments = command.commands[arguments[0]], arguments[1:]
    with command.make_context("phoneagent", arguments):
        pass


def check_extras(arguments: list[str]) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for argument in arguments:
        for extras in re.findall(r"\[([a-z,]+)\]", argument):
            for extra in extras.split(","):
                assert re.search(rf"^{extra} = \[", text, re.MULTILINE), f"there is no extra {extra}"


QUICK = [each for _, each in COMMANDS if re.match(r"phoneagent (init|calls|migrate)\b(?!.*\.\.)", each)]


def test_quick_commands_run(user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(QUICK) >= 5
    for command in ["phoneagent migrate", *QUICK]:
        status = run(monkeypatch, *words(command)[1:])
        assert status < 2, f"{command}: {capsys.readouterr().err}"  # 1: there is no such call


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    return {slug(found[2]) for found in HEADING.finditer(without_blocks(read(page)))}


@pytest.mark.parametrize("page", FILES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(without_blocks(read(page))):
        if target.startswith(REPOSITORY):
            assert (ROOT / target.removeprefix(REPOSITORY).partition("#")[0]).exists(), target
        elif not target.startswith("http"):
            name, _, anchor = target.partition("#")
            there = page.parent / name if name else page
            assert there.exists(), target
            assert page not in PAGES or DOCS in there.parents, f"{target} is outside the site: link it by {REPOSITORY}"
            assert not anchor or anchor in anchors(there), target


def test_the_navigation_names_pages_that_exist_and_each_once() -> None:
    named = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) == len(set(named))
    assert sorted(named) == [page.name for page in PAGES]


# --- what the pages say of the code -----------------------------------------------------------------------------------


def test_the_api_reference_has_every_public_name() -> None:
    named = set(re.findall(r"^::: phoneagent\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
    whole = {"phoneagent.events", "phoneagent.errors"}  # modules of which the reference has everything
    names = {name for name in phoneagent.__all__ if getattr(phoneagent, name).__module__ not in whole}
    assert names - named == {"Event"}  # the union of the events


def test_the_table_of_events_has_each() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", read(DOCS / "events.md"), re.MULTILINE)
    named = {name.strip("`") for row in rows for name in row.split(", ") if not name.startswith("`phoneagent_")}
    assert named == {kind.__name__ for kind in get_args(events.Event)}


def test_the_metrics_exist() -> None:
    shown = Metrics().text().decode()
    for name in re.findall(r"`(phoneagent_\w+)`", "".join(map(read, PAGES))):
        assert f"# HELP {name} " in shown or f"# HELP {name.removesuffix('_total')} " in shown or f"{name} " in shown, (
            name
        )


def test_the_log_says_what_the_page_on_troubleshooting_says() -> None:
    """Words in code in the column of the log, and in the first column of the last table, are in the source."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "phoneagent").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    text = read(DOCS / "troubleshooting.md")
    said = [
        found for row in re.findall(r"^\| [^|]+ \| (`[^|]+`) \|", text, re.MULTILINE) for found in row.split("`")[1::2]
    ]
    said += re.findall(r"^\| `([^|`]+)` \|", text.partition("## Settings and start")[2], re.MULTILINE)
    assert len(said) > 15
    parts = [part.strip(" :") for words in said for part in words.split("…") if part.strip(" :")]
    assert [part for part in parts if part not in source] == []
