"""The seam between rollout code and whatever generates tokens. The vLLM engine and the tests' fake both fit it."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from rollout.records import FloatArray, GenerationRequest, IntArray, Segment
from rollout.weights import WeightSlot


class EngineDead(RuntimeError):
    """The engine cannot go on (its process died, or an update failed half way): build a new one."""


class WeightsDisagree(RuntimeError):
    """An engine was given, or answered with, other weights than the learner published."""


class WeightsMissing(RuntimeError):
    """A version did not reach an engine whole: its source did not answer, or broke off."""


class Engine(Protocol):
    """Generates tokens and takes weights. Every method may raise `EngineDead`."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[Segment]:
        """Stream the answer in pieces; the last has a finish reason. Joined, they are the whole answer.

        Requests in flight survive `load_weights`: each token carries the version that sampled it.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a request at once: its stream yields what is left with finish reason `abort`."""
        ...

    async def load_weights(self, slot: WeightSlot) -> None:
        """Pause in keep mode, load the slot's tensors, label new tokens with its version, resume.

        Returns when every later token comes from the new weights. Before touching the engine it raises `ValueError`
        when names, shapes or dtypes differ from what the engine holds, `WeightsDisagree` when the bytes are not those
        that the learner wrote, `WeightsMissing` when they did not come.
        """
        ...

    async def logprobs(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """[L-1] log-probs of tokens 1… of each given sequence at temperature 1: the attestation probe."""
        ...

    @property
    def slots(self) -> int:
        """Requests that it works on at the same time, at most."""
        ...

    @property
    def pause_s(self) -> float:
        """Seconds that the last `load_weights` kept requests waiting."""
        ...

    @property
    def version(self) -> int:
        """Policy version number that new tokens are labelled with."""
        ...

    def pids(self) -> list[int]:
        """Processes that this engine owns, for `rloop doctor`, tests and clean-up."""
        ...

    async def close(self) -> None:
        """Shut down; nothing of it stays behind. Safe to call twice."""
        ...
