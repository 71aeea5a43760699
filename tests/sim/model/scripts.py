"""The scripts that several tests of the simulated model share."""

from __future__ import annotations

from typing import Any

OF_COURSE = "Of course, a table by the window would be free."
SCRIPT = """
[[turn]]
caller = "A table, please."
heard = "table"
say = "Of course, a table by the window would be free."

[[turn]]
caller = "Half past seven."
heard = "seven"
say = "Let me see."
call = "book"
arguments = { n = 4 }
then = "Done. {output}"
"""
TOOL: dict[str, Any] = {"type": "function", "name": "book", "parameters": {"type": "object", "properties": {}}}
LONG = "This is a sentence that takes a while to be said, " * 4
SLOW: dict[str, Any] = {"speed": 2}


def speaking(text: str = LONG) -> str:
    """Return a script that always answers with `text`."""
    return f'[[turn]]\nheard = "."\ncaller = "Hm."\nsay = "{text}"\n'
