from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from phoneagent.demo.report import BargeIn, Latency, Report, Turn
from phoneagent.demo.timeline import WIDTH, Note, draw, rows, wrap
from phoneagent.events import Pause
from phoneagent.protocol.audio import silence, tone

SVG = "{http://www.w3.org/2000/svg}"


def turn(role, start, end, text="some words", *, said=None, heard_text=None):
    heard = end - start
    interrupted = said is not None
    return Turn(role, text, text if heard_text is None else heard_text, start, end, said or heard, heard, interrupted)


def a_report() -> Report:
    turns = [
        turn("agent", 100, 3000, "Hello, this is <the> bar & grill."),
        turn("caller", 4000, 6000, "A table, please."),
        turn("agent", 6700, 12_000, "one two three four five", said=9000, heard_text="one two three"),
        turn("caller", 11_900, 14_000, "Stop!"),
        turn("agent", 14_600, 17_000, "Let me see."),
        turn("agent", 17_000, 22_000, "Done."),
        turn("caller", 24_000, 26_000, "Bye!"),
        turn("agent", 26_500, 29_500, "Goodbye!"),
    ]
    return Report("CA1", "agent", 30_000, turns, [BargeIn("i", 5290, 5300, 100)], latency_ms=Latency(100, 600, 700))


def a_picture(report: Report | None = None, **changes) -> ElementTree.Element:
    given = {"caller": tone(300, 30_000), "agent": tone(300, 30_000), **changes}
    return ElementTree.fromstring(draw(report or a_report(), **given))


def texts(picture: ElementTree.Element) -> list[tuple[float, float, str, str]]:
    return [
        (float(each.get("x")), float(each.get("y")), each.get("class"), "".join(each.itertext()))
        for each in picture.iter(f"{SVG}text")
    ]


def test_every_word_is_in_the_picture():
    shown = " ".join(text for _, _, _, text in texts(a_picture()))
    for each in a_report().turns:
        for word in each.text.split():
            assert word in shown


def test_what_is_no_character_of_xml_is_left_out():
    words = turn("agent", 100, 3000, "one\x1b[2J\x00 two\ufffe \ud83dthree", said=9000, heard_text="one\x1b[2J\x00")
    picture = a_picture(Report("CA1", "agent", 3000, [words]), tools=[Note(200, "book\x08(…)")])
    shown = [text for *_, text in texts(picture)]
    assert {"one [2J two three", "book (…)"} <= set(map(" ".join, map(str.split, shown)))


@pytest.mark.parametrize(
    ("by", "words"), [("", "not ended yet"), ("line", "the call failed"), ("agent", "ended by the")]
)
def test_how_the_call_ended(by: str, words: str):
    assert words in " ".join(text for *_, text in texts(a_picture(Report("CA1", by, 3000))))


def test_what_was_not_heard_is_struck_through():
    unheard = [span.text for span in a_picture().iter(f"{SVG}tspan") if span.get("class") == "unheard"]
    assert unheard == ["four five"]
    assert any(each.get("class") == "ghost" for each in a_picture().iter(f"{SVG}rect"))
    assert "heard 5.3 s" in [text for *_, text in texts(a_picture())]


def test_waits_are_told_with_their_length():
    waits = [text for *_, style, text in texts(a_picture()) if "waited" in style]
    assert waits == ["0.70 s", "0.60 s", "0.50 s"]


def test_tool_calls_have_a_label_each():
    notes = [Note(14_000, "book(guests=4) → done"), Note(15_000, "x" * 300)]
    picture = a_picture(tools=notes)
    labels = [(y, text) for _, y, style, text in texts(picture) if style == "tool"]
    assert labels[0][1] == "book(guests=4) → done"
    assert len(labels[1][1]) == 110
    assert labels[1][0] - labels[0][0] >= 20


def boxes(picture: ElementTree.Element) -> list[tuple[float, float, float, float, str]]:
    size = {"small": 6.0, "title": 8.5}
    found = []
    for x, y, style, text in texts(picture):
        wide = next((value for name, value in size.items() if name in style), 6.4)
        found.append((x, y - 11, x + wide * len(text), y + 3, text))
    return found


@pytest.mark.parametrize(
    "report",
    [
        a_report(),
        Report("CA1", "caller", 4000, [turn("agent", 0, 300, "Hi"), turn("agent", 300, 3900, "word " * 60)]),
        Report("CA1", "error", 90_000, [turn("caller", n * 3000, n * 3000 + 2500, "one two three") for n in range(30)]),
        Report("CA1", "agent", 50_000, [turn("agent", 0, 49_000, "a long speech " * 40)]),
        Report("CA1", "line", 0),
        Report(
            "CA1",
            "agent",
            20_000,
            [turn("caller", 100, 900, "Hello?"), turn("agent", 1500, 19_900, "a long speech " * 10)],
            pauses=[Pause(start_ms=n * 1000 + 600, end_ms=n * 1000 + 1100, cause="backchannel") for n in range(1, 20)],
        ),
    ],
    ids=["usual", "crowded", "long", "monologue", "empty", "coughs"],
)
def test_no_text_overlaps_another_or_leaves_the_page(report):
    picture = a_picture(report)
    height = float(picture.get("height"))
    found = boxes(picture)
    for index, (x1, y1, x2, y2, text) in enumerate(found):
        assert x1 >= 0, text
        assert x2 <= WIDTH, text
        assert y1 >= 0, text
        assert y2 <= height, text
        for other in found[index + 1 :]:
            apart = other[0] >= x2 or other[2] <= x1 or other[1] >= y2 or other[3] <= y1
            assert apart, f"{text!r} overlaps {other[4]!r}"


def test_it_reads_on_light_and_on_dark_pages():
    assert "prefers-color-scheme: dark" in draw(a_report(), caller=b"", agent=b"")


def test_silence_draws_no_wave():
    loud, quiet = a_picture(), a_picture(caller=silence(30_000), agent=silence(30_000))

    def bars(picture):
        return sum(
            len(re.findall("M", path.get("d"))) for path in picture.iter(f"{SVG}path") if path.get("class") != "wait"
        )

    assert bars(loud) > 500
    assert bars(quiet) == 0


def test_rows_end_in_silence():
    turns = a_report().turns
    found = rows(turns, 30_000)
    assert (found[0][0], found[-1][1]) == (0, 30_000)
    assert len(found) == 2
    (_, end), (start, _) = found
    assert end == start
    assert not any(each.start_ms < end < each.end_ms for each in turns)


def test_rows_cut_a_monologue_all_the_same():
    assert rows([turn("agent", 0, 60_000)], 60_000) == [(0, 20_000), (20_000, 40_000), (40_000, 60_000)]


def test_rows_of_nothing():
    assert rows([], 0) == [(0, 1)]


def test_wrap():
    assert wrap("one two three", "four five", 9) == [("one two", ""), ("three", ""), ("", "four five")]
    assert wrap("one", "two", 9) == [("one", "two")]
    assert wrap("enormously", "", 4) == [("enormously", "")]
    assert wrap("", "", 4) == []


def paused_report(*pauses: Pause) -> Report:
    turns = [
        turn("caller", 1000, 2000, "A long story, please."),
        turn("agent", 2600, 12_000, "Once upon a time."),
        turn("caller", 5000, 5400, "Mhm."),
    ]
    return Report("CA1", "agent", 13_000, turns, pauses=list(pauses))


@pytest.mark.parametrize("track", [tone(300, 13_000), b""], ids=["with sound", "without sound"])
def test_a_pause_after_which_the_agent_went_on_is_marked(track):
    pause = Pause(start_ms=5100, end_ms=6300, cause="backchannel")
    picture = a_picture(paused_report(pause), caller=track, agent=track)
    (band,) = [each for each in picture.iter(f"{SVG}rect") if each.get("class") == "pause"]
    (words,) = [text for *_, text in texts(picture) if text.startswith("paused")]
    assert words == "paused 1.2 s for a back-channel"
    px_per_ms = (WIDTH - 84 - 24) / 13_000
    assert float(band.get("x")) == pytest.approx(84 + 5100 * px_per_ms, abs=0.1)
    assert float(band.get("width")) == pytest.approx(1200 * px_per_ms, abs=0.1)


def test_a_pause_is_a_gap_in_the_bar_of_a_turn_without_sound():
    pause = Pause(start_ms=5100, end_ms=6300, cause="noise")
    px_per_ms = (WIDTH - 84 - 24) / 13_000
    picture = a_picture(paused_report(pause), caller=b"", agent=b"")
    bars = [each for each in picture.iter(f"{SVG}rect") if each.get("class") == "agent bar"]
    ends = [(float(bar.get("x")) - 84, float(bar.get("x")) - 84 + float(bar.get("width"))) for bar in bars]
    expected = [(2600, 5100), (6300, 12_000)]
    assert ends == [pytest.approx((start * px_per_ms, end * px_per_ms), abs=0.2) for start, end in expected]
    assert len([each for each in picture.iter(f"{SVG}rect") if each.get("class") == "caller bar"]) == 2


def test_a_sound_that_did_not_interrupt_waits_for_no_answer():
    pause = Pause(start_ms=5100, end_ms=6300, cause="noise")
    report = paused_report(pause)
    report.turns.append(turn("agent", 12_400, 12_900, "The end."))
    waited = [text for *_, style, text in texts(a_picture(report)) if style == "waited small"]
    assert sorted(waited) == ["0.60 s", "paused 1.2 s for a noise"]
    assert "7.00 s" in [text for *_, text in texts(a_picture(replace(report, pauses=[])))]
