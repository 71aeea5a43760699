"""The scripts that texts are written in: how long a character takes to say, what it costs in tokens, where words end.

English has spaces, about sixteen characters a second, and four characters a token. None of the three holds for Japanese
or Thai. The figures are for an unhurried voice, and for the tokenizer of OpenAI's models; both are estimates.

A character is what a reader sees as one: a letter with its marks, an emoji with its skin tone, a flag. It may be
several code points, which must not be split. (These are Unicode's rules, UAX #29, without the rarest cases.)
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, takewhile


@dataclass(frozen=True, slots=True)
class Script:
    """A script: milliseconds to say a character, code points per token, and whether spaces stand between its words."""

    char_ms: int
    chars_per_token: float
    spaced: bool = True


LATIN = Script(60, 4)
_CYRILLIC = Script(65, 3)  # and Greek, Armenian, Georgian
_ARABIC = Script(85, 2.5)  # and Hebrew: most vowels are not written
_INDIC = Script(120, 2.5)
_THAI = Script(150, 2, spaced=False)  # and Lao
_SYLLABLES = Script(150, 1.5, spaced=False)  # Tibetan, Burmese, Khmer and their neighbors
_ETHIOPIC = Script(170, 1.5)
_KANA = Script(130, 1.3, spaced=False)
_HAN = Script(210, 1.3, spaced=False)
_HANGUL = Script(160, 1.7, spaced=False)  # it has spaces, but its words are too long to lose a whole one
_EMOJI = Script(60, 1, spaced=False)

_DIGIT_MS = 240
"""A digit is spoken as a word."""

_RANGES: tuple[tuple[int, Script], ...] = (
    (0x0000, LATIN),
    (0x0370, _CYRILLIC),
    (0x0590, _ARABIC),
    (0x0900, _INDIC),
    (0x0E00, _THAI),
    (0x0F00, _SYLLABLES),
    (0x10A0, _CYRILLIC),
    (0x1100, _HANGUL),
    (0x1200, _ETHIOPIC),
    (0x13A0, LATIN),
    (0x1780, _SYLLABLES),
    (0x1800, LATIN),
    (0x1950, _SYLLABLES),
    (0x1AB0, LATIN),
    (0x1B00, _SYLLABLES),
    (0x1B80, LATIN),
    (0x2190, _EMOJI),
    (0x2C00, LATIN),
    (0x2E80, _HAN),
    (0x3000, _KANA),
    (0x3100, _HAN),
    (0x3130, _HANGUL),
    (0x3190, _HAN),
    (0x31F0, _KANA),
    (0x3200, _HAN),
    (0xA000, _SYLLABLES),
    (0xA4D0, LATIN),
    (0xA8E0, _INDIC),
    (0xA900, LATIN),
    (0xA960, _HANGUL),
    (0xA980, _SYLLABLES),
    (0xA9E0, LATIN),
    (0xAA60, _SYLLABLES),
    (0xAAE0, LATIN),
    (0xAC00, _HANGUL),
    (0xD800, LATIN),
    (0xF900, _HAN),
    (0xFB00, LATIN),
    (0xFB1D, _ARABIC),
    (0xFE00, LATIN),
    (0xFE30, _HAN),
    (0xFE70, _ARABIC),
    (0xFF00, _KANA),
    (0xFFA0, _HANGUL),
    (0xFFE0, LATIN),
    (0x1B000, _KANA),
    (0x1B170, LATIN),
    (0x1F000, _EMOJI),
    (0x20000, _HAN),
    (0x40000, LATIN),
)
"""Where each script begins; it ends where the next one does."""

_STARTS = tuple(start for start, _ in _RANGES)

_PIECES = re.compile(
    "(?P<space> )|(?P<word>[A-Za-z\u00c0-\u024f]+)|(?P<number>[0-9]+)|(?P<marks>[!-/:-@[-`{-~]+)|(?P<gap>\\s+)"
    "|(?P<other>.)"
)
"""What a tokenizer joins: at most a word, a number, or a few marks."""

_MARKS = frozenset({"Mn", "Mc", "Me", "Cf"})
_PICTURES = frozenset({"So", "Sm", "Sk"})
_ZERO_WIDTH_JOINER = "\u200d"
_MARKS_BY_USE = frozenset("\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3\uff9e\uff9f")
"""Vowels of Thai and Lao that follow their consonant, and the voice marks of narrow kana."""

_LINKERS = frozenset(
    "\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d\u1039\u17d2\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4"
)
"""What belongs to the following letter: marks that join two Indic consonants, and vowels of Thai and Lao."""


def script_of(char: str) -> Script:
    """Return the script of a code point."""
    return _RANGES[bisect_right(_STARTS, ord(char)) - 1][1]


def tokens_of(text: str) -> int:
    """Estimate how many tokens a text takes."""
    return math.ceil(sum(cost for _, cost in _tokens(text)))


def begin_of_tokens(text: str, max_tokens: int) -> str:
    """Return the beginning of a text, at most about that many tokens, cut between two characters."""
    costs = accumulate(_tokens(text), lambda one, two: (two[0], one[1] + two[1]))
    return begin_of(text, max((end for end, _ in takewhile(lambda each: each[1] <= max_tokens, costs)), default=0))


def _tokens(text: str) -> Iterator[tuple[int, float]]:
    """Return the end and the tokens of each piece that a tokenizer would not join with the next one."""
    for piece in _PIECES.finditer(text):
        length = len(piece[0])
        match piece.lastgroup:
            case "space":  # it belongs to the word after it
                cost = 0.0
            case "word":
                cost = math.ceil(length / 8)
            case "gap":
                cost = 1.0
            case "number":
                cost = math.ceil(length / 3)
            case "marks":
                cost = math.ceil(length / 2)
            case _:
                cost = 1 / script_of(piece[0]).chars_per_token
        yield piece.end(), cost


@lru_cache(maxsize=4096)  # live calls ask this repeatedly
def char_ms(char: str) -> int:
    """Estimate how long a character takes to say, from its first code point."""
    return _DIGIT_MS if char.isdecimal() else script_of(char).char_ms


def chars_of(text: str) -> Iterator[str]:
    """Return the characters of a text, each with its marks."""
    if text.isascii():
        yield from text
        return
    start = 0
    for end in range(1, len(text)):
        if not _joined(text, start, end):
            yield text[start:end]
            start = end
    yield text[start:]


def usual_ms(text: str) -> int:
    """Estimate how long a text takes to say."""
    return sum(char_ms(char[0]) for char in chars_of(text))


def begin_of(text: str, max_length: int) -> str:
    """Return the beginning of a text, at most that many code points, cut between two characters."""
    ends = accumulate(map(len, chars_of(text)))
    return text[: max(takewhile(lambda end: end <= max_length, ends), default=0)]


def _joined(text: str, start: int, at: int) -> bool:
    """Return whether a code point belongs to the character that begins at `start`."""
    before, after = text[at - 1], text[at]
    if after.isascii() or before.isspace():
        return False
    kind = unicodedata.category(after)
    if kind in _MARKS or after in _MARKS_BY_USE or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    if before == _ZERO_WIDTH_JOINER:
        return kind in _PICTURES or (at - start > 1 and text[at - 2] in _LINKERS)
    if before in _LINKERS or _is_inside_syllable(before, after):
        return True
    return at - start == 1 and all("\U0001f1e6" <= letter <= "\U0001f1ff" for letter in (before, after))  # a flag


def _is_inside_syllable(before: str, after: str) -> bool:
    """Return whether two code points are parts of one Korean syllable that is spelled in letters."""
    if "\u1160" <= after <= "\u11ff" or "\ud7b0" <= after <= "\ud7ff":
        return script_of(before) is _HANGUL
    return "\u1100" <= before <= "\u115f" and ("\u1100" <= after <= "\u115f" or "\uac00" <= after <= "\ud7a3")
