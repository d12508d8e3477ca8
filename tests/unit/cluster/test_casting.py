"""What the actors of a run are given: deadlines and verifiers."""

import asyncio
from pathlib import Path

import pytest

from cluster.casting import Casting
from cluster.config import RunConfig
from cluster.materials import Materials, Recipe
from cluster.placement import Node
from cluster.settings import Refused


class FakeRay:
    """Hosts nobody, and tells what would have been hosted."""

    NameTaken = FileExistsError

    @staticmethod
    def host(cls, name, *args, deadline_s, **options):
        return {"args": args, "deadline_s": deadline_s, **options}

    class Reservation:
        bundle = 0

        def __init__(self, cpus, gpus, count=1):
            self.group = f"{count} × {cpus:g} CPUs, {gpus:g} GPUs"

        def granted(self):
            return True

    @staticmethod
    def is_one_host():
        return True


NODES = [Node("here", cpus=8, gpus=0)]
MATERIALS = Materials(Recipe("model", "", ""), (), (), (), ())


@pytest.fixture
def casting(tmp_path: Path):
    def make(**actors: float) -> Casting:
        config = RunConfig.model_validate({"data": {"task": "countdown"}, "actors": actors})
        return Casting(config, tmp_path, FakeRay, NODES)

    return make


def test_one_setting_gives_a_transfer_more_time_wherever_it_is_waited_for(casting):
    cast = casting(transfer_timeout_s=5000.0, call_timeout_s=10.0)
    worker = cast.worker("w", "model", None, None)
    assert worker["deadline_s"] >= 5000
    assert worker["args"][1].args[-1] == 5000  # of the engine
    broadcaster = cast.broadcaster(MATERIALS)
    assert broadcaster["deadline_s"] >= 2 * (3 * 5000 + 8 * 10)  # a publish, and a newcomer that waited for it
    assert broadcaster["args"][-2:] == (10, 5000)


def test_a_worker_that_is_called_has_the_longest_of_its_callers_deadlines(casting):
    cast = casting(start_timeout_s=7.0, transfer_timeout_s=6.0, call_timeout_s=5.0)
    assert cast.worker("w", "model", None, None)["deadline_s"] == 7
    cast = casting(start_timeout_s=7.0, transfer_timeout_s=6.0, call_timeout_s=8.0)
    assert cast.worker("w", "model", None, None)["deadline_s"] == 8


def test_a_call_of_a_rank_has_the_learners_deadline_however_long_a_start_may_take(casting):
    cast = casting(start_timeout_s=1800.0, learner_timeout_s=60.0)
    assert cast.ranks("model")["learner-0"]["deadline_s"] == 60


def test_ranks_and_workers_ask_ray_for_what_the_plan_says_and_what_does_not_fit_is_refused(tmp_path: Path):
    config = RunConfig.model_validate({"data": {"task": "countdown"}, "actors": {"rollout_workers": 2}})
    cast = Casting(config, tmp_path, FakeRay, NODES)
    assert {peer["num_cpus"] for peer in (cast.worker("w", "m", None, None), cast.ranks("m")["learner-0"])} == {1}
    with pytest.raises(Refused, match="no room for 1 of 2 rollout workers"):
        Casting(config, tmp_path, FakeRay, [Node("here", cpus=2, gpus=0)])
    Casting(config, tmp_path, FakeRay, [Node("here", cpus=3, gpus=0)], learns=False)


def colocated(tmp_path: Path, pairs: int, **actors: object) -> Casting:
    settings = {
        "cluster": {"layout": "colocated", "device": "cuda"},
        "actors": {"rollout_workers": pairs, **actors},
        "trainer": {"ranks": pairs},
    }
    return Casting(RunConfig.model_validate(settings), tmp_path, FakeRay, [Node("here", cpus=8, gpus=pairs)])


def test_in_the_colocated_layout_a_rank_and_a_worker_have_half_of_the_same_bundle_each(tmp_path: Path):
    cast = colocated(tmp_path, pairs=2)
    asyncio.run(cast.seating.reserve())
    seats = [cast.seating.first(), cast.seating.first()]
    workers = [cast.worker(f"w{i}", "m", None, None, seat) for i, seat in enumerate(seats)]
    for i, (worker, rank) in enumerate(zip(workers, cast.ranks("m").values(), strict=True)):
        for peer in (worker, rank):
            assert (peer["seat"], peer["num_gpus"], peer["num_cpus"]) == (("2 × 2 CPUs, 1 GPUs", i), 0.5, 1)


def test_memory_of_a_gpu_is_handed_over_only_where_it_is_shared(tmp_path: Path):
    cast = colocated(tmp_path, pairs=2, weight_transport="ipc")
    asyncio.run(cast.seating.reserve())
    for i, rank in enumerate(cast.ranks("m").values()):
        worker = cast.worker("w", "m", None, None, cast.seating.first())
        assert worker["env"]["VLLM_ALLOW_INSECURE_SERIALIZATION"] == "1"
        assert worker["args"][1].keywords == {"neighbour": i}
        assert "ipc" in rank["args"]
    other = colocated(tmp_path, pairs=1)
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in other.worker("w", "m", None, None)["env"]
    # An evaluation hands nothing over.
    judged = Casting(cast._config, tmp_path, FakeRay, [Node("here", cpus=8, gpus=2)], learns=False)
    assert judged.worker("w", "m", None, None)["args"][1].args[-2] == "shared_memory"
    on_cpu = {"cluster": {"layout": "colocated", "device": "cpu"}, "actors": {"weight_transport": "ipc"}}
    with pytest.raises(Refused, match="ipc works where learner and engine share one GPU"):
        Casting(RunConfig.model_validate(on_cpu), tmp_path, FakeRay, NODES)


@pytest.mark.parametrize(
    ("most", "address", "transport"), [(None, "auto", "shared_memory"), (2, "auto", "tcp"), (2, None, "shared_memory")]
)
def test_a_run_that_may_grow_to_other_hosts_sends_its_weights_by_tcp_from_the_start(
    tmp_path: Path, most: int | None, address: str | None, transport: str
):
    settings = {"cluster": {"ray_address": address}, "actors": {"max_rollout_workers": most}}
    worker = Casting(RunConfig.model_validate(settings), tmp_path, FakeRay, NODES).worker("w", "m", None, None)
    assert worker["args"][1].args[-2] == transport


def test_actors_are_called_by_their_run_and_two_runs_of_a_name_are_one_too_many(tmp_path: Path):
    class Crowded(FakeRay):
        @staticmethod
        def host(cls, name, *args, run, **options):
            raise FileExistsError(run)

    config = RunConfig.model_validate({"data": {"task": "countdown"}, "cluster": {"name": "mine"}})
    assert Casting(config, tmp_path, FakeRay, NODES).broadcaster(MATERIALS)["run"] == "mine"
    with pytest.raises(Refused, match="a run named 'mine' is at work in this cluster"):
        Casting(config, tmp_path, Crowded, NODES).broadcaster(MATERIALS)


def test_the_pool_has_the_verifiers_that_only_data_sets_name(tmp_path: Path):
    data = {
        "sources": [{"path": "a", "verifier": "exact"}, {"path": "b"}],
        "eval_path": {"path": "c", "verifier": "mine:Verifier"},
        "eval_sets": {"d": "d", "e": {"path": "e", "verifier": "countdown"}},
    }
    verifier = {"name": "math", "others": {"countdown": {"timeout_s": 20}, "spare": {}}}
    config = RunConfig.model_validate({"data": data, "verifier": verifier})
    _, pool = Casting(config, tmp_path, FakeRay, NODES).verifier_pool(0)
    specs, _processes = pool["args"]
    assert {name: spec.name for name, spec in specs.items()} == {
        "": "math",
        "math": "math",
        "exact": "exact",
        "mine:Verifier": "mine:Verifier",
        "countdown": "countdown",
        "spare": "spare",
    }
    assert specs["countdown"].timeout_s == 20
    assert specs["exact"].timeout_s is None
