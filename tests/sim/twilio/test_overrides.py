"""Connection overrides in a URL's fragment."""

from __future__ import annotations

import pytest

from phoneagent.sim.twilio.overrides import Overrides, read_overrides


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", Overrides()),
        ("#", Overrides()),
        (
            "#ct=100&rt=15000&tt=100&rc=5&rp=5xx,ct&sni=y&e=ashburn,sao-paulo",
            Overrides(100, 15_000, 100, 5, frozenset({"5xx", "ct"})),
        ),
        ("#rc=0&rp=all", Overrides(retries=0, retried=frozenset({"4xx", "5xx", "ct", "rt"}))),
        ("#rp=rt&sni=n", Overrides(retried=frozenset({"rt"}))),
    ],
)
def test_what_a_fragment_asks_for(fragment: str, expected: Overrides):
    assert read_overrides(f"https://agent.example/voice?rc=3{fragment}") == (expected, [])


def test_without_one_there_is_one_retry_after_a_failed_connection():
    usual, _ = read_overrides("https://agent.example/voice")
    assert (usual.connect_ms, usual.read_ms, usual.total_ms) == (5_000, 15_000, 15_000)
    assert (usual.retries, usual.retried) == (1, {"ct"})


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("rc=6", "a number from 0 to 5"),
        ("rc=-1", "a number from 0 to 5"),
        ("rc=", "a number"),
        ("rc=\u0663", "a number"),
        ("ct=99", "a number from 100 to 10000"),
        ("ct=10001", "a number from 100 to 10000"),
        ("rt=15001", "a number from 100 to 15000"),
        ("tt=99999999999", "a number from 100 to 15000"),
        ("rp=ct;rt", "11243 HTTP retry policy is invalid"),
        ("rp=", "11243 "),
        ("rp=3xx", "a list of 4xx, 5xx, ct, rt, or all"),
        ("e=Ashburn", "11240 HTTP connection edge location is invalid"),
        ("sni=yes", "y or n"),
        ("retries=5", "there is none of that name"),
        ("top", "there is none of that name"),
    ],
)
def test_what_twilio_would_not_take_is_a_violation_and_changes_nothing(pair: str, words: str):
    overrides, violations = read_overrides(f"https://agent.example/voice#{pair}&rt=1000")
    assert words in violations[0]
    if not pair.startswith("rt"):
        assert (overrides, len(violations)) == (Overrides(read_ms=1000), 1)


def test_one_that_is_given_twice_is_a_violation():
    overrides, (violation,) = read_overrides("https://agent.example/voice#rc=2&rc=3")
    assert overrides.retries == 2
    assert "given twice" in violation
