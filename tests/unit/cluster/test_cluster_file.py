"""What a cluster file offers, whichever of the two kinds it is."""

import pytest

from cluster.cluster_file import nodes_of
from cluster.placement import Node
from cluster.settings import Refused

RAY = """
cluster_name: rl
max_workers: 3
provider: {type: aws, region: eu-west-1}
head_node_type: head
available_node_types:
  head: {resources: {CPU: 8}}
  gpu: {resources: {CPU: 96, GPU: 8}, min_workers: 1, max_workers: 2}
  cpu: {resources: {CPU: 32}, max_workers: 10}
"""

KUBE = """
kind: RayCluster
spec:
  headGroupSpec:
    rayStartParams: {num-cpus: "0"}
    template: {spec: {containers: [{resources: {limits: {cpu: 4}}}]}}
  enableInTreeAutoscaling: true
  workerGroupSpecs:
  - groupName: gpu
    replicas: 1
    maxReplicas: 2
    template: {spec: {containers: [{resources: {limits: {cpu: "7500m", nvidia.com/gpu: 4}}}]}}
"""


OWN = """
cluster_name: rl
provider: {type: local, head_ip: h, worker_ips: [a, b]}
metadata: {resources: {h: {CPU: 0}, a: {CPU: 96, GPU: 8}, b: {CPU: 64}}}
"""


@pytest.fixture
def file(tmp_path):
    def write(text: str):
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        return path

    return write


def test_a_ray_cluster_has_its_head_and_as_many_workers_as_it_may_grow_to(file):
    assert nodes_of(file(RAY)) == [
        Node("head", 8, 0),
        Node("gpu-0", 96, 8),
        Node("gpu-1", 96, 8),
        Node("cpu-0", 32, 0),  # the third of three
    ]


def test_machines_of_ones_own_offer_what_the_files_metadata_says(file):
    assert nodes_of(file(OWN)) == [Node("h", 0, 0), Node("a", 96, 8), Node("b", 64, 0)]


def test_a_manifest_offers_what_its_containers_may_take_or_what_ray_is_told(file):
    expected = [Node("head", 0, 0), Node("gpu-0", 7.5, 4), Node("gpu-1", 7.5, 4)]
    assert nodes_of(file(KUBE)) == expected
    job = "kind: RayJob\nspec:\n  rayClusterSpec:" + KUBE.split("spec:", 1)[1].replace("\n", "\n  ")
    assert nodes_of(file(job)) == expected
    fixed = KUBE.replace("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false")
    assert nodes_of(file(fixed)) == expected[:2]  # nobody starts more than the replicas


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "cannot be read"),
        ("provider: {type: aws}", "says nothing of its nodes"),
        (OWN.replace("b: {CPU: 64}", "b: {}"), "says nothing of what b has"),
        ("provider: {type: local}", "says nothing of what None has"),
        (RAY.replace("head_node_type: head", "head_node_type: big"), "must be one of head, gpu, cpu, got 'big'"),
        (RAY.replace("{resources: {CPU: 8}}", "{}"), "'head' does not say what it has"),
        (KUBE.replace("limits: {cpu: 4}", "limits: {}").replace('{num-cpus: "0"}', "{}"), "'head' has no cpu limit"),
        ("kind: RayCluster\nspec: {}", "has no headGroupSpec"),
    ],
)
def test_a_file_that_does_not_say_what_there_is_is_refused(file, text, why):
    with pytest.raises(Refused, match=why):
        nodes_of(file(text))
