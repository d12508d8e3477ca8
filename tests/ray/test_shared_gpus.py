"""Pairs of a rank and a worker on GPUs that Ray only counts: there need not be any."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

COUNTED = """
import asyncio, json, os, sys
from actors.ray_settings import prepare_local_cluster
prepare_local_cluster()
import ray
from actors import ray_app
from cluster.placement import PAIR, Crew
from cluster.seating import Seating

class Who:
    def gpu(self) -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

def host(name, bundle):
    log = f"{sys.argv[1]}/{name}.log"
    half = {"num_cpus": 1, "num_gpus": 0.5}
    return ray_app.host(Who, name, log_file=log, deadline_s=60, seat=(seating.ranks, bundle), **half)

async def gpus(*peers):
    return [await peer.gpu() for peer in peers]

ray.init(address="local", num_cpus=4, num_gpus=2, namespace="rloop", include_dashboard=False)
seating = Seating([Crew(PAIR, 2, 2, 1, "PACK", "")], ray_app, 60)
asyncio.run(seating.reserve())
taken = [seating.first(), seating.first()]
ranks = [host(f"learner-{i}", i) for i in (0, 1)]
workers = [host(f"worker-{seat.bundle}", seat.bundle) for seat in taken]
before = asyncio.run(gpus(*ranks, *workers))
workers[0].kill()
taken[0].free()
after = asyncio.run(gpus(host("worker-2", seating.first().bundle)))
print(json.dumps([before, after]))
"""


def test_a_rank_and_its_worker_see_the_same_gpu_and_so_does_who_replaces_the_worker(tmp_path: Path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (first, second, *workers), (newcomer,) = json.loads(done.stdout.splitlines()[-1])
    assert {first, second} == {"0", "1"}
    assert workers == [first, second]
    assert newcomer == first
