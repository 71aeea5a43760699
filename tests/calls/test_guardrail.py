"""The guardrail: asked about the newest words, one question at a time; whatever it does, the call goes on."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from phoneagent import Call
from phoneagent.agent.agent import Guardrail
from phoneagent.calls import guardrail
from phoneagent.calls.guardrail import MAX_CHARS, MAX_FAILURES, Guard
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


class Guarded:
    """A guard at work."""

    def __init__(self, guardrail: Guardrail) -> None:
        self.guardrail = guardrail
        self.said: list[str] = []
        self.troubles: list[str] = []
        call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
        self.guard = Guard(call, replace=self.said.append, report=self.troubles.append)

    def words(self, words: str, response: str = "r1", item: str = "i1", *, complete: bool = False) -> None:
        self.guard.words(self.guardrail, response, item, words, complete=complete)

    async def rest(self) -> None:
        assert self.guard.task is not None
        async with asyncio.timeout(HANG_SECONDS):
            await self.guard.task


def no_prices(call: Call, text: str) -> str | None:
    return "I cannot talk about prices." if "price" in text else None


async def test_it_sees_the_answer_grow_and_may_replace_it() -> None:
    guarded = Guarded(no_prices)
    for words in ("Our ", "pri"):
        guarded.words(words)
        await guarded.rest()
    assert guarded.said == []
    guarded.words("ce is ten.")
    await guarded.rest()
    assert guarded.said == ["I cannot talk about prices."]


async def test_once_is_enough_for_an_answer() -> None:
    guarded = Guarded(no_prices)
    guarded.words("The price")
    await guarded.rest()
    guarded.words(" is ten.")
    guarded.words("The price is ten.", complete=True)
    await guarded.rest()
    assert len(guarded.said) == 1
    guarded.words("The price", "r2")
    await guarded.rest()
    assert len(guarded.said) == 2


async def test_all_items_of_an_answer_are_one_text() -> None:
    seen: list[str] = []

    async def note(call: Call, text: str) -> None:
        seen.append(text)

    guarded = Guarded(note)
    guarded.words("One.", item="i1")
    guarded.words("Two.", item="i2", complete=True)
    await guarded.rest()
    guarded.words("Two.", item="i2", complete=True)  # nothing new
    guarded.words("Three.", "r2", "i3")
    await guarded.rest()
    assert seen == ["One. Two.", "Three."]


async def test_it_is_asked_one_question_at_a_time_and_about_the_newest_words() -> None:
    seen: list[str] = []
    go = asyncio.Event()

    async def slow(call: Call, text: str) -> None:
        seen.append(text)
        await go.wait()

    guarded = Guarded(slow)
    guarded.words("a")
    await asyncio.sleep(0)
    for words in "bcd":
        guarded.words(words)
        await asyncio.sleep(0)
    assert seen == ["a"]
    go.set()
    await guarded.rest()
    assert seen == ["a", "abcd"]


async def test_a_plain_one_runs_in_a_thread() -> None:
    threads: list[threading.Thread] = []
    guarded = Guarded(lambda call, text: threads.append(threading.current_thread()))
    guarded.words("a")
    await guarded.rest()
    assert threads[0] is not threading.main_thread()


async def test_a_verdict_that_comes_late_is_still_said() -> None:
    go = asyncio.Event()

    async def slow(call: Call, text: str) -> str | None:
        await go.wait()
        return "Sorry." if text == "bad" else None

    guarded = Guarded(slow)
    guarded.words("bad")
    await asyncio.sleep(0)
    guarded.words("good", "r2")
    go.set()
    await guarded.rest()
    assert guarded.said == ["Sorry."]


async def test_one_that_fails_is_reported_and_the_call_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken(call: Call, text: str) -> str:
        raise LookupError("secret")

    guarded = Guarded(broken)
    guarded.words("a")
    await guarded.rest()
    assert guarded.said == []
    assert guarded.troubles == ["the guardrail failed: LookupError"]


async def test_one_that_would_end_the_process_failed() -> None:
    async def leaves(call: Call, text: str) -> str:
        raise SystemExit(3)

    guarded = Guarded(leaves)
    guarded.words("a")
    await guarded.rest()
    assert guarded.troubles == ["the guardrail failed: RuntimeError"]


@pytest.mark.parametrize("verdict", [7, b"x"])
async def test_one_that_returns_nonsense_failed(verdict: object) -> None:
    guarded = Guarded(lambda call, text: verdict)  # type: ignore[arg-type,return-value]
    guarded.words("a")
    await guarded.rest()
    assert guarded.troubles == ["the guardrail failed: TypeError"]


async def test_one_that_never_answers_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(call: Call, text: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(guardrail, "GUARDRAIL_SECONDS", 0.01)
    guarded = Guarded(never)
    guarded.words("a")
    await guarded.rest()
    assert guarded.troubles == ["the guardrail failed: TimeoutError"]


async def test_one_that_always_fails_is_given_up() -> None:
    asked: list[str] = []

    async def broken(call: Call, text: str) -> None:
        asked.append(text)
        raise LookupError

    guarded = Guarded(broken)
    for _ in range(MAX_FAILURES + 3):
        guarded.words("a")
        await guarded.rest()
    assert len(asked) == MAX_FAILURES
    assert "without it" in guarded.troubles[-1]


async def test_an_endless_answer_is_judged_by_its_beginning() -> None:
    lengths: list[int] = []

    async def note(call: Call, text: str) -> None:
        lengths.append(len(text))

    guarded = Guarded(note)
    for _ in range(4):
        guarded.words("x" * MAX_CHARS)
        await guarded.rest()
    assert max(lengths) <= 2 * MAX_CHARS
