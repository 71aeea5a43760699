"""What users see when a command or their own code fails: the cause, and their own lines that lead to it."""

from __future__ import annotations

import errno
import linecache
import logging
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from traceback import TracebackException, walk_tb
from typing import Any, NoReturn

import pydantic
import typer

import phoneagent
from phoneagent import settings
from phoneagent.cli.remedies import argument_remedy, hint_remedy
from phoneagent.errors import ConfigurationError, DefinitionError, PhoneAgentError, shown

MAX_LINES = 2
"""How many of the user's own lines are shown: where it failed, and where that began."""

MAX_SOURCE_CHARS = 100

MAX_PROBLEMS = 3
"""How many of the fields that pydantic refuses are named."""

MAX_WORDS = 600
"""How long an error may be that lists what is possible."""

_MISSING = ("missing", "no_model")
_NOT_IN_CODE = "Settings(…) reads no .env; `load({…})` of phoneagent.settings does, with the changes in code"
_OURS = str(Path(phoneagent.__file__).parent)
_STDLIB = sysconfig.get_path("stdlib")


def fail(words: str) -> NoReturn:
    """End the command because it failed. What the user has to correct is an exception instead."""
    typer.echo(f"phoneagent: {words}", err=True)
    raise typer.Exit(1) from None


def port_problem(port: int, problem: OSError) -> str:
    """Return why a port cannot be listened on, up to the option that chooses another."""
    if problem.errno == errno.EADDRINUSE:
        return f"port {port} is in use: stop the program there, or choose another"
    if problem.errno == errno.EACCES:
        return f"port {port} needs special privileges: choose 1024 or higher"
    return f"port {port} cannot be used ({problem.strerror or problem}): choose another"


class AppFailed(DefinitionError):
    """The module of an app failed while it was imported. The message shows the user's own lines. `summary` is one
    line without the words of the error, which may hold a secret, unless phoneagent wrote them."""

    def __init__(self, kind: str, where: str, words: str, lines: list[str]) -> None:
        self.summary = (
            words if kind == "DefinitionError" else f"it cannot be imported: {kind}{where and f' in {where}'}"
        )
        super().__init__("\n".join([f"{where}: {words}" if where else words, *lines]))


def explain(error: Exception) -> AppFailed:
    """Return the error to show for an exception that a user's module raised."""
    places = _own_places(error)
    where = f"{_short(places[0][0])}, line {places[0][1]}" if places else ""
    wanted = places if len(places) <= MAX_LINES else [places[0], places[-1]]
    lines = [f"  {_short(name)}:{line}: {_source(name, line)}" for name, line in wanted]
    return AppFailed(type(error).__name__, where, _words(error), lines)


@contextmanager
def users_code() -> Iterator[None]:
    """End the command if the user's code raises, and show their own lines. phoneagent's errors pass unchanged.

    Raises:
        AppFailed: the code within raised something else.
    """
    try:
        yield
    except PhoneAgentError:
        raise
    except Exception as error:
        raise explain(error) from error


@contextmanager
def warnings_told(tell: Callable[[str], object]) -> Iterator[None]:
    """Pass phoneagent's warnings to `tell`, one line each, while the context lasts, for a terminal with a conversation.

    For an exception, it names the user's own line. With PHONEAGENT_LOG_LEVEL=debug, full tracebacks are logged instead.
    """
    if _debugging():
        yield
        return
    log, handler = logging.getLogger("phoneagent"), _Teller(tell)
    log.addHandler(handler)
    log.propagate, before = False, log.propagate
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


def _debugging() -> bool:
    with suppress(ConfigurationError):  # a malformed setting need not matter here
        return settings.load({"insecure": True, "endpoint_in_code": True}).log_level == "debug"
    return False


class _Teller(logging.Handler):
    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(_in_a_line(record))


def _in_a_line(record: logging.LogRecord) -> str:
    words = shown(record.getMessage())
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return words
    if type(error).__name__ not in words:
        words = f"{words}: {_words(error)}"
    places = _own_places(error)
    return f"{words} ({_short(places[0][0])}, line {places[0][1]})" if places else words


def _own_places(error: BaseException) -> list[tuple[str, int]]:
    """Return the file and line of each of the user's own frames, innermost first."""
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)][::-1]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        places = [(error.filename, error.lineno), *places]
    return [(name, line) for name, line in places if is_own(name)]


def is_own(name: str) -> bool:
    """Return whether a file is the user's own: neither Python's, nor a library's, nor ours."""
    path = Path(name)
    if not path.is_absolute() or not path.is_file() or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not path.is_relative_to(_OURS) and not path.is_relative_to(_STDLIB)


def _short(name: str) -> str:
    path, here = Path(name), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else name


def _source(name: str, line: int) -> str:
    return shown(linecache.getline(name, line), MAX_SOURCE_CHARS)


def _names_at(error: BaseException) -> dict[str, Any]:
    """Return the names that are known where an error was raised."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return {**frames[-1].f_globals, **frames[-1].f_locals} if frames else {}


def _words(error: BaseException) -> str:
    """Return an error in one line, with its remedy if there is one."""
    if isinstance(error, DefinitionError):
        return shown(error)
    told = list(TracebackException.from_exception(error).format_exception_only())
    words = shown(told[-1 if isinstance(error, SyntaxError) else 0])  # Python's own "Did you mean" is in it
    match error:
        case pydantic.ValidationError():  # its own message repeats the input, which may be a secret
            found = error.errors(include_input=False, include_url=False)
            problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:MAX_PROBLEMS]]
            more = [f"and {len(found) - MAX_PROBLEMS} more"] if len(found) > MAX_PROBLEMS else []
            missing = error.title == settings.Settings.__name__ and any(each["type"] in _MISSING for each in found)
            remedy = [_NOT_IN_CODE] if missing else []
            return shown(": ".join([f"{error.title} is wrong: {'; '.join([*problems, *more])}", *remedy]), MAX_WORDS)
        case TypeError():
            return shown(argument_remedy(error, _names_at(error)) or words, MAX_WORDS)
        case NameError():
            places = _own_places(error)
            return hint_remedy(error, _source(*places[0]) if places else "") or words
        case ModuleNotFoundError(name=str(name)):
            package = name.partition(".")[0]
            if get_close_matches(package, ["phoneagent"], cutoff=0.8):  # suggest no stranger's package
                return f"{words}: correct the name, like `phoneagent`"
            return f"{words}: install it, like `pip install {package}`, or correct the name"
        case ImportError() if "partially initialized module" in str(error) or "circular import" in str(error):
            return f"{words}: move what both modules need into a third one"
        case _:
            return words
