"""The recording of a call on its page: it is played, and the timeline shows where; and what a call between two has."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Response, expect

from phoneagent.events import CallTransferred, RecordingChanged, RecordingStatus, TurnEnded
from phoneagent.store.recordings import Recordings
from tests.browser.conftest import MICROPHONE, Serves, Visitor, an_agent
from tests.browser.look import until
from tests.browser.test_console import SAID, begin, end, ended, started

pytestmark = pytest.mark.real_time

SID = "CA" + "7" * 32
LATER_S = 2.0
"""How much later than the call its recording begins."""
RECORDED_S = 6
NEAR_S = 0.3
PLAYER = "document.querySelector('#call-audio audio')"
CURSOR = "Number(document.querySelector('.lanes .cursor')?.getAttribute('x1') ?? -1)"


@pytest.fixture
def microphone() -> tuple[str, ...]:
    """No microphone, but sound without a gesture."""
    return MICROPHONE[-1:]


def changed(status: RecordingStatus, at_ms: int) -> RecordingChanged:
    return RecordingChanged(call_sid=SID, at_ms=at_ms, status=status, where="recordings", duration_ms=at_ms)


def test_a_recording_is_played_with_a_cursor_and_found_by_a_click(
    serves: Serves, visitor: Visitor, tmp_path: Path
) -> None:
    folder = tmp_path / "recordings"
    with serves(an_agent(), record_audio=str(folder)) as served:
        track = Recordings(str(folder)).begin(SID, "MZ1", datetime.now(UTC) + timedelta(seconds=LATER_S))
        track.append(b"\x90\xff" * (8000 * RECORDED_S))
        served.emit(started(SID), TurnEnded(call_sid=SID, turn=SAID), changed("completed", 9000), ended(SID))
        page = visitor.watch(visitor.context().new_page())
        parts: list[Response] = []
        page.on("response", lambda answer: parts.append(answer) if "audio.wav" in answer.url else None)
        page.goto(f"{served.url}/console/calls/{SID}")
        expect(page.locator("#facts")).to_contain_text("Recording")
        expect(page.locator("#call-audio audio")).to_be_visible()
        until(page, f"{PLAYER}.duration > 0")
        assert page.evaluate(f"{PLAYER}.duration") == pytest.approx(RECORDED_S, abs=0.01)
        assert 206 in {answer.status for answer in parts}

        lanes = page.locator("#lanes > svg").bounding_box()
        assert lanes is not None
        pixels = page.evaluate("Number(document.querySelectorAll('.lanes .grid')[1].getAttribute('x1'))")
        wanted = 5.0  # seconds into the call
        page.mouse.click(lanes["x"] + wanted * pixels, lanes["y"] + 5)
        until(page, f"{CURSOR} > 0")
        assert page.evaluate(f"{PLAYER}.currentTime") == pytest.approx(wanted - LATER_S, abs=NEAR_S)
        assert page.evaluate(CURSOR) == pytest.approx(wanted * pixels, abs=2)

        before = page.evaluate(CURSOR)
        page.evaluate(f"{PLAYER}.play()")
        until(page, f"{CURSOR} > {before} + {pixels} / 2")
        page.evaluate(f"{PLAYER}.pause()")
        at = page.evaluate(f"{PLAYER}.currentTime")
        assert page.evaluate(CURSOR) == pytest.approx((LATER_S + at) * pixels, abs=NEAR_S * pixels)
        with page.expect_download() as saving:
            page.get_by_role("link", name="Save as WAV").click()
        assert saving.value.suggested_filename == f"{SID}.wav"
        assert saving.value.path().stat().st_size == 44 + 8000 * RECORDED_S * 4


def test_a_recording_that_cannot_be_read_is_asked_for_again(serves: Serves, visitor: Visitor, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    with serves(an_agent(), record_audio=str(folder)) as served:
        Recordings(str(folder)).begin(SID, "MZ1", datetime.now(UTC)).append(b"\x90\xff" * 8000)
        served.emit(started(SID), TurnEnded(call_sid=SID, turn=SAID), changed("completed", 9000), ended(SID))
        page = visitor.watch(visitor.context().new_page())
        page.route("**/audio.wav", lambda route: route.fulfill(status=503), times=1)
        page.goto(f"{served.url}/console/calls/{SID}")
        expect(page.locator("#call-audio")).to_contain_text("The recording cannot be read now")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#call-audio audio")).to_be_visible()
        expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_a_recording_that_was_deleted_leaves_no_player(serves: Serves, visitor: Visitor, tmp_path: Path) -> None:
    with serves(an_agent(), record_audio=str(tmp_path / "recordings")) as served:
        served.emit(started(SID), TurnEnded(call_sid=SID, turn=SAID), changed("completed", 9000), ended(SID))
        page = visitor.watch(visitor.context().new_page())
        with page.expect_response(lambda answer: answer.url.endswith("audio.wav")) as asked:
            page.goto(f"{served.url}/console/calls/{SID}")
        assert asked.value.status == 404
        expect(page.locator("#facts")).to_contain_text("Recording")
        expect(page.locator("#call-audio")).to_be_hidden()


def test_a_callee_a_transfer_and_the_recording_are_told(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, SID)
        page = visitor.visit(f"{served.url}/console/calls/{SID}")
        expect(page.locator("#state")).to_have_text("Live")
        expect(page.get_by_text("callee", exact=True)).to_be_hidden()
        words = "Kitchen here"
        callee = replace(SAID, role="callee", item_id="c1", text=words, heard_text=words, start_ms=2000, end_ms=4000)
        wordless = replace(callee, item_id="c2", text="", heard_text="", start_ms=5000, end_ms=5500)
        served.emit(
            TurnEnded(call_sid=SID, turn=SAID),
            TurnEnded(call_sid=SID, turn=callee),
            TurnEnded(call_sid=SID, turn=wordless),
            changed("in-progress", 100),
            changed("stopped", 4500),
            replace(changed("stopped", 5500), complete=False),  # it is told again when it is written
            CallTransferred(call_sid=SID, to_name="kitchen", outcome="no-answer", warm=True),
        )
        callees = page.locator(".entry.callee")
        expect(callees).to_have_count(2)
        expect(callees.first).to_contain_text("Callee")
        expect(callees.first.locator(".heard")).to_have_text(words)
        expect(callees.last).to_contain_text("(no words recognized)")
        expect(page.locator(".lanes .block.callee")).to_have_count(2)
        told = "0 turns of the caller, 1 of the agent, 2 of the callee, 0 interrupted, 0 tools"
        expect(page.locator("#lanes > svg")).to_have_attribute("aria-label", re.compile(told))
        expect(page.get_by_text("callee", exact=True)).to_be_visible()
        recording = page.locator(".entry.recording")
        expect(recording).to_have_text(["0:00.1Recordingstarted", "0:04.5Recordingstopped, not all of it was written"])
        expect(page.locator(".entry.transfer")).to_contain_text("kitchen: no-answer, announced")
        expect(page.locator(".lanes .mark.transfer")).to_have_count(1)
        end(served, SID)
