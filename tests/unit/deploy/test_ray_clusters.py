"""The files for Ray's cluster launcher: valid by Ray's own check, readable by `rloop plan`, and fit for a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.cluster_file import nodes_of

ROOT = Path(__file__).parents[3]
RAY = ROOT / "deploy" / "ray"
NAMES = ["aws", "gcp", "on-premise", "local"]
LAUNCHED = NAMES[:3]  # by `ray up`; the fourth by a script

# Ray reads its settings when it is imported: not in the process of the other tests.
CHECK = """
import json, sys
from ray.autoscaler._private.util import prepare_config, validate_config
def fault(config):
    try:
        validate_config(prepare_config(config))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
print(json.dumps([fault(config) for config in json.load(sys.stdin)]))
"""


def load(name: str) -> dict:
    return yaml.safe_load((RAY / f"{name}.yaml").read_text())


def misspelt() -> dict:
    return load("aws") | {"idle_timeout_minuts": 5}


def too_many() -> dict:
    return load("aws") | {"max_workers": 0}


def half_a_gpu() -> dict:
    config = load("gcp")
    config["available_node_types"]["gpu"]["resources"]["GPU"] = 0.5
    return config


def typed_machines() -> dict:
    return load("on-premise") | {"available_node_types": load("aws")["available_node_types"]}


FAULTS = {make.__name__: make for make in (misspelt, too_many, half_a_gpu, typed_machines)}


@pytest.fixture(scope="module")
def faults() -> dict[str, str | None]:
    """What Ray finds wrong, by file and by planted fault: one start of Ray for all."""
    configs = {name: load(name) for name in NAMES} | {name: make() for name, make in FAULTS.items()}
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        input=json.dumps([*configs.values()]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(configs, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_ray_accepts_the_file(faults, name):
    assert faults[name] is None


@pytest.mark.parametrize("name", FAULTS)
def test_ray_finds_what_is_planted(faults, name):
    assert faults[name]


@pytest.mark.parametrize(
    ("name", "gpus", "count"), [("aws", 16, 7), ("gcp", 16, 7), ("on-premise", 16, 4), ("local", 0, 4)]
)
def test_the_plan_reads_what_the_cluster_may_grow_to(name, gpus, count):
    nodes = nodes_of(RAY / f"{name}.yaml")
    assert sum(node.gpus for node in nodes) == gpus
    assert len(nodes) == count
    assert nodes[0].cpus == 0, "the head is for drivers"


@pytest.mark.parametrize("name", ["aws", "gcp", "local"])
def test_there_are_nodes_from_the_start_because_a_run_does_not_wait_for_them(name):
    types = load(name)["available_node_types"]
    assert any(kind.get("min_workers") for kind in types.values())
    workers = [kind for kind_name, kind in types.items() if kind_name != load(name)["head_node_type"]]
    assert all(kind["min_workers"] <= kind["max_workers"] for kind in workers)
    assert sum(kind["max_workers"] for kind in workers) <= load(name)["max_workers"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_all_nodes_install_the_pinned_packages_and_write_runs_to_the_same_place(name):
    config = load(name)
    setup = " ".join(config["setup_commands"])
    pins = setup.split("REQUIREMENTS=")[1].split()[0]
    assert (ROOT / pins).is_file()
    assert "sh deploy/install.sh" in setup
    assert config["file_mounts"]["~/rloop"] == "."
    assert any("mountpoint -q /mnt/rloop" in command for command in config["initialization_commands"])
    assert "RLOOP_CLUSTER__RUNS_DIR=/mnt/rloop/runs" in " ".join(config["head_start_ray_commands"])


def test_a_machine_of_ones_own_that_is_listed_is_described():
    config = load("on-premise")
    hosts = [config["provider"]["head_ip"], *config["provider"]["worker_ips"]]
    assert list(config["metadata"]["resources"]) == hosts
    assert config["min_workers"] == config["max_workers"] == len(hosts) - 1


def test_the_local_script_calls_the_head_as_its_file_does():
    script, config = (RAY / "local.sh").read_text(), load("local")
    assert f"RAY_CLOUD_INSTANCE_ID={config['provider']['head_node_id']} " in script
    assert config["provider"]["head_node_type"] == config["head_node_type"]
    assert f"RAY_NODE_TYPE_NAME={config['head_node_type']}\n" in script
