"""Lists of numbers as people save them: delimiters, marks, encodings, spellings, duplicates, and what is no list."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phoneagent.calls import campaign_list
from phoneagent.calls.campaign_list import (
    MAX_LINES,
    check_region,
    checked,
    normalized,
    read_csv,
    read_numbers,
    read_rows,
)
from phoneagent.errors import DefinitionError
from phoneagent.store.campaign_records import NewCall

A, B = "+12025550100", "+12025550101"


def read(path: Path, content: str | bytes, region: str | None = None) -> list[NewCall]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(checked(read_csv(path), region))


def numbers(found: Sequence[NewCall]) -> list[tuple[int, str]]:
    return [(each.position, each.to) for each in found if each.problem is None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list.csv"


@pytest.mark.parametrize(
    "content",
    [
        f"to,name\n{A},Anna\n",
        f"\ufeffto,name\r\n{A},Anna\r\n",
        f"to;name\n{A};Anna",
        f"name\tTo\nAnna\t{A}\n",
        f"Name|Phone Number\nAnna|{A}\n".replace("Name", "name"),
        f'"to","name"\n"{A}","Anna"\n',
        f"sep=;\nto;name\n{A};Anna\n".replace("sep=;\n", ""),
        f"name,NUMBER\nAnna,'{A}\n",
        f"to,name,\n{A},Anna,\n",
        f"\ufeffto;name\r\n{A};Anna\r\n".encode("utf-16-le"),
    ],
)
def test_files_of_all_kinds_have_the_same_numbers(path: Path, content: str | bytes) -> None:
    (found,) = read(path, content)
    assert (found.position, found.to, dict(found.context), found.problem) == (2, A, {"name": "Anna"}, None)


def test_excel_s_own_first_line_names_the_delimiter(path: Path) -> None:
    assert numbers(read(path, f"sep=;\nto;name, first\n{A};Anna\n")) == [(3, A)]


def test_lines_are_counted_as_an_editor_does(path: Path) -> None:
    content = f'to,note\n\n{A},"two\nlines"\n,\n{B},one\nx,bad\n'
    found = read(path, content)
    assert numbers(found) == [(3, A), (6, B)]
    assert [(each.position, each.problem is None) for each in found] == [(3, True), (6, True), (7, False)]


def test_of_several_columns_of_numbers_one_is_called_and_the_others_are_context(path: Path) -> None:
    (found,) = read(path, f"phone,to\n{B},{A}\n")
    assert (found.to, dict(found.context)) == (A, {"phone": B})


def test_a_number_that_is_listed_twice_is_called_once_in_any_spelling(path: Path) -> None:
    found = read(path, f"to\n{A}\n+1 (202) 555-0100\n{B}\n{A}\n")
    assert numbers(found) == [(2, A), (4, B)]
    assert [each.problem for each in found if each.problem] == ["it is the number of line 2: each is called once"] * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no number"),
        ("anna", "not a phone number"),
        ("2025550100", "no country code"),
        ("+1", "not a phone number"),
        ("+1202555010", "digits"),
        ("1.20255501E+10", "not a phone number"),
        ("+1900" + "5551234", "premium-rate"),
        ("+1911", "emergency"),
        ("911", "no country code"),
        ("+12025550100 ext 5", "not a phone number"),
        ("9" * 80, "not a phone number"),
        ("sip:anna@example.com", "not a phone number"),
        ("+881612345678", "satellite"),
    ],
)
def test_what_is_no_number_is_told(path: Path, text: str, words: str) -> None:
    (found,) = read(path, f"to,name\n{text},Anna\n")
    assert found.problem is not None
    assert words in found.problem
    assert len(text) < 5 or text not in found.problem


def test_national_spellings_take_a_region() -> None:
    assert normalized("(202) 555-0100", "US") == (A, None)
    assert normalized("020 7946 0000", "GB") == ("+442079460000", None)
    assert normalized("tel:+1-202-555-0100") == (A, None)
    assert normalized("911", "US")[1] == "it is an emergency number: an agent must not call one"
    check_region("US")
    check_region(None)
    with pytest.raises(DefinitionError, match="not a region"):
        check_region("us")


def test_a_line_with_more_cells_than_columns_is_told_and_one_with_fewer_is_taken(path: Path) -> None:
    found = read(path, f"to,name\n{A},Smith,Anna\n{B}\n")
    assert numbers(found) == [(3, B)]
    assert found[0].problem is not None
    assert "3 cells" in found[0].problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column `to`"),
        (b"name,age\nAnna,30\n", "no column `to`"),
        (A.encode() + b"\n", "no column `to`"),
        (b"to,name,name\n", "two columns"),
        ("to,name\n+12025550100,J\xf6rg\n".encode("latin-1"), "not UTF-8"),
        (b'to,name\n+12025550100,"Anna\n', "quotation mark"),
        (b"to,name\n+12025550100," + b"x" * 200_000 + b"\n", "line 2"),
    ],
)
def test_what_is_no_list_is_refused(path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        read(path, content)


def test_a_file_that_is_not_there_or_too_large_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DefinitionError, match="cannot be read"):
        list(read_csv(path))
    with pytest.raises(DefinitionError, match="not a file"):
        list(read_csv(tmp_path))
    monkeypatch.setattr(campaign_list, "MAX_FILE_BYTES", 10)
    with pytest.raises(DefinitionError, match="larger than"):
        read(path, f"to\n{A}\n")


def test_a_hundred_thousand_lines_take_little_memory_and_more_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign_list, "normalized", lambda text, region: (text, None))  # it takes half a minute
    with path.open("w") as file:
        file.write("to,name\n")
        file.writelines(f"+1202{n:07},{'x' * 100}\n" for n in range(MAX_LINES))
    tracemalloc.start()
    try:
        assert sum(1 for _ in checked(read_csv(path))) == MAX_LINES
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 60 * 2**20
    with path.open("a") as file:
        file.write(f"{A},one more\n")
    with pytest.raises(DefinitionError, match="more than 100000 numbers"):
        list(checked(read_csv(path)))


def test_a_context_that_is_too_long_is_told() -> None:
    rows: list[dict[str, Any]] = [{"to": A, "note": "x" * 20_000}, {"to": B, "note": object()}]
    assert [each.problem is None for each in checked(read_rows(rows))] == [False, False]


def test_rows_of_code_are_like_lines() -> None:
    found = list(checked(read_rows([{"phone": A, "visit": 7}, {"to": "x"}])))
    assert (found[0].to, dict(found[0].context), found[1].problem is None) == (A, {"visit": 7}, False)
    wrong: list[dict[str, Any]] = [{"name": "Anna"}, {"to": 12025550100}]
    for row in wrong:
        with pytest.raises(DefinitionError, match="row 1"):
            list(read_rows([row]))


@pytest.mark.parametrize(
    "content", [f"{A}\n\n{B}\n", f"\ufeffto;since\n{A};2020\n{B};2021\n", f"{A},\n{B},".replace(",", "")]
)
def test_a_do_not_call_list_is_a_column_or_a_number_a_line(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    assert list(read_numbers(path)) == [A, B]


def test_a_do_not_call_list_with_an_unclear_line_is_refused(path: Path) -> None:
    path.write_text(f"{A}\n202555\n")
    with pytest.raises(DefinitionError, match="line 2"):
        list(read_numbers(path))


@pytest.mark.parametrize("text", ["2025550107;2025550108", "+12025550107;99", "+12025550107#12", "+12025550107,,3"])
def test_a_second_number_or_an_extension_is_never_passed_over(text: str) -> None:
    number, problem = normalized(text, "US")
    assert (number, problem is not None) == ("", True)


def test_a_context_is_as_json_gives_it_back() -> None:
    odd = {"name": "\ud800", "visits": {1: (2, 3)}}
    (call,) = checked([NewCall(position=1, to=A, context=odd)])
    assert (call.context, call.problem) == ({"name": "?", "visits": {"1": [2, 3]}}, None)
