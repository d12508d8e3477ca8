"""The `language` verifier: the response is written in a language or in a script.

A language with a script of its own (Japanese, Korean, Greek, …) is told by the letters. Languages that share one
(Latin, Cyrillic, Arabic, Devanagari) need the optional package py3langid, a small n-gram classifier; nothing is
guessed without it.
"""

import functools
import unicodedata
from collections import Counter
from typing import Any

from verifiers.options import real, text
from verifiers.records import ScoreRequest, Verdict
from verifiers.visible import visible

# Scripts are first words of Unicode character names: `GREEK SMALL LETTER ALPHA`. CJK are Chinese characters.
OWN_SCRIPT = {
    "am": "ETHIOPIC",
    "bn": "BENGALI",
    "bo": "TIBETAN",
    "el": "GREEK",
    "gu": "GUJARATI",
    "he": "HEBREW",
    "hy": "ARMENIAN",
    "ka": "GEORGIAN",
    "km": "KHMER",
    "kn": "KANNADA",
    "ko": "HANGUL",
    "lo": "LAO",
    "ml": "MALAYALAM",
    "my": "MYANMAR",
    "or": "ORIYA",
    "pa": "GURMUKHI",
    "si": "SINHALA",
    "ta": "TAMIL",
    "te": "TELUGU",
    "th": "THAI",
}
_KANA = ("HIRAGANA", "KATAKANA")
_JAPANESE_KANA = 0.1  # share of kana from which Chinese characters are read as Japanese


class Language:
    """The language of the letters of a response; digits, signs and spaces have none. Without a letter it is wrong."""

    name = "language"
    version = "1"

    def __init__(self, language: str = "", script: str = "", share: float = 0.9, after: str = "") -> None:
        """Options.

        Args:
            language: ISO 639-1 code such as `de`; without it (and without `script`) every reference is one.
            script: A Unicode script instead, e.g. `LATIN` or `CYRILLIC`.
            share: Part of the letters that must belong to the script; the rest may be names and quotations.
            after: Only what follows the last occurrence of this counts, e.g. `</think>`.
        """
        if text("language", language) and text("script", script):
            raise ValueError(f"language and script exclude each other, got {language!r} and {script!r}; keep one")
        self._language = language
        self._script = script.upper()
        self._share = real("share", share, 0.01, 1.0)
        self._after = text("after", after)

    def prepare(self) -> None:
        """Load the classifier where it is installed and needed; refuse now what could never be judged."""
        if self._language:
            written_in("-", self._language, self._share)

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 for the right language, else 0."""
        response = visible(request.response, self._after)
        if self._script:
            wanted, right = self._script, _in_scripts(response, (self._script,), self._share)
        else:
            wanted = self._language or request.reference.strip()
            right = written_in(response, wanted, self._share)
        most = scripts(response).most_common(1)
        feedback = f"expected {wanted}; most letters are {most[0][0]}" if most else "there is no letter in it"
        return Verdict(
            float(right),
            "correct" if right else "wrong",
            self.name,
            self.version,
            feedback="" if right else feedback,
            expected=wanted,
            rule="script" if self._script or wanted in (*OWN_SCRIPT, "ja", "zh") else "py3langid",
        )


def written_in(response: str, language: str, share: float = 0.9) -> bool:
    """Whether a text is in a language.

    Args:
        response: The text; False when there is no letter in it.
        language: ISO 639-1 code; what follows a hyphen (`zh-cn`) does not count.
        share: See `Language`.

    Raises:
        ValueError: When the code is unknown, or the language needs py3langid and that is not installed.
    """
    code = language.lower().partition("-")[0]
    if code in OWN_SCRIPT:
        return _in_scripts(response, (OWN_SCRIPT[code],), share)
    if code in ("ja", "zh"):
        found = scripts(response)
        kana = sum(found[name] for name in _KANA) > _JAPANESE_KANA * found.total()
        return kana == (code == "ja") and _in_scripts(response, ("CJK", *_KANA), share)
    identifier, known = _classifier()
    if code not in known:
        raise ValueError(f"no language has the code {language!r}; known are {', '.join(sorted({*known, *OWN_SCRIPT}))}")
    return bool(scripts(response)) and identifier.classify(response)[0] == code


def scripts(response: str) -> Counter[str]:
    """How many letters of each script there are."""
    return Counter(script for script in map(_script_of, response) if script)


def _in_scripts(response: str, wanted: tuple[str, ...], share: float) -> bool:
    found = scripts(response)
    return bool(found) and sum(found[name] for name in wanted) >= share * found.total()


@functools.lru_cache(maxsize=4096)
def _script_of(character: str) -> str:
    if not character.isalpha():
        return ""
    name = unicodedata.name(character, "").removeprefix("HALFWIDTH ").removeprefix("FULLWIDTH ")
    return name.partition(" ")[0].partition("-")[0]


@functools.cache
def _classifier() -> tuple[Any, frozenset[str]]:
    """py3langid's model and its languages."""
    try:
        import py3langid
    except ModuleNotFoundError as error:
        raise ValueError(
            "this language shares its script with others; to tell them apart: pip install py3langid, or check only the "
            "script with the option script, e.g. LATIN"
        ) from error
    return py3langid, frozenset(code for code, _ in py3langid.rank("a"))
