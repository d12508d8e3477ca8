"""Decides whether a finished run was right, from what is on its disk (journal, manifest, checkpoints) and from what
the buffer told its callers.

It decodes with the journal's readers and keeps books of its own: none of the code that wrote the journal takes part.
`check` raises `Violation` with the first thing that must not be.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import arithmetic
import numpy as np
from checkpoints import AFRESH, Checkpoint, Checkpoints
from disk import Mount
from fakes import verdict
from promises import Promises
from rollbacks import Rollbacks
from samples import Sample, group_samples, report_pieces
from scenario import ENTROPY_FLOOR

from rollout.events import (
    Discarded,
    Dropped,
    Event,
    Finished,
    Leased,
    Opened,
    PayloadRef,
    PhaseBegun,
    Progressed,
    Refused,
    Released,
    TakenUp,
    Tightened,
    Trained,
    read_log,
)
from rollout.records import GroupKey
from rollout.seeds import sample_seed
from trainer.phases import Phase


class Violation(AssertionError):
    """Something that must not be."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the run was asked to do."""

    run_seed: int
    staleness: int
    drop_zero_variance: bool
    deterministic: bool
    max_attempts: int
    prompts: dict[str, tuple[int, ...]]
    """Training prompts in the order of the data, and their tokens."""
    groups_per_step: int
    group_size: int
    max_new_tokens: int
    phases: tuple[Phase, ...]
    """All that the schedule has."""
    ends_early: bool
    eval_every: int | None
    eval_overlap: bool

    @property
    def rl(self) -> dict[int, Phase]:
        """Iteration → its RL phase."""
        return {phase.iteration: phase for phase in self.phases if phase.kind == "rl"}


@dataclass(slots=True)
class _Group:
    state: str = "free"
    worker: str = ""
    attempt: int = -1
    losses: int = 0
    """Leases that ended with their worker lost."""
    known: dict[int, list[int]] = field(default_factory=dict)
    """Sample → tokens that the journal has of its unfinished answer."""
    oldest: dict[int, int] = field(default_factory=dict)
    """Sample → smallest version among them."""
    samples: list[Sample] = field(default_factory=list)


class Checker:
    """One walk over the events of a run."""

    def __init__(self, disk: Mount, rules: Rules, promises: Promises) -> None:
        self._rules = rules
        self._promises = promises
        self._checkpoints = Checkpoints(disk)
        self._rollbacks = Rollbacks(disk)
        journal = disk.folder("journal")
        self._events = list(_events_that_count(journal))
        finished = [e.payload for e in self._events if isinstance(e, Finished)]
        reported = [e.payload for e in self._events if isinstance(e, Progressed)]
        self._samples: dict[PayloadRef, list[Sample]] = group_samples(journal, finished)
        self._reports = report_pieces(journal, reported)
        self._groups: dict[GroupKey, _Group] = {}
        self._weights: dict[int, int] = {}  # version → the weights of that number
        self._begun: dict[int, int] = {}  # RL phase → version that it started with
        self._steps: dict[int, list[tuple[GroupKey, ...]]] = {}  # RL phase → its steps, as recorded
        self._digests: dict[int, list[int]] = {}
        self._sampled: Counter[int] = Counter()  # iteration → groups of its sampling phase
        self._ended: dict[int, str] = {}  # RL phase → why it ended before its last step
        self._bounds: dict[int, float] = {}  # RL phase → η, once it was tightened
        self._phase: PhaseBegun | None = None
        self._orders: dict[int, list[str]] = {}
        self._touched = 0  # prompts that were ever leased, over all epochs
        self.free_at_start: dict[int, list[GroupKey]] = {}
        """RL phase → groups that were touched before it and are free when it begins."""
        self.touched_at_start: dict[int, int] = {}

    # -- the walk ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The whole run."""
        handlers: dict[type, Callable[..., None]] = {
            PhaseBegun: self._begin,
            TakenUp: self._take_up,
            Leased: self._lease,
            Progressed: self._progress,
            Released: self._release,
            Discarded: self._discard,
            Finished: self._finish,
            Dropped: self._drop,
            Trained: self._train,
            Tightened: self._tighten,
        }
        for number, event in enumerate(self._events):
            if handler := handlers.get(type(event)):
                try:
                    handler(event)
                except Violation as violation:
                    raise Violation(f"event {number}, {_short(event)}: {violation}") from None
        self._check_end()
        self._check_promises()

    def _begin(self, event: PhaseBegun) -> None:
        for key, group in self._groups.items():
            if group.state == "leased" and (event.kind != "eval" or key.purpose == "eval"):
                group.state = "free"
        if event.kind == "eval":
            self._begin_evaluation(event)
            return
        self._phase = event
        if event.kind == "sample":
            start = next(p.init_from for p in self._rules.phases if p.iteration == event.iteration)
            self._has_weights(event.version, self._checkpoints.named(start).weights)
        if event.kind != "rl":
            return
        phase, digests = event.iteration, self._digests.setdefault(event.iteration, [])
        first = self._begun.setdefault(phase, event.version - event.done_steps)
        _require(event.version == first + event.done_steps, f"step {event.done_steps} has two version numbers")
        _require(
            event.done_steps <= len(digests), f"the checkpoint has steps that are not recorded: {len(digests)} are"
        )
        self._has_weights(first, self._start_of(phase).weights)
        for version, digest in enumerate(digests[: event.done_steps], start=first + 1):
            self._has_weights(version, self._rollbacks.made(version, self._weights, digest))
        if phase not in self.touched_at_start:
            self.touched_at_start[phase] = self._touched
            self.free_at_start[phase] = sorted(
                (key for key, group in self._groups.items() if key.purpose == "train" and group.state == "free"),
                key=self._position,
            )

    def _begin_evaluation(self, event: PhaseBegun) -> None:
        """At the end of a phase it has the engines' version for a number, and is of the weights that the manifest says.

        One in the middle may be begun again when it has all its answers; who sampled them is checked as they come in.
        """
        number = event.iteration % AFRESH
        weights, step = self._checkpoints.evaluated.get(number, ("", 0))
        if weights and not step:
            _require(number == event.version, f"an evaluation of version {number} by engines with {event.version}")
            self._has_weights(number, self._checkpoints.named(weights).weights)

    def _start_of(self, iteration: int) -> Checkpoint:
        """What the RL phase of an iteration starts from."""
        return self._checkpoints.named(self._rules.rl[iteration].init_from)

    def _take_up(self, event: TakenUp) -> None:
        assert self._phase is not None
        _require((self._phase.kind, self._phase.iteration) == ("rl", event.iteration), "no such phase is under way")
        first, done = self._begun[event.iteration], event.done_steps
        _require(event.version == first + done, f"step {done} has two version numbers")
        _require(done <= len(self._digests[event.iteration]), "the checkpoint has steps that are not recorded")

    def _has_weights(self, version: int, weights: int) -> None:
        known = self._weights.setdefault(version, weights)
        _require(known == weights, f"version {version} is the number of two different weights")

    def _lease(self, event: Leased) -> None:
        key = event.key
        if key not in self._groups and key.purpose == "train":
            _require(self._position(key) == self._touched, "a prompt was skipped, or comes out of order")
            self._touched += 1
        if key.purpose == "train":
            self._require_first(key)
        group = self._groups.setdefault(key, _Group())
        _require(group.state == "free", f"leased while {group.state}")
        _require(event.attempt == group.attempt + 1, f"attempt {event.attempt} after {group.attempt}")
        _require(group.losses < self._rules.max_attempts, f"it lost its worker {group.losses} times")
        self._require_usable(key, group)
        group.state, group.worker, group.attempt = "leased", event.worker, event.attempt

    def _require_first(self, key: GroupKey) -> None:
        """What is free again comes before all later prompts."""
        place = self._position(key)
        for other, group in self._groups.items():
            if other.purpose == "train" and group.state == "free" and self._position(other) < place:
                raise Violation(f"{other} is free and comes first")

    def _require_usable(self, key: GroupKey, group: _Group) -> None:
        """What a new lease continues can still be trained; with `deterministic` it continues nothing."""
        kept = [sample for sample, tokens in group.known.items() if tokens]
        _require(not (kept and self._rules.deterministic), f"samples {kept} must be drawn in one go")
        if key.purpose == "train" and self._phase and self._phase.kind == "rl":
            oldest = self._learner_version() - self._bound()
            stale = [sample for sample in kept if group.oldest[sample] < oldest]
            _require(not stale, f"samples {stale} are continued, and are too old to be trained")

    def _held(self, event: Progressed | Finished) -> _Group:
        group = self._groups.get(event.key, _Group())
        _require(group.state == "leased", f"the group is {group.state}")
        _require((group.worker, group.attempt) == (event.worker, event.attempt), "it is another's lease")
        return group

    def _progress(self, event: Progressed) -> None:
        group = self._held(event)
        for piece in self._reports[event.payload]:
            known = group.known.setdefault(piece.index, [])
            _require(piece.offset == len(known), f"sample {piece.index}: {piece.offset} tokens known, {len(known)} are")
            self._check_tokens(event.key, piece, known)
            known += piece.tokens
            group.oldest[piece.index] = min([*piece.versions, group.oldest.get(piece.index, 1 << 60)])

    def _release(self, event: Released) -> None:
        group = self._groups.get(event.key, _Group())
        _require(group.state == "leased", f"released while {group.state}")
        group.state = "free"
        group.losses += event.reason == "worker_lost"

    def _discard(self, event: Discarded) -> None:
        group = self._groups.get(event.key, _Group())
        _require(group.state == "free", f"discarded while {group.state}")
        _require(event.reason != "deterministic" or self._rules.deterministic, "the run need not repeat exactly")
        lost = sum(len(group.known.pop(sample, ())) for sample in event.samples)
        for sample in event.samples:
            group.oldest.pop(sample, None)
        _require(lost == event.tokens, f"{lost} tokens are lost, not {event.tokens}")

    def _finish(self, event: Finished) -> None:
        group = self._held(event)
        group.samples = self._samples[event.payload]
        _require([s.key for s in group.samples] == [event.key] * len(group.samples), "its payload is of another group")
        for sample in group.samples:
            known = group.known.get(sample.index, [])
            _require(sample.tokens[: len(known)] == known, f"sample {sample.index} contradicts its persisted tokens")
            self._check_tokens(event.key, sample, [])
            self._check_verdict(event.key, sample)
        if event.key.purpose == "eval":
            self._check_evaluated(event.key.epoch, group.samples)
        group.known, group.oldest = {}, {}
        group.state, reason = self._fate(event.key, group.samples)
        self._count_sampled(event.key)
        _require((event.fate, event.reason) == (group.state, reason), f"it should be {group.state} {reason}")

    def _count_sampled(self, key: GroupKey) -> None:
        if self._phase and self._phase.kind == "sample" and key.purpose == "train":
            self._sampled[self._phase.iteration] += 1

    def _check_evaluated(self, number: int, samples: Sequence[Sample]) -> None:
        """Its answers are by the version that it is of; beside training that goes on, by later ones too."""
        sampled_by = {version for sample in samples for version in sample.versions}
        version = number % AFRESH
        _, step = self._checkpoints.evaluated.get(version, ("", 0))
        goes_on = step and self._rules.eval_overlap
        by_these = min(sampled_by) >= version if goes_on else sampled_by == {version}
        _require(by_these, f"an evaluation of version {version} by {sampled_by}")

    def _fate(self, key: GroupKey, samples: Sequence[Sample]) -> tuple[str, str]:
        rewards = [s.reward for s in samples if s.reward is not None]
        if key.purpose == "eval":
            return "evaluated", ""
        if self._phase and self._phase.kind == "sample":
            return "dropped", "sampled"
        if len(rewards) < 2:
            return "dropped", "failed"
        if self._rules.drop_zero_variance and len(set(rewards)) == 1:
            return "dropped", "zero_variance"
        return "buffered", ""

    def _check_tokens(self, key: GroupKey, sample: Sample, known: Sequence[int]) -> None:
        """Each token is what the weights of its version sample after what stands before it."""
        before = known[-1] if known else arithmetic.opening(sample_seed(self._rules.run_seed, key, sample.index))
        for place, (token, version) in enumerate(zip(sample.tokens, sample.versions, strict=True), len(known)):
            weights = self._weights.get(version)
            if weights is None:
                raise Violation(f"sample {sample.index} has a token of version {version}, which is not recorded yet")
            if token != arithmetic.token(before, place, weights):
                raise Violation(f"token {place} of sample {sample.index} does not follow under version {version}")
            before = token

    def _check_verdict(self, key: GroupKey, sample: Sample) -> None:
        expected = verdict(key.prompt_id, arithmetic.decode(sample.tokens))
        _require(sample.reward in (None, expected.reward), f"sample {sample.index} has another's verdict")
        whole = len(sample.tokens) == min(arithmetic.answer_length(sample.tokens[0]), self._rules.max_new_tokens)
        _require(whole, f"sample {sample.index} is not a whole answer")

    def _drop(self, event: Dropped) -> None:
        group = self._groups.get(event.key, _Group())
        if event.reason == "failed":
            _require(group.state == "free", f"given up while {group.state}")
            _require(group.losses == self._rules.max_attempts, f"it lost its worker {group.losses} times")
            _require(not any(group.known.values()), "tokens are known of it")
            self._count_sampled(event.key)
        else:
            _require(group.state == "buffered", f"dropped while {group.state}")
        if event.reason == "stale":
            _require(self._age(group, self._learner_version()) > self._bound(), "it is not stale")
        group.state = "dropped"

    def _train(self, event: Trained) -> None:
        assert self._phase is not None
        phase = self._phase.iteration
        _require(self._phase.kind == "rl", "trained outside an RL phase")
        _require(len(set(event.keys)) == self._rules.groups_per_step, f"a step of {len(set(event.keys))} groups")
        before = self._learner_version()
        _require(event.version == before + 1, f"version {event.version} after {before}")
        sequences = []
        for key in event.keys:
            group = self._groups.get(key, _Group())
            _require(group.state == "buffered", f"{key} is trained while {group.state}")
            age = self._age(group, before)
            _require(0 <= age <= self._bound(), f"{key} has tokens that are {age} versions old")
            group.state = "trained"
            sequences += [sample.digest() for sample in group.samples if sample.reward is not None]
        digest = arithmetic.batch_digest(sequences)
        self._digests[phase].append(digest)
        last = len(self._digests[phase]) == self._rules.rl[phase].steps
        low = self._rules.ends_early and arithmetic.entropy(digest) < ENTROPY_FLOOR
        _require(phase not in self._ended, "its phase has ended before")
        _require(bool(event.ends) == (low and not last), f"the phase ends with it because {event.ends!r}")
        if event.ends:
            self._ended[phase] = event.ends
        self._steps.setdefault(phase, []).append(event.keys)
        self._has_weights(event.version, self._rollbacks.made(event.version, self._weights, digest))

    def _tighten(self, event: Tightened) -> None:
        assert self._phase is not None
        _require(self._phase.kind == "rl", "tightened outside an RL phase")
        _require(0 <= event.max_staleness < self._bound(), f"the bound was {self._bound()}")
        self._bounds[self._phase.iteration] = event.max_staleness

    def _bound(self) -> float:
        """η, as it stands in the RL phase under way."""
        assert self._phase is not None
        return self._bounds.get(self._phase.iteration, self._rules.staleness)

    def _learner_version(self) -> int:
        """Of the newest recorded step: steps that are trained again give the same numbers again."""
        assert self._phase is not None
        phase = self._phase.iteration
        return self._begun[phase] + len(self._digests[phase])

    def _age(self, group: _Group, version: int) -> int:
        """How old the oldest token is that would be trained; of a newer one than there is, negative."""
        versions = [v for sample in group.samples if sample.reward is not None for v in sample.versions]
        return max(version - v for v in versions) if max(versions) <= version else version - max(versions)

    def _position(self, key: GroupKey) -> int:
        if key.epoch not in self._orders:
            shuffled = np.random.default_rng([self._rules.run_seed, key.epoch]).permutation(len(self._rules.prompts))
            ids = list(self._rules.prompts)
            self._orders[key.epoch] = [ids[i] for i in shuffled]
        return key.epoch * len(self._rules.prompts) + self._orders[key.epoch].index(key.prompt_id)

    def _key(self, position: int) -> GroupKey:
        epoch, place = divmod(position, len(self._rules.prompts))
        self._position(GroupKey("train", epoch, next(iter(self._rules.prompts))))
        return GroupKey("train", epoch, self._orders[epoch][place])

    # -- the end ----------------------------------------------------------------------------------------------

    def _check_end(self) -> None:
        rules = self._rules
        for key, group in self._groups.items():
            _require(group.state not in ("leased", "buffered"), f"at the end {key} is {group.state}")
        self._checkpoints.require_complete(rules.phases)
        made = {iteration: len(self._digests.get(iteration, [])) for iteration in rules.rl}
        self._checkpoints.require_evaluations(rules.phases, made, rules.eval_every)
        for phase in rules.phases:
            match phase.kind:
                case "rl":
                    self._check_rl(phase)
                case "sample":
                    self._check_sampled(phase)
                case "rft":
                    self._check_rft(phase)
                case "merge":
                    parts = [(self._checkpoints.named(name).weights, share) for name, share in phase.average]
                    average = self._checkpoints.named(phase.produces).weights
                    _require(average == arithmetic.merged(parts), f"{phase.produces} is no average of {phase.average}")

    def _check_rl(self, phase: Phase) -> None:
        number, digests = phase.iteration, self._digests.get(phase.iteration, [])
        ended = self._ended.get(number, "")
        _require(ended == self._checkpoints.ended[number], f"it ended because {ended!r}, the manifest says otherwise")
        _require(ended or len(digests) == phase.steps, f"RL phase {number} has {len(digests)} recorded steps")
        start, result = self._start_of(number), self._checkpoints.named(phase.produces)
        path = self._rollbacks.path(self._begun[number], digests)
        _require(result.steps == [*start.steps, *path], f"{phase.produces} is not what was recorded as trained")
        if self._rules.staleness == 0:
            self._check_synchronous(number)

    def _check_rft(self, phase: Phase) -> None:
        """It learned from what it was to start from; or it was skipped, and the iteration's own start is kept."""
        began_from, successor = self._checkpoints.began_from(phase), self._checkpoints.named(phase.produces)
        start = self._checkpoints.named(began_from)
        _require(successor.steps[: len(start.steps)] == start.steps, "RFT started from other weights")
        if began_from != phase.init_from:
            own = next(p.init_from for p in self._rules.phases if p.iteration == phase.iteration)
            kept = (began_from, successor.weights) == (own, start.weights)
            _require(kept, f"RFT started from {began_from}, not from {phase.init_from}")

    def _check_sampled(self, phase: Phase) -> None:
        """As many groups as the steps of RL train, those that were given up included."""
        wanted = phase.steps * self._rules.groups_per_step
        came = self._sampled[phase.iteration]
        _require(came == wanted, f"{came} groups were sampled in iteration {phase.iteration}, not {wanted}")

    def _check_promises(self) -> None:
        """What the buffer has said holds."""
        finished, steps, reported = set(), set(), dict[tuple[GroupKey, int], list[tuple[int, int]]]()
        for event in self._events:
            if isinstance(event, Finished):
                finished.add((event.key, event.worker, event.attempt))
            elif isinstance(event, Trained):
                steps.add((event.keys, event.version))
            elif isinstance(event, Progressed):
                for piece in self._reports[event.payload]:
                    ends = reported.setdefault((event.key, piece.index), [])
                    ends.append((event.attempt, piece.offset + len(piece.tokens)))
        for delivery in self._promises.finished:
            _require(delivery in finished, f"{delivery} was taken, and is not in the journal")
        for step in self._promises.trained:
            _require(step in steps, f"{step} was called recorded, and is not in the journal")
        for (key, attempt, sample), length in self._promises.reported.items():
            known = max((end for number, end in reported.get((key, sample), ()) if number <= attempt), default=0)
            _require(known >= length, f"{length} tokens of sample {sample} of {key} were taken, {known} are there")

    def _check_synchronous(self, phase: int) -> None:
        """With η = 0 the batches are those of a run without faults: worked out from the rules, and from what was
        given up, alone.
        """
        keys = self._upcoming(phase)
        for number, step in enumerate(self._steps[phase]):
            version = self._begun[phase] + number
            weights = self._weights[version]
            accepted: list[tuple[GroupKey, list[Sample]]] = []
            while len(accepted) < self._rules.groups_per_step:
                key = next(keys)
                if self._was_given_up(key):
                    continue
                samples = [self._answer(key, i, version, weights) for i in range(self._rules.group_size)]
                if self._fate(key, samples)[0] == "buffered":
                    accepted.append((key, samples))
            accepted.sort(key=lambda pair: self._position(pair[0]))
            expected = tuple(key for key, _ in accepted)
            _require(expected == step, f"step {number} of phase {phase} is {step}, without faults it is {expected}")
            sequences = [s.digest() for _, samples in accepted for s in samples if s.reward is not None]
            _require(arithmetic.batch_digest(sequences) == self._digests[phase][number], "it is another batch")

    def _was_given_up(self, key: GroupKey) -> bool:
        group = self._groups[key]
        return group.state == "dropped" and not group.samples

    def _upcoming(self, phase: int) -> Iterator[GroupKey]:
        yield from self.free_at_start[phase]
        position = self.touched_at_start[phase]
        while True:
            yield self._key(position)
            position += 1

    def _answer(self, key: GroupKey, index: int, version: int, weights: int) -> Sample:
        before, tokens, left = arithmetic.opening(sample_seed(self._rules.run_seed, key, index)), [], 1
        while len(tokens) < left:
            before = arithmetic.token(before, len(tokens), weights)
            left = left if tokens else min(arithmetic.answer_length(before), self._rules.max_new_tokens)
            tokens.append(before)
        reward = verdict(key.prompt_id, arithmetic.decode(tokens)).reward
        return Sample(key, index, self._rules.prompts[key.prompt_id], tokens, [version] * len(tokens), reward)


def _events_that_count(journal: Mount) -> Iterator[Event]:
    """Those of a writer that was not replaced yet."""
    newest = 0
    for record in read_log(journal):
        if isinstance(record.event, Opened):
            _require(record.incarnation != newest, f"incarnation {newest} was opened twice")
            newest = max(newest, record.incarnation)
        elif record.incarnation == newest and not isinstance(record.event, Refused):
            yield record.event


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


def _short(event: Event) -> str:
    return str(event)[:160]
