"""Admission: the calls that are put through, and what the others get."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.calls.admission import CALLER, DENIED, DRAINING, FULL, Admission, Refusal
from phoneagent.protocol.callerid import caller_id

ANNA, BERT = "+15550100001", "+15550100002"
WITHHELD = [None, "", "anonymous", "Anonymous", "Restricted", "unknown", "+266696687", "+7378742833", " "]
WITHHELD += ["sip:anonymous@anonymous.invalid", "client:anonymous", "sip:+266696687@pbx.example"]


def admission(
    allow: tuple[str, ...] = (), deny: tuple[str, ...] = (), *, max_calls: int = 5, max_calls_per_caller: int = 2
) -> Admission:
    return Admission(max_calls=max_calls, max_calls_per_caller=max_calls_per_caller, allow=allow, deny=deny)


@pytest.mark.parametrize(
    ("allow", "deny", "party", "refusal"),
    [
        ((), (), ANNA, None),
        ((), (), None, None),
        ((), (ANNA,), ANNA, DENIED),
        ((), (ANNA,), BERT, None),
        ((), (ANNA,), "anonymous", None),
        ((), ("+1555*",), ANNA, DENIED),
        ((), ("+1556*",), ANNA, None),
        ((), (ANNA + "*",), ANNA, DENIED),
        ((), (ANNA,), ANNA + "1", None),
        ((ANNA,), (), ANNA, None),
        ((ANNA,), (), BERT, DENIED),
        ((ANNA,), (), None, DENIED),
        ((ANNA,), (), "sip:anna@example.com", DENIED),
        (("+*",), (), "sip:anna@example.com", DENIED),
        (("+*",), (), "anonymous", DENIED),
        (("+*",), (), "+266696687", DENIED),
        (("+*",), (), ANNA, None),
        (("+1555*",), (ANNA,), ANNA, DENIED),
        (("+1555*",), (ANNA,), BERT, None),
        ((ANNA,), ("+1555*",), ANNA, DENIED),
        ((), (ANNA,), f"sip:{ANNA}@pbx.example:5061;transport=tls", DENIED),
        ((), (ANNA,), f"whatsapp:{ANNA}", DENIED),
        ((), (ANNA[1:],), ANNA, DENIED),
        ((), ("+1555*",), ANNA[1:], DENIED),
        ((ANNA,), (), f"sip:{ANNA}@pbx.example", None),
        (("+1*",), (), "sip:1001@pbx.example", DENIED),
    ],
)
def test_lists(allow: tuple[str, ...], deny: tuple[str, ...], party: str | None, refusal: Refusal | None) -> None:
    assert admission(allow, deny).refuse(party, []) == refusal


@pytest.mark.parametrize(
    ("party", "live", "refusal"),
    [
        (ANNA, [ANNA], None),
        (ANNA, [ANNA, ANNA], CALLER),
        (ANNA, [ANNA, BERT, None], None),
        (ANNA, [BERT] * 5, FULL),
        (ANNA, [BERT] * 4, None),
        (None, [None] * 4, None),
        (None, [None] * 5, FULL),
        ("sip:anna@example.com", ["sip:anna@example.com", "sips:anna@EXAMPLE.com:5061"], CALLER),
        (f"sip:{ANNA}@pbx.example", [ANNA, ANNA[1:]], CALLER),
        (ANNA, [ANNA] * 5, CALLER),  # the fallback number is not for one who fills all lines
    ],
)
def test_shares(party: str | None, live: list[str | None], refusal: Refusal | None) -> None:
    assert admission().refuse(party, live) == refusal


@pytest.mark.parametrize("party", WITHHELD)
def test_withheld_numbers_are_not_one_caller(party: str | None) -> None:
    assert admission(max_calls_per_caller=1).refuse(party, [party] * 3) is None
    assert admission((ANNA,)).refuse(party, []) == DENIED


def test_what_callers_get() -> None:
    assert {each.reason: each.answer for each in (FULL, DENIED, CALLER, DRAINING)} == {
        "full": "fallback",
        "draining": "fallback",
        "denied": "rejected",
        "caller": "busy",
    }


parties = st.one_of(st.none(), st.sampled_from([ANNA, BERT, "sip:anna@example.com", *WITHHELD]), st.text(max_size=20))
entries = st.lists(st.sampled_from([ANNA, BERT, "+1555*", "+1*", "+33*", "+*"]), max_size=3).map(tuple)


@given(parties, st.lists(parties, max_size=8), entries, entries, st.integers(1, 8), st.integers(1, 4))
def test_whatever_comes(
    party: str | None,
    live: list[str | None],
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    most: int,
    each: int,
) -> None:
    def decide(allow: tuple[str, ...], deny: tuple[str, ...]) -> Refusal | None:
        return admission(allow, deny, max_calls=most, max_calls_per_caller=each).refuse(party, live)

    refusal = decide(allow, deny)
    if refusal is None:
        assert len(live) < most
    if len(live) >= most:
        assert refusal is not None
    if not allow and not deny:
        assert refusal != DENIED
    if refusal == DENIED:  # by one list or the other, however empty the house is
        assert DENIED in (decide(allow, ()), decide((), deny))
        assert admission(allow, deny, max_calls=most).refuse(party, []) == DENIED
    else:
        assert decide(allow, ()) == decide((), ()) == refusal
    if party not in live:
        assert refusal != CALLER or caller_id(party) in {caller_id(other) for other in live} - {None}
