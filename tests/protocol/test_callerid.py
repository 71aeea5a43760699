"""Caller IDs: every spelling of a number is that number, and every spelling of an unknown caller is None."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.protocol.callerid import MAX_CHARS, caller_id

ANNA = "+15550100009"

SPELLINGS = [
    ANNA,
    "15550100009",
    "0015550100009",
    "01115550100009",
    "001115550100009",
    " +1 (555) 010-0009 ",
    "+1-555-010-0009",
    "+1.555.010.0009",
    "+1/555/0100009",
    "+1\u2013555\u2011010\u00a00009",
    "\u202a+15550100009\u202c",
    "+15550100009 ext. 12",
    "+15550100009x12",
    "+15550100009,12",
    "＋１５５５０１００００９",
    "+١٥٥٥٠١٠٠٠٠٩",
    f"sip:{ANNA}@pbx.example",
    f"SIP:{ANNA}@PBX.example:5061;transport=tls",
    f"sips:{ANNA}@pbx.example",
    f"sip:{ANNA}@[2001:db8::1]:5060;user=phone",
    f"sip:{ANNA}@192.0.2.7;user=phone?Subject=a@b",
    f"sip:{ANNA};phone-context=example@pbx.example",
    f"sip:{ANNA}:secret@pbx.example",
    f"sip:{ANNA}",
    "sip:15550100009@pbx.example",
    "sip:0015550100009@pbx.example",
    "sip:%2B15550100009@pbx.example",
    "sip:+1-555-010-0009@pbx.example",
    "sip://+15550100009@pbx.example",
    f'"Anna" <sip:{ANNA}@pbx.example>;tag=1',
    f'"Evil <x>" <sip:{ANNA}@pbx.example>',
    "tel:%2B15550100009",
    f"<sip:{ANNA}@pbx.example>",
    f"{ANNA}@pbx.example",
    f"tel:{ANNA}",
    "tel:+1-555-010-0009;ext=12",
    "TEL:15550100009",
    f"callto:{ANNA}",
    f"whatsapp:{ANNA}",
    "whatsapp:15550100009",
    f"client:{ANNA}",
    f"sip:{ANNA}@{'long.' * 100}example",
]

NOBODY = [
    None,
    "",
    " ",
    "+",
    "-",
    "anonymous",
    "Anonymous",
    " ANONYMOUS ",
    "anonymous@anonymous.invalid",
    "sip:anonymous@anonymous.invalid",
    "sips:anonymous@anonymous.invalid:5061",
    '"Anonymous" <sip:anonymous@anonymous.invalid>',
    f'"{ANNA}" <sip:anonymous@anonymous.invalid>',
    "sip:c8oqz84zk7z@privacy.invalid",
    "sip:unavailable@unknown.invalid.",
    "sip:Anonymous@pbx.example",
    "sip:anonymous;x=1@pbx.example",
    "sip:%61nonymous@pbx.example",
    "sip:pbx.example",
    "sip:@pbx.example",
    "sip:anna",
    "sip:asterisk@192.0.2.7",
    "sip:+266696687@pbx.example",
    "sip:266696687@pbx.example",
    "sip:0000000000@pbx.example",
    "tel:anonymous",
    "client:anonymous",
    "client:Restricted",
    "whatsapp:+266696687",
    "+266696687",
    "266696687",
    "+7378742833",
    "+2562533",
    "+8656696",
    "+86282452253",
    "86282452253",
    "+7748283",
    "+94844353",
    "unknown",
    "Restricted",
    "private",
    "Private Number",
    "withheld",
    "No Caller ID",
    "Out-of-Area",
    "unavailable",
    "blocked",
    "sip:Anonymous%20Caller@pbx.example",
    "client:caller-id_withheld",
    "sip:%E9%9D%9E%E9%80%9A%E7%9F%A5@anonymous.invalid",
    "非通知",
    "000",
    "+10000000000",
    "sip:10000000@pbx.example",
    "a word that no list has",
    "1",
    "client:" + "x" * MAX_CHARS,
]

OTHERS = [
    ("sip:anna@pbx.example", "sip:anna@pbx.example"),
    ("sips:anna@PBX.example.:5061;transport=tls", "sip:anna@pbx.example"),
    ("sip:anna:secret@pbx.example?x=y", "sip:anna@pbx.example"),
    ("anna@pbx.example", "sip:anna@pbx.example"),
    ("sip:an%40na@pbx.example", "sip:an%40na@pbx.example"),
    ("sip:%2541@pbx.example", "sip:%2541@pbx.example"),
    ("sip:anna@[2001:DB8::1]:5060", "sip:anna@[2001:db8::1]"),
    ("sip:1001@pbx.example", "sip:1001@pbx.example"),
    *((f"sip:{extension}@pbx.example", f"sip:{extension}@pbx.example") for extension in ("10", "100", "1000", "10000")),
    ("1000", "1000"),
    ("client:100", "client:100"),
    ("sip:1234567890@192.0.2.7", "sip:1234567890@192.0.2.7"),
    ("sip:5550100009@pbx.example", "sip:5550100009@pbx.example"),
    ("sip:100000000001@pbx.example", "sip:100000000001@pbx.example"),
    ("sip:1234567890123456@pbx.example", "sip:1234567890123456@pbx.example"),
    ("client:anna", "client:anna"),
    ("sip:noah@pbx.example", "sip:noah@pbx.example"),
    ("client:privateer", "client:privateer"),
    ("Client:Anna Smith", "client:Anna Smith"),
    ("client:15550100009", "client:15550100009"),
    ("client:anna@example.com", "client:anna@example.com"),
    ("whatsapp:US.13491208655302741918", "whatsapp:US.13491208655302741918"),
    ("sim:DE0123", "sim:DE0123"),
    ("12345", "12345"),
    ("tel:12345;phone-context=example", "12345"),
    ("*67", "*67"),
    ("+12345", "+12345"),
    ("0555 010-0009", "05550100009"),
    ("01134960000", "01134960000"),
    ("+44 (0)20 7946 0000", "+442079460000"),
    ("4512345678", "4512345678"),
    ("+4512345678", "+4512345678"),
    ("442079460000", "+442079460000"),
]


@pytest.mark.parametrize("address", SPELLINGS)
def test_a_number_is_one_number_in_every_spelling(address: str) -> None:
    assert caller_id(address) == ANNA


@pytest.mark.parametrize("address", NOBODY)
def test_an_unknown_caller_is_none_in_every_spelling(address: str | None) -> None:
    assert caller_id(address) is None


@pytest.mark.parametrize(("address", "expected"), OTHERS)
def test_other_addresses_lose_what_changes_from_call_to_call(address: str, expected: str) -> None:
    assert caller_id(address) == expected


pieces = st.sampled_from(
    [
        "sip:",
        "sips:",
        "tel:",
        "client:",
        "whatsapp:",
        "+",
        "1555",
        "0100009",
        "00",
        "011",
        "anonymous",
        "@",
        "pbx.example",
        ":5061",
        ";ext=5",
        "%2B",
        "%25",
        "<",
        ">",
        "[",
        "]",
        "(0)",
        "x",
        "anna",
        ".invalid",
        "#",
        "１",
        "\u200e",
    ]
)


@given(st.one_of(st.text(), st.lists(pieces, max_size=8).map("".join)))
def test_a_caller_id_is_short_and_its_own_caller_id(address: str) -> None:
    found = caller_id(address)
    assert caller_id(found) == found
    assert found is None or 0 < len(found) <= MAX_CHARS


@given(st.from_regex(r"\+[2-9][0-9]{11,13}", fullmatch=True))
def test_any_number_is_found_in_an_address(number: str) -> None:
    spellings = (
        number,
        number[1:],
        f"00{number[1:]}",
        f"sip:{number}@pbx.example",
        f"tel:{number}",
        f"whatsapp:{number}",
    )
    assert {caller_id(each) for each in spellings} == {number}
