from rollout.curation import drop_zero_variance, keep_all


def test_groups_whose_answers_score_alike_are_dropped(make_group):
    assert drop_zero_variance.on_group(make_group(rewards=(1.0, 1.0, 1.0))) is None
    assert drop_zero_variance.on_group(make_group(rewards=(0.0, 0.0))) is None


def test_a_failed_sibling_does_not_count_as_a_different_score(make_group):
    assert drop_zero_variance.on_group(make_group(rewards=(1.0, None, 1.0))) is None


def test_groups_with_differing_scores_are_kept(make_group):
    group = make_group(rewards=(0.0, 0.0, 0.1))
    assert drop_zero_variance.on_group(group) is group
    assert keep_all.on_group(make_group(rewards=(0.0, 0.0))) is not None
