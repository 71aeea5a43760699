"""Prices of models, in one dated table, and the cost of usage.

Amounts are decimal: the cost of a call is exact to a billionth of a dollar, no matter how many responses it has. An
unknown price is not zero: it makes the cost "at least".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import Any

from phoneagent.events import Cost, Usage

PRICES_AS_OF = "2026-11-20"

NANO = Decimal("1e-9")
MAX_PRICE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The prices of a model, in US dollars: per million tokens of each kind, and per `minute` of audio.

    A price may be text, an integer, a float or a Decimal. None means unknown. If only the price of cached tokens is
    unknown, they cost as much as uncached ones.

    Raises:
        ValueError: a price is not a number from 0 to 1,000,000.
    """

    text_in: Decimal | None = None
    text_cached: Decimal | None = None
    text_out: Decimal | None = None
    audio_in: Decimal | None = None
    audio_cached: Decimal | None = None
    audio_out: Decimal | None = None
    image_in: Decimal | None = None
    image_cached: Decimal | None = None
    minute: Decimal | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                object.__setattr__(self, each.name, _dollars(each.name, value))

    def of(self, kind: str) -> Decimal | None:
        """Return the dollars for a million tokens of a kind, which is a field of `Usage`."""
        price: Decimal | None = getattr(self, kind)
        if price is None and kind.endswith("_cached"):
            price = getattr(self, kind.removesuffix("_cached") + "_in")
        return price


def _dollars(name: str, value: Any) -> Decimal:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
            raise ValueError
        price = Decimal(str(value))
        if not 0 <= price <= MAX_PRICE:  # NaN raises InvalidOperation
            raise ValueError
    except (ValueError, InvalidOperation):
        raise ValueError(f"{name} must be a number of dollars from 0 to {MAX_PRICE:,}") from None
    return price


def _price(*prices: str) -> Price:
    names = [each.name for each in fields(Price)]
    return Price(**{name: Decimal(price) for name, price in zip(names, prices, strict=False)})


_LARGE = _price("4", ".40", "16", "32", ".40", "64", "5", ".50")
_LARGE_2 = _price("4", ".40", "24", "32", ".40", "64", "5", ".50")
_MINI = _price(".60", ".06", "2.40", "10", ".30", "20", ".80", ".08")

SIMULATED = "simulated"
"""The model name with which phoneagent's commands use the simulated model. Everything in such a session is free."""

PRICES: Mapping[str, Price] = {
    SIMULATED: Price(**dict.fromkeys([each.name for each in fields(Price)], Decimal())),
    "gpt-realtime": _LARGE,
    "gpt-realtime-1.5": _LARGE,
    "gpt-realtime-2": _LARGE_2,
    "gpt-realtime-2.1": _LARGE_2,
    "gpt-realtime-mini": _MINI,
    "gpt-realtime-2.1-mini": _MINI,
    # transcription
    "gpt-transcribe": Price(minute=Decimal(".0045")),
    "gpt-live-transcribe": Price(minute=Decimal(".017")),
    "gpt-realtime-whisper": Price(minute=Decimal(".017")),
    "gpt-4o-transcribe": Price(text_in=Decimal("2.50"), audio_in=Decimal("6"), text_out=Decimal("10")),
    "gpt-4o-mini-transcribe": Price(text_in=Decimal("1.25"), audio_in=Decimal("3"), text_out=Decimal("5")),
    "whisper-1": Price(minute=Decimal(".006")),
}
"""OpenAI's list prices as of `PRICES_AS_OF`, from the model pages of its documentation, and the simulated model's."""

_DATE = re.compile(r"-20\d\d-\d\d-\d\d$", re.ASCII)


def price_of(model: str, prices: Mapping[str, Price] = PRICES) -> Price | None:
    """Return a model's price; None if it is unknown. A dated name has the price of the name without its date."""
    return prices.get(model) or prices.get(_DATE.sub("", model))


def cost_of(usage: Usage, price: Price | None) -> Cost:
    """Return the cost of usage. If a price is needed and unknown, the cost is "at least" the rest."""
    cost = Cost()
    for each in fields(usage):
        amount: int = getattr(usage, each.name)
        if not amount:
            continue
        per_minute = each.name == "audio_ms"
        rate = None if price is None else price.minute if per_minute else price.of(each.name)
        if rate is None:
            cost += Cost(at_least=True)
        else:
            cost += Cost(amount * rate / (60_000 if per_minute else 1_000_000))
    return Cost(cost.usd.quantize(NANO), cost.at_least)


def read_prices(table: Any) -> dict[str, Price]:
    """Read prices from JSON: {"model": {"audio_in": 32, ...}, ...}, with the field names of `Price`.

    Raises:
        ValueError: the table is malformed. The message names the model.
    """
    if not isinstance(table, Mapping):
        raise ValueError('it must be a JSON object, like {"gpt-transcribe": {"minute": 0.006}}')
    prices: dict[str, Price] = {}
    known = [each.name for each in fields(Price)]
    for model, given in table.items():
        if isinstance(given, Price):
            prices[model] = given
            continue
        if not isinstance(given, Mapping) or not set(given) <= set(known):
            raise ValueError(f"the price of {str(model)[:100]!r} must be an object of {', '.join(known)}")
        try:
            prices[model] = Price(**given)
        except ValueError as error:
            raise ValueError(f"the price of {str(model)[:100]!r}: {error}") from None
    return prices
