"""Back-channels: words that only show that a listener is listening.

They are compared without case and punctuation. The words of all languages that the caller may speak count.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from functools import lru_cache
from typing import Literal, TypeAlias

from phoneagent.bridge.scripts import chars_of, script_of, usual_ms

MIN_REPEATED_WORDS = 2
MAX_WORDS = 4
"""A longer text says more than that."""

SPOKEN_FASTER = 2.5
"""A text that takes this many times as long to say as the sound it supposedly came from was not said."""

MIN_SOUND_MS = 200
"""The shortest word; a sound may be too soft to be measured."""

Words: TypeAlias = Literal["none", "backchannel", "words"]

_SOUNDS = "mm mmm mhm mmhm hm hmm uh um ah aha uhhuh mmhmm eh oh"
"""Sounds that recognizers write in any language."""

_BY_LANGUAGE = {
    "ar": "نعم أيوه طيب تمام حسنا",
    "cs": "ano jo dobře jasně ok okay",
    "da": "ja jo okay ok nå præcis",
    "de": "ja jaja jo okay ok gut genau klar stimmt ach so achso verstehe richtig danke",
    "en": "yes yeah yep yup okay ok right sure alright i see got it of course gotcha great good fine thanks thank you",
    "es": "sí si ya vale okay ok claro bueno entiendo de acuerdo bien ajá gracias",
    "fi": "joo juu kyllä okei niin aivan selvä",
    "fr": "oui ouais ok okay d'accord bien sûr voilà très bien ah je vois entendu merci",
    "hi": "हाँ हां जी ठीक है अच्छा",
    "it": "sì si okay ok va bene certo esatto capito ah bene giusto grazie",
    "ja": "はい ええ うん そう そうですか そうですね なるほど",
    "ko": "네 예 응 그래요 아 알겠습니다",
    "nl": "ja jaja oké ok okay goed precies klopt snap ik bedankt dank je",
    "no": "ja jo ok okay greit nettopp",
    "pl": "tak okej ok dobrze jasne rozumiem",
    "pt": "sim tá certo ok okay claro entendi bom tudo bem está obrigado obrigada",
    "ru": "да ага угу хорошо понятно ясно ладно так",
    "sv": "ja jo okej ok precis just det visst",
    "tr": "evet tamam peki anladım olur",
    "uk": "так ага угу добре зрозуміло ясно",
    "zh": "嗯 对 是 好 好的 是的 对对 没错",
}


def words_of(text: str) -> list[str]:
    """Return the words of a text without case and punctuation; a hyphen within joins ("uh-huh")."""
    plain = text.casefold().replace("-", "").replace("\u2019", "'")
    return "".join(char if _in_word(char) else " " for char in plain).split()


def _in_word(char: str) -> bool:
    return char == "'" or unicodedata.category(char)[0] not in "PSZC"


@lru_cache(maxsize=64)  # the calls of an agent share them
def known_words(languages: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> frozenset[str]:
    """Return the back-channel words of these languages (ISO 639-1; all if none is given), and `more`."""
    chosen = [_BY_LANGUAGE[each[:2].lower()] for each in languages if each[:2].lower() in _BY_LANGUAGE]
    texts = (_SOUNDS, *(chosen or _BY_LANGUAGE.values()), *more)
    return frozenset(word for text in texts for word in words_of(text))


def meaning_of(text: str, sound_ms: float, known: Collection[str]) -> Words:
    """Return what a transcript says: nothing, a back-channel of these `known` words, or more.

    A recognizer that hears noise often writes a phrase it has seen in subtitles, such as "Thank you for watching.". So
    a text that cannot have been said within a sound of `sound_ms` milliseconds says nothing.
    """
    words = words_of(text)
    if not words or usual_ms(text) > SPOKEN_FASTER * max(sound_ms, MIN_SOUND_MS):
        return "none"
    return "backchannel" if len(words) <= MAX_WORDS and all(word in known for word in words) else "words"


def repeats(text: str, said: str) -> bool:
    """Return whether a transcript only repeats what the agent `said`: its voice came back.

    It has at least two words; or, in a script without spaces, four characters.
    """
    words, heard = _units(text), _units(said)
    length = len(words)
    long = sum(2 if script_of(each[0]).spaced else 1 for each in words) >= 2 * MIN_REPEATED_WORDS
    return long and any(heard[at : at + length] == words for at in range(len(heard) - length + 1))


def _units(text: str) -> list[str]:
    """Return the words of a text; of a script without spaces, its characters."""
    return [unit for word in words_of(text) for unit in ([word] if script_of(word[0]).spaced else chars_of(word))]
