"""The recording is played by whichever program works; where none does, a line says what to do."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest

from phoneagent.demo.playing import open_picture, play, players

WAV = Path("here/call.wav")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_first_player_that_works_plays_it(folder: Path) -> None:
    install(folder, "paplay", "echo 'no sound server' >&2; exit 1")
    install(folder, "ffplay", f'echo "$@" > {folder}/played')
    assert [command[0] for command in players()] == ["paplay", "ffplay"]
    assert play(WAV, 1) is None
    assert (folder / "played").read_text() == "-nodisp -autoexit -loglevel error here/call.wav\n"


def test_without_a_player_a_line_names_some(folder: Path) -> None:
    assert play(WAV, 1) == (
        "no player is installed (aplay, afplay, paplay, ffplay): install one, or open here/call.wav"
    )


def test_a_player_that_fails_is_quoted(folder: Path) -> None:
    install(folder, "aplay", "echo 'cannot find card 0' >&2; exit 1")
    told = play(WAV, 1)
    assert told == "the call cannot be played (aplay: cannot find card 0): check the loudspeaker, or open here/call.wav"


def test_the_picture_opens_in_the_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: not opened.append(url))
    assert open_picture(tmp_path / "a b.svg") is None
    assert opened == [f"file://{tmp_path}/a%20b.svg"]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert open_picture(Path("a.svg")) == "no browser opens here: open a.svg"
