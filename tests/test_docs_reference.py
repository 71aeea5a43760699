"""The reference pages of the documentation, made from the code.

PHONEAGENT_WRITE_DOCS=1 pytest tests/test_docs_reference.py     writes docs/settings.md and docs/commands.md
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import SecretStr

from phoneagent import Settings, cli
from phoneagent import settings as settings_

DOCS = Path(__file__).parent.parent / "docs"
OF_CODE = {"insecure", "local_api", "log_messages", "endpoint_in_code"}
"""Settings that are code's to say, not the environment's."""

UNITS = {
    "record_days": "days",
    "record_audio_days": "days",
    "dead_air_ms": "milliseconds",
    "idle_seconds": "seconds",
    "max_call_seconds": "seconds",
    "max_call_cost": "US dollars",
    "drain_seconds": "seconds",
    "rate_limit_reserve": "share, 0 to 1",
    "max_calls": "calls",
    "max_calls_per_caller": "calls",
    "calls_per_second": "calls",
    "web_concurrency": "processes",
}
"""What a number counts. A name that says it must agree, and every number is here, but for the port."""

GROUPS = {"": "Call records", "Twilio": "Twilio", "the model": "The model", "the service": "The service"}
"""The comments between the fields of `Settings`, and the headings that they become."""


def variable(field: str) -> str:
    return str(Settings.model_fields[field].validation_alias or field).upper()


# --- settings ---------------------------------------------------------------------------------------------------------


def fields_of(kind: type) -> Iterator[tuple[str, str, str]]:
    """Yield the group, the name and the docstring of each field that a class itself defines."""
    source = inspect.getsource(kind)
    comments = {number: line.strip("# ") for number, line in enumerate(source.splitlines(), 1) if line[:6] == "    # "}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for node, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        groups = [comments[number] for number in sorted(comments) if number < node.lineno]
        yield groups[-1] if groups else "", node.target.id, " ".join(str(text).split())


def default_of(field: str) -> str:
    info = Settings.model_fields[field]
    if info.is_required():
        return "**required**"
    default: Any = info.get_default(call_default_factory=True)
    default = default.get_secret_value() if isinstance(default, SecretStr) else default
    if default in (None, (), {}):
        return ""
    if isinstance(default, bool):
        return f"`{int(default)}`"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def in_words(docstring: str) -> str:
    """Return a docstring for users of the environment: settings by their variables."""
    names = {field: variable(field) for field in Settings.model_fields}
    docstring = re.sub(r"\{\w+\}", r"`\g<0>`", docstring)
    return re.sub(r"`(\w+)`", lambda found: f"`{names.get(found[1], found[1])}`", docstring).replace("|", "\\|")


def settings_page() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "phoneagent reads its settings from environment variables, and from a file `.env` in the working directory.",
        f"The environment wins. `{settings_.ENV_FILE_VARIABLE}` names another file, or none if it is empty.",
        "A variable that is empty counts as not set. At startup, each setting that is missing or malformed is named.",
        "",
        "In `.env`, a value may be in quotes, and ` #` begins a comment. `docker run --env-file` and other tools keep",
        "both as part of the value, so phoneagent refuses such values.",
        "",
        "In code, `Settings(max_calls=20)` takes the same settings under their names in lower case. It reads the",
        "others from environment variables, but not from `.env`. `load` reads `.env` too, and its argument wins.",
        "A name that no setting has is refused there. With settings from code and no `store`, nothing is recorded.",
        "",
        "```python",
        "from phoneagent import Agent, PhoneApp",
        "from phoneagent.settings import load",
        "from phoneagent.store import Store",
        "",
        'settings = load({"max_calls": 20})',
        'agent = Agent(instructions="You answer the phone.", greeting="Hello!")',
        "app = PhoneApp(agent, settings=settings, store=Store.from_settings(settings))",
        "```",
        "",
        "The libraries that connect to servers also read `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` and `SSL_CERT_FILE`,",
        "but only from the environment; `phoneagent doctor` tells which of them is to blame if a connection fails.",
        "",
        "## Your own variables",
        "",
        "phoneagent reads `.env` for its own settings only. The file does not become part of the",
        "environment: `os.environ` in your code does not have what is in it, nor do libraries (`AWS_ACCESS_KEY_ID`),",
        "other servers, or a shell (`$PHONEAGENT_API_TOKEN`). Export such variables, or have your code load the file",
        "before it reads them. python-dotenv is installed with phoneagent:",
        "",
        "```python",
        "from dotenv import load_dotenv",
        "",
        'load_dotenv(".env")',
        "```",
        "",
        "If Docker or Kubernetes reads the file, everything in it is in the environment. Write [plain",
        "values](deploying.md#docker) then.",
    ]
    found = [*fields_of(settings_.Records), *fields_of(Settings)]
    for group, heading in GROUPS.items():
        lines += ["", f"## {heading}", "", "| variable | default | unit | meaning |", "|---|---|---|---|"]
        for each, field, docstring in found:
            if each == group and field not in OF_CODE:
                cells = f"`{variable(field)}`", default_of(field), UNITS.get(field, ""), in_words(docstring)
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_every_setting_is_explained() -> None:
    found = [*fields_of(settings_.Records), *fields_of(Settings)]
    assert [field for _, field, _ in found] == list(Settings.model_fields)
    assert [field for _, field, docstring in found if not docstring] == []
    assert {group for group, _, _ in found} == set(GROUPS)


def test_numbers_have_units() -> None:
    numbers = {
        field for field, info in Settings.model_fields.items() if re.search("int|float|Decimal", str(info.annotation))
    }
    assert numbers - {"port", "prices"} == set(UNITS)
    for field, unit in UNITS.items():
        for named in ("seconds", "days"):
            assert (unit == named) == field.endswith(f"_{named}")


# --- commands ---------------------------------------------------------------------------------------------------------


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each command with the words that call it; a group only leads to its commands."""
    if not hasattr(command, "commands"):
        yield path, command
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from commands(subcommand, f"{path} {name}")


def usage(path: str, command: Any) -> str:
    words = [path, "[OPTIONS]"] if any(each.param_type_name == "option" for each in command.params) else [path]
    for each in command.params:
        if each.param_type_name == "argument":
            name = each.metavar or each.name.upper()
            words.append(name if each.required or name.startswith("[") else f"[{name}]")
    return " ".join(words)


def option_row(option: Any) -> str:
    value = "" if option.is_flag else f" {(option.metavar or option.opts[0].lstrip('-').upper()).replace('|', ' or ')}"
    names = ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))
    default = "" if option.default in (None, False, ()) or callable(option.default) else f"`{option.default}`"
    return f"| {escaped(names)} | {default} | {escaped(option.help or '')} |"


def escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def commands_page() -> str:
    """Return docs/commands.md."""
    lines = [
        "# Command line",
        "",
        "Each command explains itself with `--help`. An error is a line that begins with `phoneagent:`. The exit",
        "status is 2 if you have to correct the command line, a setting or your code, and 1 if the command failed.",
    ]
    for path, command in commands(typer.main.get_command(cli.app), "phoneagent"):
        text = inspect.cleandoc(command.help or "").replace("\b\n", "").replace("\f", "")
        lines += ["", f"## {path}", "", "```text", usage(path, command), "```", "", text]
        arguments = [each for each in command.params if each.param_type_name == "argument" and each.help]
        options = [each for each in command.params if each.param_type_name == "option"]
        if arguments:
            lines += ["", "| argument | meaning |", "|---|---|"]
            lines += [f"| `{each.metavar or each.name.upper()}` | {escaped(each.help)} |" for each in arguments]
        if options:
            lines += ["", "| option | default | meaning |", "|---|---|---|", *map(option_row, options)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("name", "page"), [("settings.md", settings_page), ("commands.md", commands_page)])
def test_a_page_is_what_the_code_says(name: str, page: Callable[[], str]) -> None:
    path = DOCS / name
    if os.environ.get("PHONEAGENT_WRITE_DOCS"):
        path.write_text(page(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == page(), "write it anew with PHONEAGENT_WRITE_DOCS=1"
