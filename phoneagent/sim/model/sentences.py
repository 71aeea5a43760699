"""Sentences of a text that arrives in pieces, each as early as it can be spoken."""

from __future__ import annotations

import re

MIN_CHARS = 12
"""A shorter sentence waits for the next one: "1." and "Dr." are not sentences."""

CLAUSE_CHARS = 40
"""A first sentence longer than this is spoken from its first clause on, because the caller is waiting."""

MAX_CHARS = 240
"""A longer sentence is cut between two words."""

_END = re.compile(r"[.!?…][\"'”’)\]]*\s|[。！？]|\n")
_CLAUSE = re.compile(r"[,;:–—]\s")
_MARKUP = re.compile(r"[*#`]+")


class Sentences:
    """The splitter of one answer. Its sentences have no markup, which a voice would read aloud."""

    def __init__(self) -> None:
        self._text = ""
        self._first = True

    def feed(self, words: str) -> list[str]:
        """Return the sentences that are complete with these words."""
        self._text += words
        found: list[str] = []
        while (end := self._end()) is not None:
            sentence, self._text = _plain(self._text[:end]), self._text[end:]
            if sentence:
                found.append(sentence)
                self._first = False
        return found

    def rest(self) -> list[str]:
        """Return what is left at the end of the answer."""
        sentence, self._text = _plain(self._text), ""
        return [sentence] if sentence else []

    def _end(self) -> int | None:
        for mark in _END.finditer(self._text):
            if mark.end() >= MIN_CHARS:
                return mark.end()
        if self._first and len(self._text) > CLAUSE_CHARS:
            for mark in _CLAUSE.finditer(self._text, CLAUSE_CHARS // 2):
                return mark.end()
        if len(self._text) > MAX_CHARS:
            space = self._text.rfind(" ", 0, MAX_CHARS)
            return space + 1 if space > 0 else MAX_CHARS
        return None


def _plain(text: str) -> str:
    return " ".join(_MARKUP.sub("", text).split())
