"""The estimate of how much of a text was heard, from how much of its audio was.

A model gives no times for its words. What is known is the text, the length of its audio once all of it has arrived, and
how long each character takes to say (`scripts`).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from operator import itemgetter

from phoneagent.bridge.scripts import char_ms, chars_of, script_of


def heard_part(text: str, heard_ms: int, said_ms: int, *, complete: bool) -> str:
    """Estimate how much of the beginning of `text` was heard.

    The text is cut back to a whole word, or to a whole character in scripts that have no spaces.

    If the audio is `complete`, the characters share its `said_ms`. Until then, words run ahead of their audio, so the
    estimate uses the text's usual duration if that is longer.
    """
    chars = list(chars_of(text))
    passed_ms = list(accumulate(map(char_ms, map(itemgetter(0), chars))))
    usual_ms = passed_ms[-1] if passed_ms else 0
    length_ms = said_ms if complete else max(said_ms, usual_ms)
    if heard_ms >= length_ms:
        return text
    end = min(bisect_right(passed_ms, usual_ms * heard_ms // length_ms), len(chars) - 1)
    while end > 0 and not _ends_word(chars[end - 1], chars[end]):
        end -= 1
    return "".join(chars[:end]).rstrip()


def _ends_word(char: str, following: str) -> bool:
    if char.isspace() or following.isspace():
        return True
    return not (script_of(char[0]).spaced and script_of(following[0]).spaced)
