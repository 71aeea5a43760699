"""The spellings of an address: each names the same resource and reads as the same parameters."""

from __future__ import annotations

from collections import defaultdict
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.twilio.spellings import (
    MAX_PERMUTED,
    MAX_QUERY_CHARS,
    MAX_QUERY_FIELDS,
    MAX_SEARCHED_CHARS,
    MAX_SPELLINGS,
    is_same_page,
    spellings,
)

ADDRESS = "https://agent.example/twilio/voice"


def queries(raw: str) -> set[str]:
    return {url.partition("?")[2] for url in spellings(f"{ADDRESS}?{raw}")}


def meaning(query: str) -> dict[str, list[str]]:
    values = defaultdict(list)
    for name, value in parse_qsl(query, keep_blank_values=True):
        values[name].append(value)
    return dict(values)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (ADDRESS, [ADDRESS, "https://agent.example:443/twilio/voice"]),
        ("https://a.example:8443/x", ["https://a.example:8443/x", "https://a.example/x"]),
        ("http://a.example/x", ["http://a.example/x", "http://a.example:80/x"]),
        ("https://[2001:db8::1]/x", ["https://[2001:db8::1]/x", "https://[2001:db8::1]:443/x"]),
        ("https://[2001:db8::1]:443/x", ["https://[2001:db8::1]:443/x", "https://[2001:db8::1]/x"]),
        (
            "wss://a.example/m/t",
            ["wss://a.example/m/t", "wss://a.example:443/m/t", "wss://a.example/m/t/", "wss://a.example:443/m/t/"],
        ),
    ],
)
def test_a_port_may_be_named_or_not(url: str, expected: list[str]) -> None:
    assert list(spellings(url)) == expected


def test_a_host_may_be_spelled_otherwise() -> None:
    found = list(spellings(ADDRESS, ["Agent.Example", "agent.example"]))
    assert found[0] == ADDRESS
    assert "https://Agent.Example/twilio/voice" in found
    assert len(found) == len(set(found)) == 4


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://Agent.Example./twilio/voice?tenant=7#rc=3", True),
        (ADDRESS, True),
        (ADDRESS + "/", False),
        ("http://agent.example/twilio/voice", False),
        ("https://other.example/twilio/voice", False),
        ("", False),
    ],
)
def test_a_page_is_the_same_with_any_query(url: str, same: bool) -> None:
    assert is_same_page(url, ADDRESS) is same


@pytest.mark.parametrize(
    ("sent", "signed"),
    [
        ("From=sip%3A1%40192.0.2.7&To=%2B1", "From=sip:1@192.0.2.7&To=%2B1"),
        ("From=sip:1@192.0.2.7", "From=sip%3A1%40192.0.2.7"),
        ("name=William+O%27hara", "name=William+O'hara"),
        ("name=William+O%27hara", "name=William%20O'hara"),
        ("name=William%20O'hara", "name=William+O%27hara"),
        ("name=Jos%C3%A9", "name=José"),
        ("b=2&a=1", "a=1&b=2"),
        ("a=1&b=2&c=3", "c=3&a=1&b=2"),
        ("a=1&b=&a=2", "b=&a=1&a=2"),
        ("a&b=1", "a=&b=1"),
        ("t=a%2fb", "t=a/b"),
        ("a=1&amp;=2", "a=1&amp;=2"),
        ("a=x~y*z'", "a=x%7Ey*z%27"),
        ("a=x%7Ey", "a=x~y"),
    ],
)
def test_a_query_is_found_in_the_spelling_that_was_signed(sent: str, signed: str) -> None:
    assert signed in queries(sent)


@pytest.mark.parametrize(
    ("sent", "signed"),
    [
        ("a=%2B1", "a=+1"),
        ("a=1%26b%3D2", "a=1&b=2"),
        ("a=1&a=2", "a=2&a=1"),
        ("a=%2541", "a=%41"),
        ("a=b%23c", "a=b#c"),
        ("a=b#c", "a=b"),
        ("a=1\n&b=2", "a=1&b=2"),
    ],
)
def test_no_spelling_means_something_else(sent: str, signed: str) -> None:
    assert signed not in queries(sent)


texts = st.text(st.sampled_from("a1 +%&=;:@'/?!*~.é€#\\"), max_size=6)
pairs = st.lists(st.tuples(texts, texts), max_size=5)


@given(pairs, st.sampled_from(["", ":@", "'", "+", "&=", "!$'()*,/:;?@"]))
def test_every_spelling_reads_the_same(given_pairs: list[tuple[str, str]], unescaped: str) -> None:
    raw = urlencode(given_pairs, quote_via=quote, safe=unescaped)
    found = queries(raw)
    assert raw in found
    assert all(meaning(each) == meaning(raw) for each in found)
    assert len(list(spellings(f"{ADDRESS}?{raw}"))) <= MAX_SPELLINGS


def test_many_names_are_tried_as_sent_and_sorted() -> None:
    names = [f"n{number}" for number in range(MAX_PERMUTED + 1, 0, -1)]
    assert len(queries("&".join(f"{name}=1" for name in names))) == 2


def test_the_search_for_what_a_long_query_may_have_been_is_short() -> None:
    part = "%E6%97%A5%27%20%21%40" * 90
    raw = "&".join(f"{name}={part}" for name in "dbca")
    assert len(raw) < MAX_QUERY_CHARS
    assert 1 < len(queries(raw)) <= MAX_SEARCHED_CHARS / (len(raw) / 4)


@pytest.mark.parametrize("raw", ["a=" + "b" * MAX_QUERY_CHARS + "%7Ec", "&".join(["b=%7E"] * (MAX_QUERY_FIELDS + 1))])
def test_a_long_query_is_only_taken_as_it_is(raw: str) -> None:
    assert queries(raw) == {raw}
    assert len(queries(raw[-20:])) > 1
