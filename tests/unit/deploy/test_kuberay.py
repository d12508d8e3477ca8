"""The Kubernetes manifests: valid by a schema of Ray's resources, as locked up as pods can be, and one cluster each."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from cluster.cluster_file import nodes_of

ROOT = Path(__file__).parents[3]
KUBERAY = ROOT / "deploy" / "kuberay"
NAMES = ["raycluster-cpu", "raycluster-gpu", "rayjob-cpu", "rayjob-gpu"]
SCHEMA = Draft202012Validator(json.loads((ROOT / "tests" / "data" / "kuberay_schema.json").read_text()))
PINS = dict(line.split("==") for line in (ROOT / "requirements" / "gpu.txt").read_text().split())


def load(name: str) -> dict:
    return yaml.safe_load((KUBERAY / f"{name}.yaml").read_text())


def cluster(manifest: dict) -> dict:
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


def pods(manifest: dict) -> Iterator[dict]:
    """The pods of Ray, head first."""
    yield cluster(manifest)["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in cluster(manifest)["workerGroupSpecs"])


def all_pods(manifest: dict) -> Iterator[dict]:
    yield from pods(manifest)
    if submitter := manifest["spec"].get("submitterPodTemplate"):
        yield submitter["spec"]


def misspell_replicas(manifest: dict) -> None:
    group = cluster(manifest)["workerGroupSpecs"][0]
    group["maxReplica"] = group.pop("maxReplicas")


def misspell_the_secret(manifest: dict) -> None:
    cluster(manifest)["authOptions"] = {"mode": "token", "secret": "rloop-token"}


def say_a_number_where_ray_takes_text(manifest: dict) -> None:
    cluster(manifest)["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def unite_two_volumes(manifest: dict) -> None:
    next(pods(manifest))["volumes"][0]["emptyDir"] = {}


def forget_the_workers_template(manifest: dict) -> None:
    del cluster(manifest)["workerGroupSpecs"][0]["template"]


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_is_valid(name):
    SCHEMA.validate(load(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "plant",
    [
        misspell_replicas,
        misspell_the_secret,
        say_a_number_where_ray_takes_text,
        unite_two_volumes,
        forget_the_workers_template,
    ],
)
def test_the_schema_finds_what_is_planted(name: str, plant: Callable[[dict], None]):
    manifest = copy.deepcopy(load(name))
    plant(manifest)
    assert not SCHEMA.is_valid(manifest)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_job_brings_the_cluster_of_its_kind(kind):
    assert cluster(load(f"rayjob-{kind}")) == cluster(load(f"raycluster-{kind}"))


@pytest.mark.parametrize("name", NAMES)
def test_ray_asks_for_the_token_and_its_version_is_the_pinned_one(name):
    spec = cluster(load(name))
    assert spec["authOptions"] == {"mode": "token", "secretName": "rloop-token"}
    assert spec["rayVersion"] == PINS["ray"]


@pytest.mark.parametrize("name", NAMES)
def test_no_container_may_become_root_or_gain_anything(name):
    for pod in all_pods(load(name)):
        user = pod["securityContext"]
        assert (user["runAsNonRoot"], user["runAsUser"]) == (True, 1000)
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
    assert cluster(load(name))["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("name", NAMES)
def test_only_the_head_whose_autoscaler_asks_kubernetes_for_pods_has_an_account(name):
    _, *others = all_pods(load(name))
    assert all(pod["automountServiceAccountToken"] is False for pod in others)


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_gets_all_that_it_may_take_is_probed_and_has_the_shared_directory_and_memory(name):
    for pod in pods(load(name)):
        [container] = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/runs"]]["persistentVolumeClaim"]["claimName"] == "rloop-runs"
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert {"name": "RLOOP_CLUSTER__RUNS_DIR", "value": "/runs"} in container["env"]


@pytest.mark.parametrize("name", NAMES)
def test_the_service_stays_inside_and_the_plan_reads_the_pods(name):
    head = cluster(load(name))["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert not head.get("enableIngress")
    nodes = nodes_of(KUBERAY / f"{name}.yaml")
    assert nodes[0].cpus == 0
    assert sum(node.gpus for node in nodes) == (32 if "gpu" in name else 0)


@pytest.mark.parametrize("name", NAMES[2:])
def test_a_job_runs_what_may_be_repeated(name):
    job = load(name)["spec"]
    script, run, *files = (Path(word) for word in job["entrypoint"].split()[1:] if "=" not in word)
    assert str(run) == "first"
    for path in (script, *files):
        assert (ROOT / path.relative_to("/opt/rloop")).is_file()
    assert job["backoffLimit"] > 0


def test_claims_are_shared_and_the_policy_lets_in_the_pods_that_manifests_make():
    claims = list(yaml.safe_load_all((KUBERAY / "storage.yaml").read_text()))
    assert {claim["metadata"]["name"] for claim in claims} == {"rloop-runs", "rloop-cache"}
    assert all(claim["spec"]["accessModes"] == ["ReadWriteMany"] for claim in claims)
    policy = load("network-policy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    everything, metrics = policy["ingress"]
    submitter = load("rayjob-gpu")["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert {"podSelector": {"matchLabels": submitter}} in everything["from"]
    assert [port["port"] for port in metrics["ports"]] == [8080]


def test_prometheus_asks_at_the_port_that_the_pods_name():
    monitor = yaml.safe_load((ROOT / "deploy" / "prometheus" / "podmonitor.yaml").read_text())
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    for name in NAMES:
        for pod in pods(load(name)):
            ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
            assert ports[endpoint["port"]] == 8080
