"""The stories: a clip for every line, and words that lead the simulated model to the right turn."""

from __future__ import annotations

import json

import pytest

from phoneagent.demo.render_clips import agent_lines, caller_lines
from phoneagent.demo.stories import AGENT_CLIPS, CALLER_CLIPS, RESTAURANT, VISITOR
from phoneagent.protocol.audio import rms
from phoneagent.sim.recogniser import MoonshineEar
from phoneagent.sim.speech import ClipVoice, Murmur, normalised

STORIES = [RESTAURANT, VISITOR]


@pytest.mark.parametrize(
    ("folder", "lines"),
    [(AGENT_CLIPS, agent_lines), (CALLER_CLIPS, caller_lines)],
    ids=["agent", "caller"],
)
def test_every_line_has_a_clip_and_every_clip_a_line(folder, lines):
    index = json.loads(folder.joinpath("index.json").read_text(encoding="utf-8"))
    assert set(index) == {normalised(line) for line in lines(*(story.script() for story in STORIES))}
    assert set(index.values()) == {file.name for file in folder.iterdir() if file.name.endswith(".ulaw")}
    for words, name in index.items():
        clip = folder.joinpath(name).read_bytes()
        assert 8 < len(words) / (len(clip) / 8000) < 25  # characters a second, as people speak
        assert rms(clip) > 800


def test_clips_do_not_pause_as_long_as_a_turn_ends():
    """Otherwise one line of the caller's would be two turns."""
    for file in CALLER_CLIPS.iterdir():
        if file.name.endswith(".ulaw"):
            clip, quiet = file.read_bytes(), 0
            for at in range(0, len(clip), 80):
                quiet = 0 if rms(clip[at : at + 80]) > 200 else quiet + 10
                assert quiet < 450, file.name


@pytest.mark.parametrize("story", STORIES, ids=["restaurant", "visitor"])
def test_the_words_lead_to_the_turns_in_order(story):
    script = story.script()
    for turn in script.turns:
        assert script.match(turn.caller) is turn


@pytest.mark.anyio
@pytest.mark.skipif(not MoonshineEar.available(), reason="the extra `demo` is not installed")
@pytest.mark.parametrize("story", STORIES, ids=["restaurant", "visitor"])
async def test_what_a_real_ear_makes_of_the_clips_does_too(story):
    script = story.script()
    for turn in script.turns:
        heard = await MoonshineEar().hear(ClipVoice(CALLER_CLIPS, Murmur()).render(turn.caller))
        assert script.match(heard) is turn
