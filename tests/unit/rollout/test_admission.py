import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rollout.admission import Admission, capacity


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 0, 4, 0, 0, 100), 4),
        ((0, 0, 4, 0, 4, 100), 0),
        ((2, 0, 4, 0, 4, 100), 8),
        ((2, 3, 4, 12, 8, 100), 4),
        ((4, 1, 8, 8, 0, 16), 16),
        ((0.5, 0, 3, 0, 0, 100), 4),  # floor(1.5 · 3)
        ((0, 0, 4, 9, 0, 100), 0),  # never negative
        ((9, 0, 4, 0, 5, 3), 0),
    ],
)
def test_capacity_follows_areals_rule(arguments, expected):
    result = capacity(*arguments)
    assert result == expected
    assert isinstance(result, int)


def test_without_staleness_each_batch_waits_for_the_version_of_the_one_before():
    admission = Admission(0, batch_size=2, version=0, steps=3)
    started = []
    for version in range(1, 4):
        while admission.capacity(100):
            admission.start()
            started.append(admission.version)
        for _ in range(2):
            admission.accept()
        assert admission.capacity(100) == 0
        admission.new_version(version)
    assert started == [0, 0, 1, 1, 2, 2]


def test_a_filtered_group_reopens_its_slot():
    admission = Admission(0, batch_size=2, version=5, steps=1)
    admission.start()
    admission.start()
    assert admission.capacity(100) == 0
    admission.reject()
    assert admission.capacity(100) == 1


def test_a_phase_never_generates_more_than_it_trains():
    admission = Admission(10, batch_size=4, version=20, steps=2)
    assert admission.capacity(100) == 8
    for _ in range(8):
        admission.start()
        admission.accept()
    admission.new_version(21)
    assert admission.capacity(100) == 0


def test_groups_kept_from_before_a_restart_count_as_accepted():
    admission = Admission(1, batch_size=4, version=7, steps=5, ready=3)
    assert admission.accepted == 31
    assert admission.capacity(100) == (1 + 7 + 1) * 4 - 31


def test_versions_do_not_go_back_within_a_phase():
    admission = Admission(0, batch_size=1, version=3, steps=1)
    with pytest.raises(ValueError, match="got 2 after 3"):
        admission.new_version(2)


def test_an_over_provisioned_round_starts_more_than_it_needs_and_stops_when_it_has_enough():
    admission = Admission(1, batch_size=4, version=0, steps=9, oversample=1.5)
    assert admission.capacity(100) == 6  # one round of 4, and half as many again
    for _ in range(6):
        admission.start()
    for _ in range(3):
        admission.accept()
    assert (admission.surplus, admission.capacity(100)) == (False, 0)
    admission.accept()
    assert admission.surplus  # the two that still run
    admission.accept()  # one of them finishes in the same moment: it counts for the next round
    admission.reject()  # the other is interrupted
    assert (admission.surplus, admission.capacity(100)) == (False, 0)
    admission.new_version(1)
    assert admission.capacity(100) == 5  # 8 + 2 - 5


def test_a_fractional_bound_admits_no_more_than_its_floor():
    assert Admission(1.5, batch_size=4, version=0, steps=9).capacity(100) == 8
    assert Admission(0.5, batch_size=4, version=0, steps=9).capacity(100) == 4


def test_over_provisioned_rounds_need_a_bound_that_an_interrupted_group_can_keep():
    with pytest.raises(ValueError, match="staleness bound of at least 1, got 0"):
        Admission(0, batch_size=4, version=0, steps=9, oversample=1.5)


class AdmissionMachine(RuleBasedStateMachine):
    """Starts, results, drops, versions, interruptions, tighter bounds, deaths and resumes, in any order.

    A group is the engines' version at which it was started first: its oldest token. The learner may be a step ahead of
    the engines, or any number of steps while recorded ones are trained again.
    """

    @initialize(
        eta=st.one_of(st.integers(0, 4), st.sampled_from([0.5, 0.99, 1.5, 2.75]), st.floats(0, 4)),
        batch=st.integers(1, 5),
        version=st.integers(0, 9),
        steps=st.integers(0, 6),
        concurrent=st.integers(1, 12),
        oversample=st.sampled_from([1.0, 1.3, 2.0]),
    )
    def begin(self, eta: float, batch: int, version: int, steps: int, concurrent: int, oversample: float) -> None:
        self.eta, self.batch, self.steps, self.first, self.concurrent = eta, batch, steps, version, concurrent
        self.first_eta, self.oversample = eta, oversample if eta >= 1 else 1.0
        self.extra = math.ceil(round((self.oversample - 1) * batch, 6))
        self.admission = Admission(eta, batch, version, steps, oversample=self.oversample)
        self.running: list[int] = []
        self.ready: list[int] = []
        self.interrupted: list[int] = []
        self.trained = 0  # steps of the learner
        self.recorded = 0  # steps that any start of the run has trained
        self.started: list[tuple[int, int]] = []  # (engines' version, steps of the learner) at each first start

    @property
    def learner(self) -> int:
        return self.first + self.trained

    @rule(count=st.integers(1, 20))
    def start(self, count: int) -> None:
        for _ in range(min(count, self.admission.capacity(self.concurrent))):
            self.admission.start()
            if self.interrupted:  # first, and from nothing when its tokens could not be trained any more
                oldest = self.interrupted.pop(0)
                self.running.append(oldest if self.learner - oldest <= self.eta else self.admission.version)
            else:
                self.running.append(self.admission.version)
                self.started.append((self.admission.version, self.trained))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), accepted=st.booleans())
    def finish(self, data: st.DataObject, accepted: bool) -> None:
        version = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before = self.admission.capacity(self.concurrent)
        if accepted:
            self.admission.accept()
            self.ready.append(version)
        else:
            self.admission.reject()
            assert self.admission.capacity(self.concurrent) in (before, before + 1)

    @precondition(lambda self: self.eta > 0)
    @rule()
    def tighten(self) -> None:
        self.eta = max(0.0, self.eta - 1)
        self.extra = self.extra if self.eta >= 1 else 0
        self.admission.tighten(self.eta)

    @precondition(lambda self: self.admission.surplus)
    @rule()
    def interrupt_the_surplus(self) -> None:
        for _ in self.running:
            self.admission.reject()
        self.interrupted += self.running
        self.running = []
        assert not self.admission.surplus

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, len(self.running)))):
            self.interrupted.append(self.running.pop())
            self.admission.reject()

    @precondition(lambda self: self.trained < self.steps)
    @rule()
    def train(self) -> None:
        if self.trained < self.recorded:  # a step of an earlier start, on its own groups
            self.trained += 1
            return
        stale = [version for version in self.ready if self.learner - version > self.eta]
        for version in stale:
            self.ready.remove(version)
            self.admission.withdraw()
        if len(self.ready) >= self.batch:
            for _ in range(self.batch):
                self.ready.remove(min(self.ready))
            self.trained += 1
            self.recorded += 1

    @precondition(lambda self: self.admission.version < self.learner)
    @rule()
    def the_engines_follow(self) -> None:
        self.admission.new_version(self.admission.version + 1)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Everything dies; the checkpoint is of any step so far, and leases are void."""
        self.trained = data.draw(st.integers(0, self.trained))
        self.interrupted += self.running
        self.running = []
        kept = len(self.ready) + (self.recorded - self.trained) * self.batch
        left = self.steps - self.trained
        self.admission = Admission(self.first_eta, self.batch, self.learner, left, kept, self.oversample)
        self.admission.tighten(self.eta)

    @invariant()
    def counters_agree_with_what_happened(self) -> None:
        a = self.admission
        assert a.running == len(self.running)
        assert a.accepted == (self.first + self.recorded) * self.batch + len(self.ready)

    @invariant()
    def the_bounds_hold(self) -> None:
        a = self.admission
        assert a.capacity(self.concurrent) >= 0
        assert a.running <= self.concurrent
        waiting = len(self.ready) + len(self.running)
        assert self.recorded * self.batch + waiting <= self.steps * self.batch
        if not self.extra and a.version >= self.first + self.recorded:  # nothing is being trained again
            ahead = a.accepted + a.running - (math.floor(self.eta) + a.version + 1) * self.batch
            assert ahead <= (0 if self.eta == self.first_eta else math.ceil(self.first_eta - self.eta) * self.batch)
            assert ahead < 0 or a.capacity(self.concurrent) == 0

    @invariant()
    def without_staleness_the_order_is_synchronous(self) -> None:
        if self.first_eta < 1:  # ages are whole numbers
            assert all(version == self.first + trained for version, trained in self.started)

    @invariant()
    def nothing_is_stuck(self) -> None:
        done = self.recorded == self.steps or self.trained < self.recorded
        in_sync = self.admission.version == self.learner
        if not done and in_sync and not self.running and len(self.ready) < self.batch:
            assert self.admission.capacity(self.concurrent) > 0


AdmissionMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50)
TestAdmission = AdmissionMachine.TestCase
