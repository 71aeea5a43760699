"""The clips that the package ships: which lines are rendered, into which files, and how a bad clip is noticed."""

from __future__ import annotations

import json

import pytest

from phoneagent.demo import render_clips, restaurant
from phoneagent.demo.render_clips import APOLOGY, BOOKED, PACKAGE, agent_lines, caller_lines, render, word_errors
from phoneagent.demo.stories import RESTAURANT
from phoneagent.protocol.audio import rms
from phoneagent.sim.model.script import Script
from phoneagent.sim.speech import Murmur, normalised

SCRIPT = """
greeting = "Hello!"
default = "Pardon?"
goodbye = "Goodbye!"
[[turn]]
caller = "A table."
say = "Hello!"
call = "book_table"
then = "Done! {output}"
[[turn]]
heard = "bye"
say = "Goodbye!"
"""


def test_the_agent_s_lines_have_the_tool_s_output_filled_in() -> None:
    assert agent_lines(Script.parse(SCRIPT)) == ["Hello!", "Pardon?", "Goodbye!", f"Done! {BOOKED}"]


def test_lines_of_several_scripts_are_rendered_once() -> None:
    script = Script.parse(SCRIPT)
    assert caller_lines(script, script) == ["A table."]
    assert agent_lines(script, script) == agent_lines(script)


def test_the_clip_of_the_booking_says_what_the_tool_returns():
    called = RESTAURANT.script().turns[1].calls[0]
    assert called.name == restaurant.book_table.name
    arguments = called.arguments
    assert f"Booked for {arguments['guests']} at {arguments['time']}, reference 41." == BOOKED


def test_the_apology_is_shipped():
    apology = (PACKAGE / "calls" / "apology.ulaw").read_bytes()
    assert 3 < len(apology) / 8000 < 8
    assert rms(apology) > 800


def test_render_writes_clips_and_index_and_removes_what_is_old(tmp_path):
    (tmp_path / "old.ulaw").write_bytes(b"")
    render(tmp_path, Murmur(), ["Hello!", "Good-bye."])
    assert json.loads((tmp_path / "index.json").read_text()) == {"hello": "hello.ulaw", "good bye": "good-bye.ulaw"}
    assert (tmp_path / "hello.ulaw").read_bytes() == Murmur().render("Hello!")
    assert not (tmp_path / "old.ulaw").exists()


def test_render_refuses_two_lines_for_one_file(tmp_path):
    with pytest.raises(ValueError, match="same six words"):
        render(tmp_path, Murmur(), ["a b c d e f g", "a b c d e f h"])


@pytest.mark.parametrize(
    ("said", "heard", "share"),
    [("a b c d", "A, b; c d!", 0), ("a b c d", "a x c d", 0.25), ("a b", "a b c", 0.5), ("a b", "", 1), ("", "", 0)],
)
def test_word_errors(said, heard, share):
    assert word_errors(said, heard) == share


class Deaf:
    """A recogniser that hears the same words in every clip."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds

    async def hear(self, ulaw: bytes) -> str:
        return "good evening"


def test_everything_is_rendered_and_each_line_shown_with_what_was_heard(tmp_path, monkeypatch, capsys):
    (tmp_path / "calls").mkdir()
    monkeypatch.setattr(render_clips, "PACKAGE", tmp_path)
    monkeypatch.setattr(render_clips, "MoonshineEar", Deaf)
    monkeypatch.setattr(render_clips, "agent_voice", lambda: Murmur(pitch_hz=200))
    monkeypatch.setattr(render_clips, "caller_voice", lambda: Murmur(pitch_hz=120))
    render_clips.main()
    shown = capsys.readouterr().out
    for name, lines in (("agent", agent_lines), ("caller", caller_lines)):
        index = json.loads((tmp_path / "demo" / "clips" / name / "index.json").read_text(encoding="utf-8"))
        for line in lines(RESTAURANT.script()):
            assert (tmp_path / "demo" / "clips" / name / index[normalised(line)]).is_file()
            assert line in shown
    assert (tmp_path / "calls" / "apology.ulaw").read_bytes() == Murmur(pitch_hz=200).render(APOLOGY)
    assert {line.strip() for line in shown.splitlines()[1::2]} == {"good evening"}
