"""Mistakes that newcomers make: each is answered by at most three lines, and one of them says what to do."""

from __future__ import annotations

import logging.config
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from phoneagent import cli
from phoneagent.cli import workers
from tests.cli.conftest import SETTINGS

MAX_LINES = 3
APP = 'from phoneagent import Agent, PhoneApp, tool\nagent = Agent(instructions="x")\napp = PhoneApp(agent)\n'
TWO_TOOLS = """
@tool
def book() -> str:
    "Book."
first = book
@tool(name="book")
def other() -> str:
    "Book, too."
app = PhoneApp(Agent(instructions="x", tools=[first, other]))
"""


@dataclass(frozen=True)
class Mistake:
    """What is typed, in which folder and environment, and the words of the answer."""

    command: str
    answer: str
    code: str = APP
    """What is in main.py."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    environment: dict[str, str | None] = field(default_factory=dict)
    """Changes of the environment; None removes a variable."""
    status: int = 2
    """The exit status: 2 if the user has to correct what they wrote, 1 if the command failed."""


def defined(code: str, answer: str) -> Mistake:
    return Mistake("serve main.py", answer, code=f"{APP}{code}\n")


def setting(answer: str, **environment: str | None) -> Mistake:
    return Mistake("serve main.py", answer, environment=dict(environment))


NOTHING = dict.fromkeys(("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "PUBLIC_URL", "OPENAI_API_KEY"))
CYCLE = {"helper.py": "from main import app\n"}
MISTAKES = {
    # the target
    "no file of that name": Mistake("serve nothing.py", "there is no file nothing.py"),
    "a file name with a typo": Mistake("serve mian.py", "did you mean main.py?"),
    "a folder": Mistake("serve .", "name the file, like main.py"),
    "no module of that name": Mistake("serve nowhere:app", "pass the app as `module:app` or `file.py`"),
    "no app here": Mistake("serve", "name `module:app`", code=""),
    "a typo in the app's name": Mistake("serve main:ap", "write `main:app`"),
    "the agent instead of the app": Mistake("serve main:agent", "write `main:app`"),
    "no app in the file": Mistake("serve main.py", "write app = PhoneApp(agent)", code="x = 1\n"),
    "an agent called app": Mistake(
        "serve main.py", "write app = PhoneApp(app)", code=APP.replace("PhoneApp(agent)", "agent")
    ),
    # the code
    "a syntax error": defined("def f(:", "main.py, line 4: SyntaxError"),
    "a syntax error, in the demo": Mistake("demo main.py", "main.py, line 1: SyntaxError", code="def f(:\n"),
    "a syntax error, in the chat": Mistake("chat main.py --sim", "main.py, line 1: SyntaxError", code="def f(:\n"),
    "wrong indentation": defined("def f():\nreturn 1", "IndentationError"),
    "a name with a typo": defined("x = agnet", "main.py, line 4: NameError"),
    "a library that is not installed": defined("import not_installed_here", "pip install not_installed_here"),
    "an import from here with a typo": defined("from phoneagent import PhoneAp", "cannot import name 'PhoneAp'"),
    "modules that import each other": Mistake(
        "serve main.py", "move what both modules need into a third one", code=f"import helper\n{APP}", files=CYCLE
    ),
    "an argument with a typo": defined("Agent(instruction='x')", "'instruction': did you mean instructions=?"),
    "a model in the agent": defined("Agent(instructions='x', model='gpt-realtime')", "'model': set OPENAI_MODEL, or"),
    "an argument without its name": defined("Agent('You answer')", "write the arguments' names, like instructions=…"),
    "an argument that there is not": defined("Agent(instructions='x', temperature=1)", "it takes name, instructions,"),
    "an option of a tool with a typo": defined("tool(fillr='x')", "'fillr': did you mean filler=?"),
    "a type hint of another language": defined("@tool\ndef book(day: string): 'Book.'", "as a type hint, write str"),
    "a type hint of another language, as text": defined("@tool\ndef book(day: 'string'): 'B.'", "defined: write str"),
    "a type hint that is not imported": defined(
        "@tool\ndef book(day: 'Date'): 'Book.'", "import it outside of TYPE_CHECKING, or correct it"
    ),
    "no instructions": defined("Agent()", "instructions"),
    "a voice that is none": defined("Agent(instructions='x', voice=7)", "voice"),
    "no agent in the app": defined("app = PhoneApp('agent')", "give it an Agent"),
    "a function that is no tool": defined("Agent(instructions='x', tools=[print, 1])", "tool"),
    "a tool with *args": defined("@tool\ndef book(*args): 'Book.'", "use a named one"),
    "a tool name with a space": defined("tool(name='book a table')(lambda: 1)", "letters, digits, _ and - are allowed"),
    "a tool's name in quotes": defined("Agent(instructions='x', tools=['book'])", "name the function itself"),
    "a tool that is called": defined(
        "from phoneagent import hang_up\nAgent(instructions='x', tools=[hang_up()])", "not callable"
    ),
    "a hook of no event": defined("@app.on\ndef ended(event): ...", "write a class of phoneagent.events"),
    "several agents in the app": defined("PhoneApp([agent] * 9)", "give it an Agent"),
    "settings in code that are wrong": defined(
        "from phoneagent import Settings\nSettings(insecure=True, port='x')", "Settings is wrong: port: Input should be"
    ),
    "settings in code without those of the file": Mistake(
        "serve main.py", "Settings(…) reads no .env; `load({…})` of phoneagent.settings does",
        code=f"{APP}from phoneagent import Settings\nPhoneApp(agent, settings=Settings(max_calls=20))\n",
        environment=NOTHING,
    ),
    "a choice of the agent that fails": Mistake(
        "chat main.py --sim", "main.py, line 4: AttributeError: 'Call' object has no attribute 'number'",
        code=APP.replace("PhoneApp(agent)", "PhoneApp(lambda call:\n call.number)"),
    ),
    "a choice of the agent that fails, in the demo": Mistake(
        "demo main.py", "main.py, line 4: AttributeError: 'Call' object has no attribute 'number'",
        code=APP.replace("PhoneApp(agent)", "PhoneApp(lambda call:\n call.number)"),
    ),
    "two tools of one name": defined(TWO_TOOLS, "book"),
    # the settings
    "nothing is set": setting("TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN are missing: copy", **NOTHING),
    "one is missing": setting("set REALTIME_URL to use another", OPENAI_API_KEY=None),
    "one has no value": Mistake(
        "serve main.py",
        "PUBLIC_URL is empty: set it to the URL",
        files={".env": "PUBLIC_URL=\n"},
        environment={"PUBLIC_URL": None, "PHONEAGENT_ENV_FILE": ".env"},
    ),
    "a variable with a typo": setting(
        "but TWILIO_AUTHTOKEN is set: correct the name", TWILIO_AUTH_TOKEN=None, TWILIO_AUTHTOKEN="0123456789abcdef"
    ),
    "an API key's sid": setting("it must be AC and 32 hexadecimal digits: copy it", TWILIO_ACCOUNT_SID="SK" + "0" * 32),
    "half a token": setting("too short for an auth token", TWILIO_AUTH_TOKEN="0123"),
    "a public address without https": setting("it must begin with https://", PUBLIC_URL="agent.example.com"),
    "a public address on this machine": setting("`phoneagent dev` opens a tunnel", PUBLIC_URL="http://localhost:8000"),
    "a public address with a port": setting("but no port", PUBLIC_URL="https://agent.example.com:8000"),
    "the webhook as the public address": setting(
        "leave /twilio/voice off", PUBLIC_URL="https://agent.example.com/twilio/voice"
    ),
    "a port in words": setting("it must be a whole number, like 8000", PORT="eighty"),
    "a phone number with spaces": setting("E.164, like +15550100001", TWILIO_PHONE_NUMBER="0155 0100001"),
    "a log format that there is not": setting("it must be text or json", LOG_FORMAT="xml"),
    "a file of prices that is not there": setting("neither JSON nor the path", PHONEAGENT_PRICES="prices.jsn"),
    "an address of the model with https": setting("it must begin with ws://", REALTIME_URL="https://one.example"),
    "a provider that there is not": setting("it must be one of openai", REALTIME_PROVIDER="opnai"),
    "another database": setting("write it like sqlite:///phoneagent.db", DATABASE_URL="mysql://user@host/database"),
    "a database without a scheme": setting("write it like sqlite:///phoneagent.db", DATABASE_URL="phoneagent.db"),
    "a database without a file": setting("it names no file: write it like sqlite", DATABASE_URL="sqlite:///"),
    "an .env that is not there": setting("correct or unset it", PHONEAGENT_ENV_FILE="prod.env"),
    "an .env of Windows": Mistake(
        "serve main.py", "save it as UTF-8", files={".env": "X=ä".encode("latin-1")},
        environment={"PHONEAGENT_ENV_FILE": ".env"},
    ),
    "callers without a plus": setting("a prefix like +1555*", ALLOW_CALLERS="15550100001"),
    "a port in words, which is shown": setting("PORT is malformed: 'eighty'; it must be a whole number", PORT="eighty"),
    "a provider with a typo": setting("did you mean openai?", REALTIME_PROVIDER="opnai"),
    "a file of prices that is shown": setting("'prices.jsn' is neither JSON", PHONEAGENT_PRICES="prices.jsn"),
    "another name of a key": setting("but OPENAI_KEY is set: correct", OPENAI_API_KEY=None, OPENAI_KEY="sk-x"),
    "an .env beside the app": Mistake(
        "serve sub/main.py", "sub/.env exists: run it from sub", files={"sub/main.py": APP, "sub/.env": "X=1\n"},
        environment={"OPENAI_API_KEY": None, "PHONEAGENT_ENV_FILE": ".env"}, code="",
    ),
    "quotes around a key": setting("OPENAI_API_KEY is malformed: it is in quotes", OPENAI_API_KEY="“sk-abc”"),
    "a key with an invisible character": setting("OPENAI_API_KEY is malformed: it has", OPENAI_API_KEY="sk\u200babc"),
    "a comment that is part of a value": setting(
        "it ends with a comment (#), which is part of the value here", MAX_CALLS="50      # at once, in each process"
    ),
    "a password with an @": setting(
        "write / ? # and @ in its password as %2F", DATABASE_URL="postgres://user:p@ss@127.0.0.1:9/db"
    ),
    "half of a model, in the chat": Mistake(
        "chat main.py", "AZURE_OPENAI_ENDPOINT is missing: set", environment={**NOTHING, "REALTIME_PROVIDER": "azure"}
    ),
    "no number to call from": Mistake("call +15550100009 main.py", "or name the number to call from (from)"),
    # the command line
    "an app that is no .py file": Mistake("chat app.txt", "not a .py file: name", files={"app.txt": APP}),
    "a file with the name of a module": Mistake("serve secrets.py", "rename it", files={"secrets.py": APP}),
    "a file with the name of this package": Mistake("serve phoneagent.py", "rename it", files={"phoneagent.py": APP}),
    "tools without a list": defined(
        "from phoneagent import hang_up\nAgent(instructions='x', tools=hang_up)",
        "tools must be a list: write tools=[hang_up]",
    ),
    "a parameter of a type that is no JSON": defined(
        "class Foo: pass\n@tool\ndef book(day: Foo): 'Book.'", "parameter 'day' is of type Foo: use str, int, list"
    ),
    "a tunnel's address that is this machine": Mistake(
        "dev main.py --public-url http://localhost:8000", "--public-url is malformed: it is this machine, which Twilio "
        "cannot reach: leave the option out, and a tunnel is opened",
    ),
    "a file that is no database": Mistake(
        "calls", "file is not a database: move the file away", files={"junk.db": "no database " * 99},
        environment={"DATABASE_URL": "sqlite:///junk.db"}, status=1,
    ),
    "an option with a typo": Mistake("serve --prot 80", "No such option: --prot"),
    "a command with a typo": Mistake("sevre", "Did you mean 'serve'?"),
    "a port that is too high": Mistake("serve --port 70000", "65535"),
    "insecure for everyone": Mistake("serve --insecure --host 0.0.0.0", "leave --host out"),
    "insecure and reload": Mistake("serve --insecure --reload", "leave one of them out"),
    "an option of the model with a typo": Mistake("sim model --dialekt beta", "--dialect"),
    "a script that is not there": Mistake("chat main.py --script talk.toml", "talk.toml"),
    "a script that is not TOML": Mistake(
        "chat main.py --script talk.toml", "talk.toml", files={"talk.toml": "hello there\n"}
    ),
    "an address without a scheme": Mistake("sim call 127.0.0.1:8000/voice", "http"),
    "keys that no phone has": Mistake("sim call http://127.0.0.1:1/ --dtmf 12x", "takes the keys"),
    "a recording that is not there": Mistake("sim call http://127.0.0.1:1/ --say hello.wav", "hello.wav"),
    "nobody answers": Mistake("sim call http://127.0.0.1:1/twilio/voice", "connect", status=1),
    "a call that is not recorded": Mistake("calls CA1", "no call was recorded yet, or DATABASE_URL is wrong", status=1),
    "records in a folder that is not there": Mistake(
        "calls", "its folder does not exist: create it", environment={"DATABASE_URL": "sqlite:///nowhere/phoneagent.db"},
        status=1,
    ),
    "a brain that is not there": Mistake("sim model --brain http://127.0.0.1:9/v1", "does not answer", status=1),
    "a brain that is not there, in the demo": Mistake("demo --brain http://127.0.0.1:9/v1", "not answer", status=1),
    "a brain that is not there, in the chat": Mistake("chat --brain http://127.0.0.1:9/v1", "not answer", status=1),
    "a brain that is no address": Mistake("sim model --brain ollama", "http"),
    "a file that is there already": Mistake("sim script main.py --out main.py", "another file with --out", status=1),
    "a project that is there already": Mistake("init .", "name another folder"),
    "a file where the demo's folder is to be": Mistake("demo --scripted --out main.py", "another folder", status=1),
    "a port of the model's in words": Mistake("sim model --port nine", "--port"),
    "a number in place of a call": Mistake("calls --svg call.svg", "name the call too"),
    "a local address without a scheme": Mistake("doctor --local 127.0.0.1:8000", "does not begin with http://"),
}  # fmt: skip


def serve_for_real(*_: object) -> None:
    raise AssertionError("the mistake was not found before the start")


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the modules of the folder, and keep what a command does to the log."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(logging.config, "dictConfig", lambda config: None)
    monkeypatch.setattr(workers.Job, "run", serve_for_real)
    yield
    for name in ("main", "helper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_three_lines_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    mistake = MISTAKES[name]
    lines = answer(tmp_path, monkeypatch, capfd, mistake)
    assert mistake.answer in "\n".join(lines)
    assert len(lines) <= MAX_LINES, lines


@pytest.mark.parametrize("command", ["serve main.py --host 127.0.0.1", "sim model --scripted", "sim rest"])
def test_a_port_in_use_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mistake = Mistake(f"{command} --port {port}", "choose another with --port", status=1)
        (line,) = answer(tmp_path, monkeypatch, capfd, mistake)
    assert mistake.answer in line


@pytest.mark.parametrize("driver", ["asyncpg"])
def test_an_extra_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], driver: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == driver else object())
    (line,) = answer(tmp_path, monkeypatch, capfd, setting("", DATABASE_URL="postgresql://user:secret@host/database"))
    assert "install phoneagent[postgres]" in line
    assert "secret" not in line


def answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], mistake: Mistake
) -> list[str]:
    """Make a mistake, and return the lines of the answer, without those that are empty."""
    monkeypatch.chdir(folder)
    for path, text in {**({"main.py": mistake.code} if mistake.code else {}), **mistake.files}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    given: dict[str, str | None] = {**SETTINGS, "PORT": "0", "PHONEAGENT_ENV_FILE": "", **mistake.environment}
    for variable, value in given.items():
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["phoneagent", *mistake.command.split()])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == mistake.status
    shown = capfd.readouterr()
    assert "Traceback" not in shown.out + shown.err
    lines = [line for line in (shown.out + shown.err).splitlines() if line.strip()]
    assert lines[-1].startswith(("phoneagent: ", "Error: ")) or not shown.err, lines
    return lines
