"""The `judge` verifier: a language model behind an OpenAI-compatible endpoint scores an answer by a rubric."""

import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from verifiers.chat_client import ChatEndpoint, ChatFault
from verifiers.judge_cache import JudgeCache
from verifiers.judge_prompt import PROMPT_VERSION, InvalidReply, Opinion, Question, messages, read_reply, reply_schema
from verifiers.options import one_of, real, text, whole
from verifiers.records import ScoreRequest, Verdict
from verifiers.rubric import read_rubric, rubric_of, weighted
from verifiers.visible import visible

_MARGIN_S = 10.0  # from the judge's own deadline to the end of its process
_STRUCTURES = ("json_schema", "json_object", "none")


class NoVote(Exception):
    """The judge gave no vote in the time and the tries that it had."""


@dataclass(slots=True)
class Cost:
    """What one vote cost."""

    calls: float = 0.0
    """Requests sent, those that failed included."""
    prompt_tokens: float = 0.0
    """Read by the judge."""
    completion_tokens: float = 0.0
    """Written by the judge."""
    cached: float = 0.0
    """1 when the vote was on disk."""
    faults: float = 0.0
    """Requests without a reply."""
    invalid: float = 0.0
    """Replies that were no vote."""


class Judge:
    """`votes` votes on each criterion; the reward is their mean, weighted (`verifiers.rubric`).

    The answer is correct when no item vetoes it and the reward is above `threshold`. A judge that cannot be reached or
    gives no valid vote makes the verdict an error, with what it cost in `facts`; it is never a reward of 0. An empty
    answer is wrong without asking.
    """

    name = "judge"

    def __init__(
        self,
        model: str = "",
        base_url: str = "http://127.0.0.1:8000/v1",
        api_key_env: str = "",
        rubric: Sequence[Any] | None = None,
        votes: int = 1,
        sampling: Mapping[str, Any] | None = None,
        structured: str = "json_schema",
        request_s: float = 60.0,
        deadline_s: float = 120.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        cache_dir: str = "",
        after: str = "",
        threshold: float = 0.5,
    ) -> None:
        """Options.

        Args:
            model: As the endpoint calls it.
            base_url: Of the endpoint, up to and with `/v1`.
            api_key_env: Name of the environment variable that holds the key; empty: no key is sent.
            rubric: Criteria for rows that have none: texts, or mappings of `RubricItem`'s fields.
            votes: Independent votes, asked for at the same time.
            sampling: Fields of the request: by default `{temperature: 0}`, with more votes `{temperature: 0.7}`.
            structured: How the endpoint is asked for JSON: `json_schema`, `json_object` or `none`.
            request_s: Seconds for one request.
            deadline_s: Seconds for one answer, retries and waiting included; a recipe that sets the verifier's
                `timeout_s` gives it more than this.
            retries: Further requests for a vote after faults and replies that are no vote.
            backoff_s: First pause before a retry; doubles each time, drawn at random up to it.
            cache_dir: Folder for votes; empty: every vote is asked for.
            after: Only what follows the last occurrence of this is judged, e.g. `</think>`.
            threshold: A reward above it is a correct answer.
        """
        if not text("model", model):
            raise ValueError("judge needs the option model: the name under which the endpoint serves it")
        if urlsplit(text("base_url", base_url)).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
            raise ValueError(f"base_url looks like http://127.0.0.1:8000/v1, got {base_url!r}")
        if sampling is not None and (not isinstance(sampling, Mapping) or {"model", "messages"} & set(sampling)):
            raise ValueError(f"sampling is a mapping of further fields such as temperature, got {sampling!r:.80}")
        self._model, self._base_url = model, base_url
        self._key_name = text("api_key_env", api_key_env)
        self._rubric = () if rubric is None else read_rubric("rubric", rubric)
        self._votes = whole("votes", votes, 1, 64)
        self._sampling = {"temperature": 0.0 if votes == 1 else 0.7} if sampling is None else dict(sampling)
        self._structured = one_of("structured", structured, _STRUCTURES)
        self._request_s = real("request_s", request_s, 0.01)
        self._deadline_s = real("deadline_s", deadline_s, 0.01)
        self.timeout_s = self._deadline_s + _MARGIN_S
        self.version = f"2.{PROMPT_VERSION}[{votes} x {model}]"
        self._retries = whole("retries", retries, 0, 100)
        self._backoff_s = real("backoff_s", backoff_s, 0)
        self._cache = JudgeCache(cache_dir) if text("cache_dir", cache_dir) else None
        self._after = text("after", after)
        self._threshold = real("threshold", threshold, 0, 1)

    def prepare(self) -> None:
        """Refuse to start without the key. The endpoint is not asked: it may still be starting itself."""
        self._endpoint()

    def score(self, request: ScoreRequest) -> Verdict:
        """The mean of the votes."""
        endpoint = self._endpoint()
        items, reference = rubric_of(request, self._rubric)
        question = Question(request.prompt, reference, visible(request.response, self._after), tuple(items))
        if not question.answer.strip():  # a criterion like "is not rude" would pay for it
            return Verdict(0.0, "wrong", self.name, self.version, feedback="the answer is empty", rule="empty")
        deadline = time.monotonic() + self._deadline_s
        costs = [Cost() for _ in range(self._votes)]
        with ThreadPoolExecutor(self._votes, "vote") as threads:
            asked = [
                threads.submit(self._vote, endpoint, question, number, cost, deadline)
                for number, cost in enumerate(costs)
            ]
        facts = {name: sum(getattr(cost, name) for cost in costs) for name in asdict(costs[0])}
        failed = next((vote.exception() for vote in asked if vote.exception()), None)
        if isinstance(failed, NoVote):
            why = f"no verdict from the judge: {failed}"
            return Verdict(None, "error", self.name, self.version, feedback=why, rule="rubric", facts=facts)
        votes = [vote.result() for vote in asked]
        shares = {i.id: sum(vote.scores[i.id] for vote in votes) / (i.scale * len(votes)) for i in items}
        reward, veto = weighted(items, shares)
        correct = not veto and reward > self._threshold
        return Verdict(
            reward,
            "correct" if correct else "wrong",
            self.name,
            self.version,
            shares,
            feedback=f"vetoed by {veto}: {votes[0].reason}" if veto else votes[0].reason,
            expected=reference,
            rule="rubric",
            facts=facts,
        )

    def _vote(self, endpoint: ChatEndpoint, question: Question, number: int, cost: Cost, deadline: float) -> Opinion:
        """One vote, from disk or from the judge. Raises `NoVote`."""
        content = [
            PROMPT_VERSION,
            self._base_url,
            self._model,
            self._sampling,
            self._structured,
            number,
            asdict(question),
        ]
        kept = self._cache.get(content) if self._cache else None
        if kept is not None:
            cost.cached = 1.0
            return kept
        opinion = self._insist(endpoint, question, cost, deadline)
        if self._cache:
            self._cache.put(content, opinion)
        return opinion

    def _insist(self, endpoint: ChatEndpoint, question: Question, cost: Cost, deadline: float) -> Opinion:
        """Ask until there is a vote."""
        for attempt in range(self._retries + 1):
            try:
                return self._ask(endpoint, question, cost, deadline)
            except ChatFault as fault:
                cost.faults += 1
                why, pause = str(fault), fault.again_after_s
            except InvalidReply as error:
                cost.invalid += 1
                why, pause = str(error), 0.0
            if math.isinf(pause):
                raise NoVote(why)
            pause = max(pause, random.uniform(0.5, 1.0) * self._backoff_s * 2**attempt)
            if attempt == self._retries:
                break
            if time.monotonic() + pause >= deadline:
                raise NoVote(
                    f"{why}; the next try, in {pause:.1f} s, would be after the deadline of {self._deadline_s:g} s"
                )
            time.sleep(pause)
        raise NoVote(f"{why}; asked {self._retries + 1} times")

    def _ask(self, endpoint: ChatEndpoint, question: Question, cost: Cost, deadline: float) -> Opinion:
        said, token = messages(question)
        body: dict[str, Any] = {"model": self._model, "messages": said, **self._sampling}
        if self._structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif self._structured == "json_schema":
            schema = {"name": "verdict", "strict": True, "schema": reply_schema(question.items)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        cost.calls += 1
        reply = endpoint.ask(body, max(min(self._request_s, deadline - time.monotonic()), 0.001))
        cost.prompt_tokens += reply.prompt_tokens
        cost.completion_tokens += reply.completion_tokens
        if not reply.finished:
            raise InvalidReply("the reply was cut off at the judge's token limit; raise max_tokens in sampling")
        return read_reply(reply.content, token, question.items)

    def _endpoint(self) -> ChatEndpoint:
        key = os.environ.get(self._key_name, "") if self._key_name else ""
        if self._key_name and not key:
            raise ValueError(
                f"the environment variable {self._key_name} (option api_key_env) is not set for verifiers; set it, and "
                f"let it through with verifier.environment=[{self._key_name}]"
            )
        return ChatEndpoint(self._base_url, key)
