"""What a user is shown when their own module fails: the cause, and the lines of their own code that lead to it."""

from __future__ import annotations

import linecache
import sysconfig
from pathlib import Path
from traceback import TracebackException, walk_tb

import phoneagent
from phoneagent.errors import DefinitionError, shown

MAX_LINES = 2
"""How many of the user's own lines are shown: where it failed, and where that began."""

MAX_SOURCE_CHARS = 100
_OURS = str(Path(phoneagent.__file__).parent)
_STDLIB = sysconfig.get_path("stdlib")


class AppFailed(DefinitionError):
    """The module of an app failed while it was imported. The message shows their own lines; `summary` is one
    line without the words of the error, which may hold a secret, unless they are ours."""

    def __init__(self, kind: str, where: str, words: str, lines: list[str]) -> None:
        self.summary = (
            words if kind == "DefinitionError" else f"it cannot be imported: {kind}{where and f' in {where}'}"
        )
        super().__init__("\n".join([f"{where}: {words}" if where else words, *lines]))


def explain(error: Exception) -> AppFailed:
    """Return what is shown for an error that a user's module raised."""
    places = _own_places(error)
    where = f"{_short(places[0][0])}, line {places[0][1]}" if places else ""
    wanted = places if len(places) <= MAX_LINES else [places[0], places[-1]]
    lines = [f"  {_short(name)}:{line}: {_source(name, line)}" for name, line in wanted]
    return AppFailed(type(error).__name__, where, _words(error), lines)


def _own_places(error: Exception) -> list[tuple[str, int]]:
    """Return file and line of each of the user's own frames, the innermost first."""
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)][::-1]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        places = [(error.filename, error.lineno), *places]
    return [(name, line) for name, line in places if _is_own(name)]


def _is_own(name: str) -> bool:
    path = Path(name)
    if not path.is_absolute() or not path.is_file() or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not path.is_relative_to(_OURS) and not path.is_relative_to(_STDLIB)


def _short(name: str) -> str:
    path, here = Path(name), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else name


def _source(name: str, line: int) -> str:
    return shown(linecache.getline(name, line), MAX_SOURCE_CHARS)


def _words(error: Exception) -> str:
    """Return an error in one line, with its remedy where there is one."""
    if isinstance(error, DefinitionError):
        return shown(error)
    told = list(TracebackException.from_exception(error).format_exception_only())
    words = shown(told[-1 if isinstance(error, SyntaxError) else 0])  # Python's own "Did you mean" is in it
    match error:
        case ModuleNotFoundError(name=str(name)):
            return f"{words}: install it, like `pip install {name.partition('.')[0]}`, or correct the name"
        case ImportError() if "partially initialized module" in str(error) or "circular import" in str(error):
            return f"{words}: move what both modules need into a third one"
        case _:
            return words
