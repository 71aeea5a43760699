"""Bills: ten calls whose cost is computed by hand, and what holds for every bill."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.billing.prices import PRICES, Price, cost_of, price_of, read_prices
from phoneagent.events import CallEnded, Cost, Usage, UsageReported
from phoneagent.protocol import realtime
from tests.bridge.rig import Rig

RECORDED = Path(__file__).parent.parent / "data" / "usage"

# In millionths of a dollar: tokens × dollars for a million.
BILLS = {
    # 200 text × 4 = 800; out: 20 text × 24 = 480, 60 audio × 64 = 3840
    "01-greeting": Cost(Decimal("0.005120")),
    # 1000 × 4 + 50 × 32 + 30 × 24 + 120 × 64                                  = 4000 + 1600 + 720 + 7680     = 14000
    # 80 × 4 + 960 × .4 + 156 × 32 + 64 × .4 + 40 × 24 + 180 × 64     = 320 + 384 + 4992 + 25.6 + 960 + 11520 = 18201.6
    # 66 × 4 + 1024 × .4 + 288 × 32 + 192 × .4 + 25 × 24 + 90 × 64  = 264 + 409.6 + 9216 + 76.8 + 600 + 5760  = 16326.4
    "02-three-turns": Cost(Decimal("0.048528")),
    # 500 × 4 + 30 × 32 + 40 × 16 = 2000 + 960 + 640 = 3600
    # 152 × 4 + 448 × .4 + 30 × 32 + 20 × 16 + 80 × 64 = 608 + 179.2 + 960 + 320 + 5120 = 7187.2
    "03-tool": Cost(Decimal("0.0107872")),
    # 500 × .6 + 1500 × .06 + 100 × 10 + 200 × .3 + 100 × 2.4 + 400 × 20 = 300 + 90 + 1000 + 60 + 240 + 8000
    "04-mini": Cost(Decimal("0.009690")),
    # 100 × 4 + 20 × 32 + 10 × 24 + 40 × 64 = 400 + 640 + 240 + 2560, and what nobody knows
    "05-barge-in": Cost(Decimal("0.003840"), at_least=True),
    # 5120 as above; 300 × 4 + 50 × 24 = 1200 + 1200
    "06-out-of-band": Cost(Decimal("0.007520")),
    # 100 × 4 + 80 × 32 + 15 × 24 + 70 × 64 = 400 + 2560 + 360 + 4480 = 7800; 8 s × 4500 / 60 s = 600
    "07-paid-by-the-minute": Cost(Decimal("0.008400")),
    # 7800 as above; 45 × 3 + 5 × 1.25 + 12 × 5 = 135 + 6.25 + 60; 30 × 3 + 8 × 5 = 90 + 40
    "08-paid-by-the-token": Cost(Decimal("0.00813125")),
    # 7800 as above, and what nobody knows
    "09-unknown-price": Cost(Decimal("0.007800"), at_least=True),
    # the cached ones are 400 text and 100 image: 400 × .4 + 900 × 5 + 100 × .5 + 100 × 32 + 10 × 24 + 30 × 64
    #     = 160 + 4500 + 50 + 3200 + 240 + 1920 = 10070
    # all of it counts as audio: 50 × 32 + 20 × 64 = 1600 + 1280 = 2880
    "10-few-details": Cost(Decimal("0.012950")),
}


def play(name: str) -> Rig:
    recorded = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    rig = Rig()
    rig.bridge.budget.new_session(recorded["session"], rig.now)
    rig.model(*(realtime.decode(json.dumps(event)) for event in recorded["events"]))
    return rig


def test_every_recorded_call_has_a_bill() -> None:
    assert sorted(path.stem for path in RECORDED.iterdir()) == sorted(BILLS)


@pytest.mark.parametrize("name", BILLS)
def test_a_call_costs_what_was_computed_by_hand(name: str) -> None:
    rig = play(name)
    rig.stop()
    (ended,) = rig.events(CallEnded)
    assert ended.cost == BILLS[name]
    reports = rig.events(UsageReported)
    assert sum((each.cost for each in reports), Cost()) == reports[-1].total == ended.cost
    assert [each.number for each in reports] == list(range(1, len(reports) + 1))


def test_missing_details_are_said() -> None:
    assert ["does not break down its tokens" in what for what in play("10-few-details").troubles] == [True]
    assert play("02-three-turns").troubles == []


def test_each_report_names_its_source_and_model() -> None:
    reports = play("07-paid-by-the-minute").events(UsageReported)
    assert [(each.source, each.model) for each in reports] == [
        ("transcription", "gpt-transcribe"),
        ("response", "gpt-realtime-2.1"),
        ("transcription", "gpt-transcribe"),
    ]
    assert [each.usage.audio_ms for each in reports] == [3200, 0, 4800]
    assert reports[1].usage == Usage(text_in=100, audio_in=80, text_out=15, audio_out=70)


# --- prices ---


def test_a_date_in_the_name_changes_no_price() -> None:
    assert price_of("gpt-realtime-2025-08-28") is PRICES["gpt-realtime"]
    assert price_of("gpt-realtime-mini-2025-12-15") is PRICES["gpt-realtime-mini"]
    assert price_of("gpt-realtime-9") is None
    dated = Price(text_in=Decimal(1))
    assert price_of("gpt-realtime-2025-08-28", {**PRICES, "gpt-realtime-2025-08-28": dated}) is dated


def test_what_is_unknown_is_not_for_nothing() -> None:
    known = Price(text_in=Decimal(4))
    assert cost_of(Usage(text_in=10, audio_out=5), known) == Cost(Decimal("0.00004"), at_least=True)
    assert cost_of(Usage(text_in=10), None) == Cost(at_least=True)
    assert cost_of(Usage(), None) == Cost()
    assert cost_of(Usage(audio_ms=60_000), known) == Cost(at_least=True)


def test_without_a_price_for_cached_tokens_they_cost_what_others_cost() -> None:
    assert cost_of(Usage(audio_cached=10), Price(audio_in=Decimal(32))).usd == Decimal("0.00032")


def test_what_is_free_is_known_to_be_free() -> None:
    assert cost_of(Usage(audio_out=5), Price(audio_out=Decimal(0))) == Cost()


def test_prices_are_read_from_json() -> None:
    prices = read_prices({"m": {"audio_in": 32, "audio_out": "64.5", "minute": 0.0045}, "n": Price()})
    assert prices["m"] == Price(audio_in=Decimal(32), audio_out=Decimal("64.5"), minute=Decimal("0.0045"))
    assert prices["n"] == Price()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "a JSON object"),
        ({"m": 3}, "the price of 'm' must be an object of text_in, "),
        ({"m": {"audio": 3}}, "the price of 'm' must be an object of text_in, "),
        ({"m": {"audio_in": -1}}, "the price of 'm': audio_in must be a number of dollars from 0 to 1,000,000"),
        ({"m": {"audio_in": "NaN"}}, "audio_in must be a number"),
        ({"m": {"audio_in": "Infinity"}}, "audio_in must be a number"),
        ({"m": {"audio_in": "much"}}, "audio_in must be a number"),
        ({"m": {"audio_in": True}}, "audio_in must be a number"),
        ({"m": {"audio_in": [1]}}, "audio_in must be a number"),
    ],
)
def test_prices_that_are_none_are_refused(table: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_prices(table)


# --- what holds for every bill ---

usages = st.builds(Usage, **{each.name: st.integers(0, 10_000_000) for each in fields(Usage)})
models = st.sampled_from([*PRICES, "nobody-knows"])


@given(usages, usages, models)
def test_two_bills_are_the_bill_of_both(one: Usage, other: Usage, model: str) -> None:
    price = price_of(model)
    apart, together = cost_of(one, price) + cost_of(other, price), cost_of(one + other, price)
    assert abs(apart.usd - together.usd) <= Decimal("2e-9")  # each is rounded once
    assert apart.at_least == together.at_least


@given(usages, st.sampled_from([each.name for each in fields(Usage)]), st.integers(1, 1000), models)
def test_more_never_costs_less(usage: Usage, kind: str, more: int, model: str) -> None:
    dearer = replace(usage, **{kind: getattr(usage, kind) + more})
    assert cost_of(dearer, price_of(model)).usd >= cost_of(usage, price_of(model)).usd


@given(usages, st.sampled_from(["text", "audio", "image"]), models)
def test_the_cache_never_makes_it_more_expensive(usage: Usage, kind: str, model: str) -> None:
    fresh, cached = f"{kind}_in", f"{kind}_cached"
    read_before = replace(usage, **{fresh: 0, cached: getattr(usage, fresh) + getattr(usage, cached)})
    assert cost_of(read_before, price_of(model)).usd <= cost_of(usage, price_of(model)).usd
