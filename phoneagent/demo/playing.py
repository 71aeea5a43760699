"""The end of a demonstration: the recorded call is played, and its picture opened."""

from __future__ import annotations

import shutil
import subprocess
import webbrowser
from pathlib import Path

PLAYERS = (
    ("aplay", "-q"),
    ("afplay",),
    ("paplay",),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"),
)
"""Programs that play a WAV file, with their options, in the order in which they are tried."""

MARGIN_SECONDS = 30.0
"""How much longer than the recording a player may take."""


def players() -> list[list[str]]:
    """Return the commands of the players that are installed."""
    return [[*command] for command in PLAYERS if shutil.which(command[0])]


def play(recording: Path, seconds: float) -> str | None:
    """Play a recording of that length to its end. Return what went wrong, in one line; None if it was played."""
    found = players()
    if not found:
        names = ", ".join(command[0] for command in PLAYERS)
        return f"no player is installed ({names}): install one, or open {recording}"
    told = ""
    for command in found:
        try:
            done = subprocess.run(  # noqa: S603  # the name of a player, found on the PATH
                [*command, str(recording)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=seconds + MARGIN_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            told = f"{command[0]}: {problem}"
            continue
        if done.returncode == 0:
            return None
        words = done.stderr.decode(errors="replace").strip().splitlines()
        told = f"{command[0]}: {words[0][:200] if words else f'status {done.returncode}'}"
    return f"the call cannot be played ({told}): check the loudspeaker, or open {recording}"


def open_picture(picture: Path) -> str | None:
    """Open the picture in the browser. Return what went wrong, in one line; None if it was opened."""
    try:
        opened = webbrowser.open(picture.absolute().as_uri())
    except webbrowser.Error:
        opened = False
    return None if opened else f"no browser opens here: open {picture}"
