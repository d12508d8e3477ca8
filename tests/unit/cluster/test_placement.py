"""Who goes where, by table, and properties that hold for every cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import RunConfig
from cluster.placement import Crew, Node, crews, place


def config(
    ranks: int = 1, workers: int = 1, tensor_parallel: int = 1, pools: int = 1, layout: str = "disaggregated"
) -> RunConfig:
    return RunConfig.model_validate(
        {
            "cluster": {"layout": layout},
            "trainer": {"ranks": ranks},
            "actors": {"rollout_workers": workers},
            "rollout": {"engine": {"tensor_parallel": tensor_parallel}},
            "verifier": {"pools": pools},
        }
    )


def nodes(*gpus: float, cpus: float = 64) -> list[Node]:
    return [Node(f"n{number}", cpus, each) for number, each in enumerate(gpus)]


def placed(found) -> dict[str, dict[str, int]]:
    return {node: dict(roles) for node, roles in found.homes.items() if roles}


@pytest.mark.parametrize(
    ("run", "cluster", "homes"),
    [
        (
            config(ranks=4, workers=4),
            nodes(8),
            {"n0": {"learner rank": 4, "rollout worker": 4, "verifier pool": 1}},
        ),
        (  # ranks together, engines where room is left
            config(ranks=8, workers=8),
            nodes(8, 8),
            {"n0": {"learner rank": 8, "verifier pool": 1}, "n1": {"rollout worker": 8}},
        ),
        (  # an engine of four never leaves its node: the ranks give way
            config(ranks=4, workers=3, tensor_parallel=4),
            nodes(8, 8),
            {"n0": {"rollout worker": 2, "verifier pool": 1}, "n1": {"rollout worker": 1, "learner rank": 4}},
        ),
        (
            config(ranks=2, workers=2, pools=3),
            nodes(2, 2, 0),
            {
                "n0": {"learner rank": 2, "verifier pool": 1},
                "n1": {"rollout worker": 2, "verifier pool": 1},
                "n2": {"verifier pool": 1},
            },
        ),
        (  # both on one GPU
            config(layout="colocated"),
            nodes(1),
            {"n0": {"colocated pair": 1, "verifier pool": 1}},
        ),
        (  # pairs together, as learner ranks are
            config(ranks=6, workers=6, layout="colocated"),
            nodes(4, 4, 4),
            {"n0": {"colocated pair": 4, "verifier pool": 1}, "n1": {"colocated pair": 2}},
        ),
    ],
)
def test_who_goes_where_on_gpus(run, cluster, homes):
    found = place(crews(run, on_gpu=True), cluster)
    assert found.problems == ()
    assert placed(found) == homes


def test_on_cpus_an_engine_a_rank_and_a_pool_take_a_core_each():
    found = place(crews(config(ranks=2, workers=2, pools=2), on_gpu=False), nodes(0, 0, cpus=3))
    assert found.problems == ()
    assert placed(found) == {
        "n0": {"learner rank": 2, "rollout worker": 1},
        "n1": {"rollout worker": 1, "verifier pool": 2},
    }


def test_who_learns_nothing_has_no_pairs_and_an_engine_gets_its_gpu_to_itself():
    needed = crews(config(layout="colocated"), on_gpu=True, learns=False)
    assert {crew.role: crew.gpus for crew in needed if crew.count} == {"rollout worker": 1, "verifier pool": 0}


@pytest.mark.parametrize(
    ("run", "cluster", "problem"),
    [
        (
            config(ranks=8, workers=8, layout="colocated"),
            nodes(4, 2),
            "no room for 2 of 8 colocated pairs: each takes 1 GPU and 2 CPUs of one node, and besides the others there "
            "is left 0 of 4 GPUs on 1 node, 0 of 2 GPUs on 1 node; lower trainer.ranks and actors.rollout_workers, or "
            "add nodes",
        ),
        (
            config(ranks=4, workers=8),
            nodes(8),
            "no room for 4 of 8 rollout workers: each takes 1 GPU and 1 CPU of one node, and besides the others there "
            "is left 0 of 8 GPUs on 1 node; lower actors.rollout_workers or rollout.engine.tensor_parallel, or add "
            "nodes",
        ),
        (
            config(workers=1, tensor_parallel=8),
            nodes(4, 4),
            "no room for 1 rollout worker: each takes 8 GPUs and 1 CPU of one node, and besides the others there is "
            "left 4 of 4 GPUs on 2 nodes; lower actors.rollout_workers or rollout.engine.tensor_parallel, or add nodes",
        ),
        (config(), [], "there is left nothing: there are no nodes; lower trainer.ranks, or add nodes"),
    ],
)
def test_what_does_not_fit_is_said_with_what_is_missing(run, cluster, problem):
    found = place(crews(run, on_gpu=True), cluster)
    assert any(problem in one for one in found.problems)


SIZES = st.sampled_from([1.0, 2.0, 4.0, 8.0])


@given(
    st.lists(st.tuples(SIZES, st.integers(1, 5), st.sampled_from(["PACK", "SPREAD"])), min_size=1, max_size=3),
    st.lists(st.integers(0, 8).map(float), max_size=5),
)
def test_no_node_gives_more_than_it_has_and_nobody_is_turned_away_whom_there_is_room_for(asked, offered):
    wanted = [
        Crew(f"kind {number}", count, 0, size, strategy, "")
        for number, (size, count, strategy) in enumerate(sorted(asked, key=lambda one: -one[0]))
    ]
    found = place(wanted, nodes(*offered))
    sizes = {crew.role: crew.gpus for crew in wanted}
    for node, each in zip(found.homes.values(), offered, strict=True):
        assert sum(sizes[role] * count for role, count in node.items()) <= each
    # With sizes that divide one another there is room for all exactly when each size, with the larger ones, fits by
    # whole pieces: sum over nodes of floor(offer / size) pieces.
    fits = all(
        sum(crew.count * crew.gpus / size for crew in wanted if crew.gpus >= size)
        <= sum(each // size for each in offered)
        for size in sizes.values()
    )
    assert (found.problems == ()) == fits
