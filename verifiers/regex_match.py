"""The `regex` verifier: the response matches a pattern, or what a pattern finds in it is the reference."""

import re

from verifiers.exact import normalise
from verifiers.options import flag, text
from verifiers.records import ScoreRequest, Verdict
from verifiers.visible import visible


class Regex:
    """Two uses, told apart by `pattern`.

    Without it every reference is a pattern that the response must match. With it the pattern has one group, and what
    that group held at its last match must equal the reference, up to case and white space.

    A pattern that takes for ever on some answer is no fault of this class: its process is killed (status `timeout`).
    """

    name = "regex"
    version = "2"

    def __init__(self, pattern: str = "", whole: bool = False, ignore_case: bool = False, after: str = "") -> None:
        """Options.

        Args:
            pattern: Finds the answer by its one group; empty: the reference is the pattern.
            whole: The pattern must match all of the response, not only something in it.
            ignore_case: Upper and lower case are the same.
            after: Only what follows the last occurrence of this counts, e.g. `</think>`.
        """
        self._whole = flag("whole", whole)
        self._flags = re.IGNORECASE if flag("ignore_case", ignore_case) else re.NOFLAG
        self._after = text("after", after)
        self._finder = self._compiled(pattern, "pattern") if text("pattern", pattern) else None
        if self._finder and self._finder.groups != 1:
            raise ValueError(
                f"pattern needs one group that holds the answer, {pattern!r} has {self._finder.groups}; write (?:…) "
                "for brackets that only group"
            )

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 for a match, else 0."""
        if not request.reference.strip():
            raise ValueError("the reference is empty; it is the pattern, or what `pattern` must find")
        response = visible(request.response, self._after)
        if self._finder is None:
            found = self._matches(self._compiled(request.reference, "the reference"), response)
            feedback = "" if found else f"no match of {request.reference[:80]!r}"
            return self._verdict(bool(found), feedback, found[-1][0].strip() if found else "", request.reference)
        found = self._matches(self._finder, response)
        answer = normalise(found[-1][1] or "") if found else ""
        gold = normalise(request.reference)
        feedback = f"answered {answer[:80]!r}, expected {gold[:80]!r}" if found else "the pattern finds no answer"
        return self._verdict(answer == gold, feedback, answer, gold)

    def _matches(self, pattern: re.Pattern[str], response: str) -> list[re.Match[str]]:
        if self._whole:
            match = pattern.fullmatch(response.strip())
            return [match] if match else []
        return list(pattern.finditer(response))

    def _compiled(self, pattern: str, what: str) -> re.Pattern[str]:
        try:
            compiled = re.compile(pattern, self._flags)
        except re.error as error:
            raise ValueError(f"{what} is no regular expression: {pattern[:80]!r}: {error}") from error
        if compiled.search(""):
            raise ValueError(f"{what} {pattern[:80]!r} accepts the empty answer; ask for at least one character")
        return compiled

    def _verdict(self, correct: bool, feedback: str, answer: str, expected: str) -> Verdict:
        return Verdict(
            float(correct),
            "correct" if correct else "wrong",
            self.name,
            self.version,
            feedback="" if correct else feedback,
            answer=answer,
            expected=expected,
            rule="pattern",
        )
