from __future__ import annotations

from phoneagent.bridge.spoken_items import MAX_PAUSES, Outcome, Paused, SpokenItem


def test_its_stretches_of_the_stream_count_up_to_a_position() -> None:
    item = SpokenItem("i1", 0, before=80, runs=[(0, 100), (300, 400)])
    assert [item.heard(position) for position in (0, 50, 200, 350, 999)] == [80, 130, 180, 230, 280]


def test_it_is_over_when_all_of_it_came_was_written_and_heard() -> None:
    assert SpokenItem("i1", 0, complete=True, runs=[(0, 100)]).over(100)
    assert not SpokenItem("i1", 0, complete=True, runs=[(0, 100)]).over(99)
    assert not SpokenItem("i1", 0, complete=True, waiting=8, runs=[(0, 100)]).over(100)
    assert not SpokenItem("i1", 0, runs=[(0, 100)]).over(100)


def test_the_pauses_of_an_item_are_bounded() -> None:
    item = SpokenItem("i1", 0)
    for second in range(MAX_PAUSES + 2):
        item.paused(Paused(second, second + 0.5, "noise"))
    assert [since for since, _, _ in item.pauses] == list(range(2, MAX_PAUSES + 2))


def test_an_item_that_was_cut_off_is_never_whole() -> None:
    item = SpokenItem("i1", 2, received=1607, complete=True)
    assert item.outcome(800) == Outcome("i1", 2, 100, 200, complete=True)
    item.cut = True
    assert not item.outcome(1607).complete
