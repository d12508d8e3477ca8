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


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of starts, results, drops and versions, against a model that keeps each group's own history."""

    @initialize(
        eta=st.integers(0, 4),
        batch=st.integers(1, 5),
        version=st.integers(0, 9),
        steps=st.integers(0, 6),
        concurrent=st.integers(1, 12),
    )
    def begin(self, eta: int, batch: int, version: int, steps: int, concurrent: int) -> None:
        self.eta, self.batch, self.steps, self.first, self.concurrent = eta, batch, steps, version, concurrent
        self.admission = Admission(eta, batch, version, steps)
        self.running: list[int] = []  # version at which each was started
        self.ready: list[int] = []
        self.trained = 0

    @rule(count=st.integers(1, 20))
    def start(self, count: int) -> None:
        for _ in range(min(count, self.admission.capacity(self.concurrent))):
            self.admission.start()
            self.running.append(self.admission.version)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), accepted=st.booleans())
    def finish(self, data: st.DataObject, accepted: bool) -> None:
        version = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if accepted:
            self.admission.accept()
            self.ready.append(version)
        else:
            before = self.admission.capacity(self.concurrent)
            self.admission.reject()
            assert self.admission.capacity(self.concurrent) in (before, before + 1)

    @precondition(lambda self: self.ready)
    @rule()
    def drop_the_oldest(self) -> None:
        self.ready.remove(min(self.ready))
        self.admission.withdraw()

    @precondition(lambda self: len(self.ready) >= self.batch)
    @rule()
    def train(self) -> None:
        for _ in range(self.batch):
            self.ready.remove(min(self.ready))
        self.trained += self.batch
        self.admission.new_version(self.admission.version + 1)

    @invariant()
    def counters_agree_with_what_happened(self) -> None:
        a = self.admission
        assert a.running == len(self.running)
        assert a.accepted == self.first * self.batch + self.trained + len(self.ready)

    @invariant()
    def the_bounds_hold(self) -> None:
        a = self.admission
        assert a.capacity(self.concurrent) >= 0
        assert a.running <= self.concurrent
        assert a.accepted + a.running <= (self.eta + a.version + 1) * self.batch
        assert self.trained + len(self.ready) + len(self.running) <= self.steps * self.batch

    @invariant()
    def nothing_is_stuck(self) -> None:
        if not self.running and self.trained < self.steps * self.batch and len(self.ready) < self.batch:
            assert self.admission.capacity(self.concurrent) > 0


AdmissionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAdmission = AdmissionMachine.TestCase
