"""Which nodes a cluster file asks for at its largest: Ray's cluster YAML, or a RayCluster or RayJob manifest."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.placement import Node
from cluster.settings import Refused

_GPU = "nvidia.com/gpu"
_MILLI = re.compile(r"(\d+)m")


def nodes_of(path: Path) -> list[Node]:
    """The nodes, head first, as many workers as it may grow to.

    Raises:
        Refused: When it cannot be read, or does not say what a node has.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused([f"{path}: cannot be read ({error}); name a Ray cluster YAML or a RayCluster manifest"]) from None
    if isinstance(said, Mapping) and said.get("kind") in ("RayCluster", "RayJob"):
        spec: Mapping[str, Any] = said.get("spec") or {}
        return list(_of_manifest(path, spec.get("rayClusterSpec", spec)))
    if isinstance(said, Mapping) and (said.get("provider") or {}).get("type") == "local":
        return list(_of_machines(path, said))
    if isinstance(said, Mapping) and said.get("available_node_types"):
        return list(_of_yaml(path, said))
    raise Refused(
        [
            f"{path}: says nothing of its nodes; a Ray cluster YAML has available_node_types with resources, a KubeRay "
            "manifest is a RayCluster or a RayJob"
        ]
    )


def _of_yaml(path: Path, said: Mapping[str, Any]) -> Iterator[Node]:
    types: Mapping[str, Any] = said["available_node_types"]
    head = str(said.get("head_node_type"))
    if head not in types:
        raise Refused([f"{path}: head_node_type must be one of {', '.join(types)}, got {head!r}"])
    yield _node(path, head, types[head])
    left = int(said.get("max_workers", 2))  # Ray's default
    for name, kind in types.items():
        count = min(int(kind.get("max_workers", 0 if name == head else left)), left)
        left -= count
        for number in range(count):
            yield _node(path, f"{name}-{number}", kind)


def _of_machines(path: Path, said: Mapping[str, Any]) -> Iterator[Node]:
    """Machines of one's own, head first. Ray takes no node types for them and does not read the file's metadata."""
    known: Mapping[str, Any] = (said.get("metadata") or {}).get("resources") or {}
    for host in (said["provider"].get("head_ip"), *(said["provider"].get("worker_ips") or ())):
        if "CPU" not in (known.get(host) or {}):
            raise Refused(
                [
                    f"{path}: says nothing of what {host} has, and Ray finds out only when it starts there; add "
                    f"metadata: {{resources: {{{host}: {{CPU: 96, GPU: 8}}}}}} (what is there)"
                ]
            )
        yield _node(path, str(host), {"resources": known[host]})


def _node(path: Path, name: str, kind: Mapping[str, Any]) -> Node:
    resources = kind.get("resources") or {}
    if "CPU" not in resources:
        raise Refused(
            [
                f"{path}: node type of {name!r} does not say what it has, and its provider may find out only when it "
                "starts; add resources: {CPU: 96, GPU: 8} (what is there) to it"
            ]
        )
    return Node(name, float(resources["CPU"]), float(resources.get("GPU", 0)))


def _of_manifest(path: Path, spec: Mapping[str, Any]) -> Iterator[Node]:
    head = spec.get("headGroupSpec")
    if not head:
        raise Refused([f"{path}: has no headGroupSpec; name the manifest of a RayCluster or a RayJob"])
    yield _pod(path, "head", head)
    for group in spec.get("workerGroupSpecs") or ():
        name, most = group.get("groupName", "workers"), group.get("replicas", 1)
        if spec.get("enableInTreeAutoscaling"):
            most = group.get("maxReplicas", most)
        for number in range(int(most)):
            yield _pod(path, f"{name}-{number}", group)


def _pod(path: Path, name: str, group: Mapping[str, Any]) -> Node:
    """A group's pod. What `rayStartParams` tell Ray counts more than what the container may take."""
    told = group.get("rayStartParams") or {}
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or [{}]
    resources = containers[0].get("resources") or {}
    limits = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    cpus = told.get("num-cpus", limits.get("cpu"))
    if cpus is None:
        raise Refused([f"{path}: the Ray container of {name!r} has no cpu limit; add resources: limits: cpu"])
    milli = _MILLI.fullmatch(str(cpus))
    return Node(name, int(milli[1]) / 1000 if milli else float(cpus), float(told.get("num-gpus", limits.get(_GPU, 0))))
