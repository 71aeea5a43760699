"""The live view of a call: what is printed, when, and once."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from phoneagent.demo import live
from phoneagent.demo.live import Live
from phoneagent.protocol.audio import tone
from tests.demo.conftest import START

HELLO, ANSWER = tone(300, 1000), tone(500, 4000)


class Show:
    """A hand-made call, looked at whenever the test says so."""

    def __init__(self, handmade, monkeypatch):
        self.call = handmade
        self.now = START
        self.console = Console(file=io.StringIO(), width=120, highlight=False)
        monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: self.now))
        handmade.line.playout = handmade.playout
        self.model = SimpleNamespace(sessions=[handmade.session])
        self.live = Live(self.console, handmade.line, self.model)
        self._shown = 0

    def look(self, at_ms: float) -> list[str]:
        """Look at the call at that time; return the new lines."""
        self.now = START + at_ms / 1000
        self.call.line.heard = self.call.playout.spans(self.now)
        self.live.look()
        return self.new()

    def new(self) -> list[str]:
        lines = [" ".join(line.split()) for line in self.console.file.getvalue().splitlines()]
        new, self._shown = lines[self._shown :], len(lines)
        return new


@pytest.fixture
def show(handmade, monkeypatch):
    return Show(handmade, monkeypatch)


def test_an_item_is_named_once_when_the_caller_begins_to_hear_it(show):
    show.call.agent("one", "Hello!", HELLO, 0)
    show.call.agent("two", "How can I help [you]?", ANSWER, 100)
    assert show.look(0) == [], "still on its way"
    assert show.look(60) == ["0:00.1 agent Hello!"]
    assert show.look(900) == [], "the second waits behind the first"
    assert show.look(1100) == ["0:01.1 agent How can I help [you]?"]
    assert show.look(2000) == []


def test_what_is_said_cannot_control_the_terminal(show):
    show.call.agent("one", "Hel\x1b[2Jlo\x9b!", HELLO, 0)
    assert show.look(60) == ["0:00.1 agent Hel [2Jlo !"]


def test_an_answer_has_the_wait_for_it_beside_it(show):
    show.call.agent("one", "Hello!", HELLO, 0)
    show.look(500)
    show.call.says("A table, please.", 1500, 2500)
    show.now = START + 1.5
    show.live.caller_says("A table, please.")
    assert show.new() == ["0:01.5 caller A table, please."]
    show.live.caller_ends(silent_ms=200)
    show.call.agent("two", "With pleasure!", ANSWER, 2900)
    assert show.look(3000) == ["0:03.0 agent +0.60 s With pleasure!"]
    show.call.agent("three", "And more.", tone(700, 500), 7000)
    assert show.look(7100) == ["0:07.1 agent And more."], "no answer, so no wait"


def test_a_barge_in_says_what_was_heard_and_what_the_model_was_told(show):
    show.call.agent("one", "A long answer.", ANSWER, 0)
    show.look(500)
    show.call.clear(1502)
    show.call.truncate("one", 1480)
    show.call.truncate("unknown", 100)
    assert show.look(1600) == [
        "0:01.5 barge-in 4.00 s said, 1.50 s heard; the model was told 1.48 s",
        "unheard long answer.",
    ]
    assert show.look(1700) == []


def test_what_was_heard_before_a_pause_counts(show):
    show.call.agent("one", "A long answer.", ANSWER, 0)
    show.look(500)
    show.call.clear(1002)  # the phone plays from 2 ms on
    show.call.playout.media(ANSWER[1000 * 8 :], START + 2.0)
    show.look(2100)
    show.call.clear(2500)
    show.call.truncate("one", 1490)
    assert show.look(2600)[0] == "0:02.5 barge-in 4.00 s said, 1.50 s heard; the model was told 1.49 s"


def test_what_was_not_heard_is_struck_through(show):
    show.live._console = show.console = Console(file=io.StringIO(), width=120, force_terminal=True, no_color=True)
    show.call.agent("one", "A long answer.", ANSWER, 0)
    show.look(500)
    show.call.clear(1502)
    show.call.truncate("one", 1480)
    assert any("\x1b[9mlong answer.\x1b[0m" in line for line in show.look(1600))


def test_sentences_that_a_brain_adds_follow(show):
    item = show.call.agent("one", "Hello!", HELLO, 0)
    assert show.look(60) == ["0:00.1 agent Hello!"]
    item.text += " How are you?"
    assert show.look(160) == ["How are you?"]
    assert show.look(260) == []


def test_what_is_murmured_is_marked(show):
    show.live._murmured = lambda text: text == "Hello!"
    show.call.agent("one", "Hello!", HELLO, 0)
    assert show.look(60) == ["0:00.1 agent Hello! (murmured)"]


def test_a_truncation_that_the_model_refused_is_not_shown(show):
    show.call.agent("one", "A long answer.", ANSWER, 0)
    show.look(500)
    show.call.clear(1502)
    show.call.truncate("one", 9000, ok=False)
    assert show.look(1600) == []


def test_an_item_that_was_cut_off_before_it_was_heard_holds_nothing_up(show):
    item = show.call.agent("one", "Never heard.", ANSWER, 0, reaching=0)
    assert show.look(100) == []
    item.interrupted = True
    show.call.agent("two", "Hello!", HELLO, 200)
    assert show.look(300) == ["0:00.3 agent Hello!"]


def test_a_tool_is_shown_when_it_has_returned(show):
    show.call.tool("book_table", {"guests": 4}, "Booked.", 1000, 250)
    (record,) = show.call.session.tool_calls
    returned_at, record.returned_at = record.returned_at, None
    assert show.look(1100) == []
    record.returned_at = returned_at
    assert show.look(1300) == ["0:01.0 tool 250 ms book_table(guests=4) → Booked."]
    assert show.look(1400) == []


def test_a_call_without_a_model_session_is_quiet(show):
    show.model.sessions.clear()
    assert show.look(100) == []


@pytest.mark.anyio
async def test_it_looks_until_it_is_cancelled(show, monkeypatch):
    looks = []

    async def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(live, "asyncio", SimpleNamespace(sleep=sleep))
    show.call.agent("one", "Hello!", HELLO, 0)
    show.now = START + 0.5
    show.call.line.heard = []
    with pytest.raises(KeyboardInterrupt):
        await show.live.run()
    assert looks == [live.TICK_SECONDS] * 3
    assert show.new() == ["0:00.5 agent Hello!"]
