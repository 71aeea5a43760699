"""`call.state` on its way to the next media stream."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Call, CallerSpoke, ToolReturned
from phoneagent.calls import state
from phoneagent.calls.state import CallState, restore
from phoneagent.events import CallHandedOver, CallStarted
from phoneagent.twilio.parameters import MAX_PARAMETERS

RETURNED = ToolReturned(call_sid="CA1", at_ms=1, call_id="c", name="t", output="", ms=1)
HANDED_OVER = CallHandedOver(call_sid="CA1", at_ms=1, reason="")
STARTED = CallStarted(call_sid="CA1", stream_sid="MZ1", caller=None, called=None, direction="inbound")
SPOKE = CallerSpoke(call_sid="CA1", at_ms=1)


def call(**state: Any) -> Call:
    return Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC), state=state)


def unpack(text: str | None) -> dict[str, Any]:
    """Return the state of a call that continues with `text`."""
    restored = call()
    restore(restored, text)
    return restored.state


def test_parameters_are_kept_at_the_start_and_with_every_state() -> None:
    ours, kept = call(), []
    ours.parameters = {"tenant": "7"}
    watched = CallState(ours, kept.append)
    watched.look(STARTED)
    watched.look(STARTED)
    ours.state["text"] = "x" * state.MAX_CHARS
    watched.look(RETURNED)
    ours.state["text"] = "short"
    watched.look(RETURNED)
    for text, expected in zip(kept, [{}, {"text": "short"}], strict=True):
        restored = call(name="Anna")
        restored.parameters = {"CallerName": "ANNA"}
        restore(restored, text)
        assert restored.parameters == {"CallerName": "ANNA", "tenant": "7"}
        assert restored.state == {"name": "Anna", **expected}


def test_a_newer_parameter_replaces_one_that_was_kept_and_their_sum_is_bounded() -> None:
    restored = call()
    restored.parameters = {"tenant": "8"}
    many = {f"n{number}": "x" for number in range(MAX_PARAMETERS)}
    restore(restored, json.dumps({state.PARAMETERS: {"tenant": "7", **many}}))
    assert restored.parameters["tenant"] == "8"
    assert len(restored.parameters) == MAX_PARAMETERS
    restore(restored, json.dumps({state.PARAMETERS: [1]}))
    assert len(restored.parameters) == MAX_PARAMETERS


def test_what_has_changed_is_kept_and_only_that() -> None:
    ours, kept = call(), []
    watched = CallState(ours, kept.append)
    watched.look(RETURNED)
    assert kept == []
    ours.state["guests"] = [2, {"Anna": "vegan"}]
    watched.look(SPOKE)
    assert kept == []
    watched.look(RETURNED)
    watched.look(HANDED_OVER)
    assert [unpack(text) for text in kept] == [{"guests": [2, {"Anna": "vegan"}]}]
    ours.state["guests"].append(None)
    watched.look(HANDED_OVER)
    del ours.state["guests"]
    watched.look(HANDED_OVER)
    assert [unpack(text) for text in kept[1:]] == [{"guests": [2, {"Anna": "vegan"}, None]}, {}]


def test_what_was_carried_here_is_not_kept_again() -> None:
    kept: list[str] = []
    CallState(call(name="Anna"), kept.append).look(RETURNED)
    assert kept == []


def test_what_json_cannot_carry_is_left_out_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    ours, kept = call(), []
    watched = CallState(ours, kept.append)
    circle: list[Any] = []
    circle.append(circle)
    ours.state |= {"name": "Anna \ud800", "connection": object(), "circle": circle, "secret": b"1234"}
    watched.look(RETURNED)
    ours.state["name"] = "Bert"
    watched.look(RETURNED)
    assert [unpack(text)["name"] for text in kept] == ["Anna \ud800", "Bert"]
    assert all(text.isascii() for text in kept)
    assert caplog.messages == [
        "call.state is lost at a hand-over: JSON cannot express connection, circle, secret",
    ]


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_number_that_json_does_not_know_is_not_carried(number: float, caplog: pytest.LogCaptureFixture) -> None:
    ours, kept = call(), []
    watched = CallState(ours, kept.append)
    ours.state.update(a=1, b=[number])
    watched.look(RETURNED)
    assert kept == ['{"a": 1}']
    assert caplog.messages == ["call.state is lost at a hand-over: JSON cannot express b"]


def test_a_state_that_is_too_long_is_not_carried_by_halves(caplog: pytest.LogCaptureFixture) -> None:
    ours, kept = call(), []
    watched = CallState(ours, kept.append)
    for length in (10, state.MAX_CHARS, 20):
        ours.state["text"] = "x" * length
        watched.look(RETURNED)
    assert [len(unpack(text).get("text", "")) for text in kept] == [10, 0, 20]
    assert caplog.messages == ["call.state is lost at a hand-over: it has more than 16384 characters as JSON"]


def test_a_state_that_a_thread_is_just_changing_is_kept_the_next_time() -> None:
    class Busy(dict[str, int]):
        busy = True

        def items(self) -> Any:
            if self.busy:
                raise RuntimeError("dictionary changed size during iteration")
            return super().items()

    ours, kept = call(), []
    watched = CallState(ours, kept.append)
    ours.state["inner"] = inner = Busy(one=1)
    watched.look(RETURNED)
    assert kept == []
    inner.busy = False
    watched.look(RETURNED)
    assert kept == ['{"inner": {"one": 1}}']


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "null"])
def test_what_was_not_kept_is_nothing(text: str | None) -> None:
    assert unpack(text) == {}


def test_names_need_not_be_texts() -> None:
    ours, kept = call(), []
    watched = CallState(ours, kept.append)
    ours.state[7] = 1  # type: ignore[index]
    watched.look(RETURNED)
    assert json.loads(kept[0]) == {"7": 1}


def test_a_muted_call_stays_muted() -> None:
    ours, kept = call(name="Anna"), list[str]()
    watched = CallState(ours, kept.append)
    ours.mute()
    watched.look(HANDED_OVER)
    ours.mute(False)
    watched.look(HANDED_OVER)
    for text, muted in zip(kept, (True, False), strict=True):
        restored = call()
        restore(restored, text)
        assert (restored.muted, restored.state) == (muted, {"name": "Anna"})
