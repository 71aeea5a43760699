"""The list of a campaign, read from a CSV file or from rows: numbers in one spelling, and the problems of lines.

    for each in checked(read_csv(Path("visits.csv")), region="US"):
        each.position, each.to, each.context, each.problem

A list is read line by line: a file of a hundred thousand lines takes little memory.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from phoneagent.agent.call import sendable
from phoneagent.calls.outbound import MAX_CONTEXT_CHARS
from phoneagent.errors import DefinitionError
from phoneagent.protocol.dialing import refusal
from phoneagent.store.campaign_records import NewCall

MAX_LINES = 100_000
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_HEADER_CHARS = 16 * 1024
MAX_NUMBER_CHARS = 60

NUMBER_COLUMNS = ("to", "phone", "number", "phone_number")
"""The names that the column of numbers may have. If a file has several, the first of these counts."""

DELIMITERS = (",", ";", "\t", "|")
"""Tried in this order: the first one with which the header has a column of numbers is the file's."""

DUPLICATE = "it is the number of line {line}: each is called once"


def read_csv(path: Path) -> Iterator[NewCall]:
    """Yield the lines of a file as they are written; `position` is the line, and the first line names the columns.

    Raises:
        DefinitionError: the file is not such a list; the message names the file and the line.
    """
    with _open(path) as file:
        position, names, delimiter = _header(path, file)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        to = next(names.index(each) for each in NUMBER_COLUMNS if each in names)
        before = position
        for cells in _rows(path, reader, before):
            line, before = before + 1, position + reader.line_num
            if any(cell.strip() for cell in cells):
                yield _line(line, names, to, cells)


def read_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[NewCall]:
    """Yield rows of values, like those of a file; `position` is the number of the row, from 1.

    Raises:
        DefinitionError: a row has no number.
    """
    for position, row in enumerate(rows, 1):
        column = next((each for each in NUMBER_COLUMNS if each in row), None)
        if column is None or not isinstance(row[column], str):
            raise DefinitionError(f'row {position} has no number: give it as text, like {{"to": "+15550100001"}}')
        yield NewCall(position=position, to=row[column], context={name: row[name] for name in row if name != column})


def read_numbers(path: Path, region: str | None = None) -> Iterator[str]:
    """Yield the numbers of a do-not-call list: one per line, or a CSV file with a column of numbers.

    Raises:
        DefinitionError: a line is not a number. Skipping it would mean that the number is called.
    """
    with _open(path) as file:
        first = file.readline(MAX_HEADER_CHARS)
    if any(set(_names(first, each)) & set(NUMBER_COLUMNS) for each in DELIMITERS):
        found = ((each.position, each.to) for each in read_csv(path))
        yield from (_listed(path, line, text, region) for line, text in found)
        return
    with _open(path) as file:
        for line, text in enumerate(_lines(path, file), 1):
            if text.strip():
                yield _listed(path, line, text, region)


def checked(calls: Iterable[NewCall], region: str | None = None) -> Iterator[NewCall]:
    """Yield the same calls with numbers in E.164 and with their problems: no number, never called, a duplicate.

    Raises:
        DefinitionError: there are more than MAX_LINES.
    """
    seen: dict[str, int] = {}
    for count, each in enumerate(calls, 1):
        if count > MAX_LINES:
            raise DefinitionError(f"the list has more than {MAX_LINES} numbers: split it into several campaigns")
        number, problem = normalized(each.to, region)
        problem = each.problem or problem
        if problem is None and number in seen:
            problem = DUPLICATE.format(line=seen[number])
        context: Mapping[str, Any] = {}
        if problem is None:
            context, problem = _plain(each.context)
        if problem is None:
            seen[number] = each.position
            yield NewCall(position=each.position, to=number, context=context)
        else:
            yield NewCall(position=each.position, to=number, problem=problem)


def normalized(text: str, region: str | None = None) -> tuple[str, str | None]:
    """Return a number in E.164, and why it is never called. The number is "" if there is none in the text.

    `region` (ISO 3166, like "US") is the country of numbers without a country code.
    """
    import phonenumbers as pn

    text = text.strip().removeprefix("'").removeprefix("tel:")  # spreadsheets mark text with a quote
    if not text:
        return "", "it has no number"
    if len(text) > MAX_NUMBER_CHARS or any(each.isalpha() for each in text):
        return "", "it is not a phone number: write digits, like +15550100001"
    try:
        parsed = pn.parse(text, region)
    except pn.NumberParseException as error:
        if error.error_type == pn.NumberParseException.INVALID_COUNTRY_CODE and region is None:
            return "", "it has no country code: write it like +15550100001, or give the region of such numbers"
        return "", "it is not a phone number: write it like +15550100001"
    if parsed.extension or ";" in text or "," in text:  # the rest would be lost, and with it a number never to call
        return "", "it is more than one number, or has an extension: write one, like +15550100001"
    number = pn.format_number(parsed, pn.PhoneNumberFormat.E164)
    why = refusal(number)
    return (number, None) if why is None else ("" if "not a phone number" in why else number, why)


def check_region(region: str | None) -> None:
    """Raises `DefinitionError` if there is no such region."""
    import phonenumbers as pn

    if region is not None and region not in pn.SUPPORTED_REGIONS:
        raise DefinitionError(f"{region!r:.20} is not a region: write its two-letter code, like US")


# --- files ------------------------------------------------------------------------------------------------------------


def _open(path: Path) -> TextIO:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DefinitionError(f"{path} is not a file")
        with path.open("rb") as file:
            begin = file.read(4)
    except OSError as error:
        raise DefinitionError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    if size > MAX_FILE_BYTES:
        raise DefinitionError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB: split it into several campaigns")
    wide = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return path.open(encoding="utf-16" if wide else "utf-8-sig", newline="")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    line = 0
    try:
        for line, text in enumerate(file, 1):  # noqa: B007 - the line is named in the error
            yield text
    except UnicodeError:
        raise DefinitionError(f"{path} is not UTF-8 after line {line}: save it as “CSV UTF-8”") from None


def _names(header: str, delimiter: str) -> list[str]:
    """Return the names of the columns in our spelling: "Phone Number" becomes phone_number."""
    try:
        cells = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:
        return []
    return [cell.strip().lower().replace(" ", "_").replace("-", "_") for cell in cells]


def _header(path: Path, file: TextIO) -> tuple[int, list[str], str]:
    """Read the first line; return how many lines that took, the names of the columns, and the delimiter."""
    try:
        first = file.readline(MAX_HEADER_CHARS)
        told = 4 <= len(first.strip()) <= 5 and first.startswith("sep=")  # Excel's own line
        header = file.readline(MAX_HEADER_CHARS) if told else first
    except UnicodeError:
        raise DefinitionError(f"{path} is not UTF-8: save it as “CSV UTF-8”") from None
    for delimiter in [first[4]] if told and len(first) > 4 and first[4] in DELIMITERS else DELIMITERS:
        names = _names(header, delimiter)
        if not set(names) & set(NUMBER_COLUMNS):
            continue
        cells = next(csv.reader([header], delimiter=delimiter))
        named = [each if each in NUMBER_COLUMNS else cell.strip() for each, cell in zip(names, cells, strict=True)]
        twice = next((each for each in named if each and named.count(each) > 1), None)
        if twice is not None:
            raise DefinitionError(f"{path} has two columns {twice!r:.40}: rename one")
        return (2 if told else 1), named, delimiter
    raise DefinitionError(f"{path} has no column `to` in its first line: write one like to,name (or to;name)")


def _rows(path: Path, reader: Any, before: int) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        line = before + reader.line_num
        raise DefinitionError(f"{path}, line {line}: {error}: is a quotation mark missing?") from None
    except UnicodeError:
        line = before + reader.line_num
        raise DefinitionError(f"{path} is not UTF-8 after line {line}: save it as “CSV UTF-8”") from None


def _line(line: int, names: list[str], to: int, cells: list[str]) -> NewCall:
    if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
        problem = f"it has {len(cells)} cells, and the first line {len(names)}: quote cells that have the delimiter"
        return NewCall(position=line, to="", problem=problem)
    number = cells[to] if to < len(cells) else ""
    pairs = zip(names, cells, strict=False)
    return NewCall(
        position=line,
        to=number,
        context={name: cell for at, (name, cell) in enumerate(pairs) if name and at != to},
    )


def _listed(path: Path, line: int, text: str, region: str | None) -> str:
    number, problem = normalized(text, region)
    if not number:
        raise DefinitionError(f"{path}, line {line}: {problem}")
    return number


def _plain(context: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """Return the context after a round trip through JSON, and its problem, if any."""
    try:
        text = json.dumps(dict(context), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return {}, "its values cannot be expressed as JSON: give plain values"
    if len(text) > MAX_CONTEXT_CHARS:
        return {}, f"its values are more than {MAX_CONTEXT_CHARS} characters: pass an id"
    return json.loads(sendable(text)), None
