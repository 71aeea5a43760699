"""Targets: the app that a command works on, as `module:app` or `file.py`."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from phoneagent.agent.agent import Agent
from phoneagent.cli.failures import explain, is_own
from phoneagent.errors import ConfigurationError, DefinitionError
from phoneagent.server import PhoneApp

DEFAULTS = ("main.py", "app.py", "agent.py")
"""The files to try when no target is named."""


def _near(path: str) -> str:
    """Return the end of a sentence that suggests the file that was probably meant, or how to make one."""
    there = Path(path).parent
    names = [each.name for each in there.glob("*.py")] if there.is_dir() else []
    close = get_close_matches(Path(path).name, names, n=1)
    return f": did you mean {there / close[0]}?" if close else ": correct the path, or run `phoneagent init` first"


def _parted(text: str) -> tuple[str, str]:
    """Return the module or file of a target, and the app's name there. A Windows path may begin with a drive."""
    drive, path = os.path.splitdrive(text)
    if not path.startswith(("/", "\\")):  # `m:app` is a module
        drive, path = "", text
    path, _, attribute = path.partition(":")
    return drive + path, attribute


def _check_name(file: Path) -> None:
    """Refuse a file whose module's name is taken, because the other module would be loaded in its place.

    Raises:
        DefinitionError: a module of that name, of Python or of a library, is loaded already.
    """
    loaded = sys.modules.get(file.stem)
    if loaded is None or not file.is_file():
        return
    other = str(getattr(loaded, "__file__", None) or "")
    if not is_own(other) and file.resolve() != Path(other).resolve():
        raise DefinitionError(f"{file.name} has the name of a module of Python or a library: rename it, like main.py")


@dataclass(frozen=True, slots=True)
class Target:
    """An app to import: its module, its name there, and the folder of the module.

    `written` is the module or file as the user wrote it; messages repeat it, because a module's name alone does not
    find a file in another folder.
    """

    module: str
    attribute: str
    folder: str
    written: str = field(default="", compare=False)

    @classmethod
    def find(cls, text: str | None) -> Target:
        """Parse a target as the user writes it.

        Raises:
            DefinitionError: it names no app.
        """
        if text is None:
            text = next((name for name in DEFAULTS if Path(name).is_file()), None)
            if text is None:
                raise DefinitionError(
                    "no app is named, and no main.py, app.py or agent.py is in this folder: "
                    "go to the app's folder, name `module:app`, or write an app with `phoneagent init`"
                )
        path, attribute = _parted(text)
        folder = Path(path)
        if path and folder.is_dir() and not (folder / "__init__.py").is_file() and not Path(f"{path}.py").is_file():
            inside = next((name for name in DEFAULTS if (folder / name).is_file()), DEFAULTS[0])
            raise DefinitionError(f"{path} is a folder: name the file, like {folder / inside}")
        if path.endswith(".py"):
            file = Path(path).resolve()
            if not file.is_file():
                raise DefinitionError(f"there is no file {path}{_near(path)}")
            if "." in file.stem:
                raise DefinitionError(f"{path} cannot be imported, as its name has two dots: rename it, like main.py")
            return cls(file.stem, attribute or "app", str(file.parent), path)
        if "." in folder.name and folder.is_file():
            raise DefinitionError(f"{path} is not a .py file: name the app's file, like main.py, or `module:app`")
        if not path or path.startswith("."):
            raise DefinitionError(f"{text!r} names no app: write `module:app` or `file.py`")
        return cls(path, attribute or "app", str(Path.cwd()), path)

    def load(self) -> PhoneApp:
        """Import the app.

        Raises:
            DefinitionError: there is no app of that name, or its module fails. The message has the user's own lines.
        """
        _check_name(Path(self.folder) / f"{self.module}.py")
        if self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                raise explain(error) from None  # a module that the app's own module imports
            raise DefinitionError(
                f"no module named {self.module!r} in this folder: pass the app as `module:app` or `file.py`"
            ) from None
        except ConfigurationError:
            raise  # it has a line for each setting, and the code is not at fault
        except Exception as error:  # noqa: BLE001 - a user's code may raise anything, and it is reported
            raise explain(error) from None
        return self._app(module)

    def other_env(self) -> str:
        """Return the end of a line about a missing setting, if a `.env` is beside the app but not in this folder."""
        beside = Path(self.folder) / ".env"
        if Path(".env").is_file() or not beside.is_file():
            return ""
        here = Path.cwd()
        shown = beside.relative_to(here) if beside.is_relative_to(here) else beside
        return f"; {shown} exists: run it from {shown.parent}"

    def explained(self, error: ConfigurationError) -> ConfigurationError:
        """Return an error about settings that also names a `.env` beside the app, if one is not read."""
        problems = list(error.problems)
        missing = [index for index, line in enumerate(problems) if " is missing" in line]
        if missing:
            problems[missing[-1]] += self.other_env()
        return ConfigurationError(problems)

    def _app(self, module: ModuleType) -> PhoneApp:
        found = getattr(module, self.attribute, None)
        apps = [name for name, each in vars(module).items() if isinstance(each, PhoneApp)]
        if isinstance(found, PhoneApp):
            return found
        written = self.written or self.module
        if found is None:
            problem = f"there is no {self.attribute} in {module.__file__}"
        else:
            problem = f"{written}:{self.attribute} is not a PhoneApp but {type(found).__name__}"
        if apps:
            remedy = f"write `{written}:{apps[0]}`"
        elif isinstance(found, Agent):
            remedy = f"write app = PhoneApp({self.attribute})"
        else:
            remedy = "write app = PhoneApp(agent)"
        raise DefinitionError(f"{problem}: {remedy}")
