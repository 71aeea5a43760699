"""Targets: the app that a command works on, as `module:app` or `file.py`."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from phoneagent.errors import DefinitionError
from phoneagent.server import PhoneApp

DEFAULTS = ("main.py", "app.py", "agent.py")
"""The files to try when no target is named."""


@dataclass(frozen=True, slots=True)
class Target:
    """An app to import: its module, its name there, and the folder of the module."""

    module: str
    attribute: str
    folder: str

    @classmethod
    def find(cls, text: str | None) -> Target:
        """Parse a target as the user writes it.

        Raises:
            DefinitionError: it names no app.
        """
        if text is None:
            text = next((name for name in DEFAULTS if Path(name).is_file()), None)
            if text is None:
                raise DefinitionError(f"no app is named, and there is no {', '.join(DEFAULTS)} here: name `module:app`")
        path, _, attribute = text.partition(":")
        if path.endswith(".py"):
            file = Path(path).resolve()
            if not file.is_file():
                raise DefinitionError(f"there is no file {path}")
            return cls(file.stem, attribute or "app", str(file.parent))
        if not path or path.startswith("."):
            raise DefinitionError(f"{text!r} names no app: write `module:app` or `file.py`")
        return cls(path, attribute or "app", str(Path.cwd()))

    def load(self) -> PhoneApp:
        """Import the app.

        Raises:
            DefinitionError: there is no app of that name.
        """
        if self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                raise  # a module that the app's own module imports
            raise DefinitionError(
                f"no module named {self.module!r} in this folder: pass the app as `module:app` or `file.py`"
            ) from None
        found = getattr(module, self.attribute, None)
        if found is None:
            raise DefinitionError(f"there is no {self.attribute} in {module.__file__}: name it, `module:NAME`")
        if not isinstance(found, PhoneApp):
            raise DefinitionError(f"{self.module}:{self.attribute} is not a PhoneApp but {type(found).__name__}")
        return found
