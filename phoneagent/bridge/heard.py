"""The estimate of how much of a text was heard, from how much of its audio was.

A model gives no times for its words. What is known is the text, how long its audio is once all of it came, and how long
each character takes to say (`scripts`).
"""

from __future__ import annotations

from itertools import pairwise

from phoneagent.bridge.scripts import char_ms, chars_of, script_of


def heard_part(text: str, heard_ms: int, said_ms: int, *, complete: bool) -> str:
    """Estimate which beginning of `text` was heard.

    The text is cut back to a whole word, or to a whole character in scripts that have no spaces.

    If the audio is `complete`, the characters share its `said_ms`. Until then words run ahead of their audio, so the
    text takes as long as it would usually take to say, if that is longer.
    """
    chars = [(char, char_ms(char[0])) for char in chars_of(text)]
    usual_ms = sum(ms for _, ms in chars)
    length_ms = said_ms if complete else max(said_ms, usual_ms)
    if heard_ms >= length_ms:
        return text
    passed_ms = at = end = 0
    for (char, ms), (following, _) in pairwise(chars):
        passed_ms += ms
        if passed_ms * length_ms > usual_ms * heard_ms:
            break
        at += len(char)
        if _ends_word(char, following):
            end = at
    return text[:end].rstrip()


def _ends_word(char: str, following: str) -> bool:
    if char.isspace() or following.isspace():
        return True
    return not (script_of(char[0]).spaced and script_of(following[0]).spaced)
