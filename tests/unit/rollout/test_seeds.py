from rollout.records import GroupKey
from rollout.seeds import sample_seed


def test_a_seed_is_the_same_on_every_machine():
    assert sample_seed(7, GroupKey("train", 0, "p0"), 3) == 5829260087951136754


def test_seeds_differ_by_run_purpose_epoch_prompt_and_sample():
    keys = [GroupKey(p, e, i) for p in ("train", "eval") for e in range(3) for i in ("a", "b", "1")]
    seeds = [sample_seed(run, key, index) for run in range(3) for key in keys for index in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_fields_do_not_run_into_each_other():
    assert sample_seed(1, GroupKey("train", 1, "1"), 0) != sample_seed(1, GroupKey("train", 11, ""), 0)
    assert sample_seed(11, GroupKey("train", 1, "p"), 0) != sample_seed(1, GroupKey("train", 11, "p"), 0)


def test_what_goes_on_later_draws_numbers_of_its_own():
    key = GroupKey("train", 0, "p0")
    seeds = [sample_seed(7, key, 0, call, position) for call in ("answer", "second") for position in (0, 1, 40)]
    assert len(set(seeds)) == 6
    assert seeds[0] == sample_seed(7, key, 0)
