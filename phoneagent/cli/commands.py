"""Groups of commands that are imported when they run: no command needs what another one imports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

MAX_HELP_COLUMNS = 120
"""How wide the help gets on a wide terminal."""

_PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": MAX_HELP_COLUMNS}


class Entry(NamedTuple):
    """A command of a group: the module with the function (or the group) of that name, and its line in the help."""

    module: str
    summary: str


class _Imported(Mapping[str, Any]):
    """Commands by name, each imported when it is looked up."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> Any:
        found = getattr(import_module(self._entries[name].module), name)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(**_PLAIN, context_settings=_CONTEXT)
            single.command(name)(found)
            found = single
        made = typer.main.get_command(found)
        made.name = name
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def group(text: str, entries: dict[str, Entry]) -> typer.Typer:
    """Return a group of commands; `text` is its help."""

    class Group(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _Imported(entries)  # type: ignore[assignment]

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])

    made = typer.Typer(cls=Group, help=text, no_args_is_help=True, context_settings=_CONTEXT, **_PLAIN)
    made.callback()(lambda: None)  # makes it a group although it has no command yet
    return made
