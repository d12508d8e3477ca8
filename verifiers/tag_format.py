"""The `format` verifier: the response is made of tagged parts, such as `<think>…</think><answer>…</answer>`."""

import re
from collections.abc import Sequence

from verifiers.options import flag, text
from verifiers.records import ScoreRequest, Verdict, VerdictStatus


class TagFormat:
    """Every tag opens once and closes once, in the given order, none inside another, none empty, nothing outside.

    Says nothing about what stands in the tags: combine it with a verifier that does. Needs no reference.
    """

    name = "format"
    version = "1"

    def __init__(
        self, tags: Sequence[str] = ("think", "answer"), prefilled: str = "", outside: bool = False, empty: bool = False
    ) -> None:
        """Options.

        Args:
            tags: Names of the tags in order.
            prefilled: What the chat template has already written for the model, e.g. `<think>`; put before the
                response.
            outside: Text before, between and after the tags is allowed.
            empty: Tags may be empty.
        """
        if (
            isinstance(tags, str)
            or not tags
            or not all(isinstance(t, str) and re.fullmatch(r"[\w-]+", t) for t in tags)
        ):
            raise ValueError(f"tags is a list of names without brackets, e.g. [think, answer], got {tags!r}")
        if len(set(tags)) < len(tags):
            raise ValueError(f"every tag stands once, got {list(tags)!r}; name each tag once")
        self._tags = tuple(tags)
        self._prefilled = text("prefilled", prefilled)
        self._outside = flag("outside", outside)
        self._empty = flag("empty", empty)
        self._mark = re.compile(rf"<(/?)({'|'.join(map(re.escape, tags))})>")

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 for the right form, else 0."""
        wrong = self._fault(self._prefilled + request.response)
        status: VerdictStatus = "wrong" if wrong else "correct"
        return Verdict(float(not wrong), status, self.name, self.version, feedback=wrong, rule="tags")

    def _fault(self, response: str) -> str:
        """What is wrong with the form, or an empty string."""
        marks = list(self._mark.finditer(response))
        expected = [mark for tag in self._tags for mark in (f"<{tag}>", f"</{tag}>")]
        found = [mark[0] for mark in marks]
        if found != expected:
            return f"tags are {' '.join(found)[:120] or 'missing'}, expected {' '.join(expected)}"
        ends = [0, *(mark.end() for mark in marks)]
        begins = [*(mark.start() for mark in marks), len(response)]
        between = [response[end:begin].strip() for end, begin in zip(ends, begins, strict=True)]
        if not self._empty:
            for tag, inside in zip(self._tags, between[1::2], strict=True):
                if not inside:
                    return f"<{tag}> is empty"
        outside = next((piece for piece in between[0::2] if piece), "")
        return f"outside the tags: {outside[:80]!r}" if outside and not self._outside else ""
