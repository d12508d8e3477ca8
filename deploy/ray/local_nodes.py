"""Starts and ends the nodes of `local.yaml`: raylets on this machine, each with a directory of its own.

Ray has a provider of fake nodes too, which lets them share the head's directory. There every node that meets a job
unpacks its files anew, over those that the job's driver stands in, and a driver whose directory is gone fails.
"""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from rollout.leash import end_with_parent

_END_S = 10.0
_MEMORY = "200000000"  # for objects, in bytes

Tags = dict[str, str]


class LocalNodes(NodeProvider):
    """Lives in the autoscaler of the head and takes every node down when that ends.

    Environment (`local.sh` sets it):
        LOCAL_HEAD: Address of the head.
        LOCAL_DIR: Where the directories of the nodes lie.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        head = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: provider_config["head_node_type"]}
        self._tags: dict[str, Tags] = {provider_config["head_node_id"]: head}

    def create_node_with_resources_and_labels(
        self,
        node_config: Mapping[str, Any],
        tags: Tags,
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        """Start `count` nodes; the autoscaler sees them as they join."""
        with self._lock:
            for _ in range(count):
                name = f"node-{next(self._numbers)}"
                self._tags[name] = dict(tags)
                self._nodes[name] = _start(name, tags[TAG_RAY_USER_NODE_TYPE], round(resources["CPU"]))

    def non_terminated_nodes(self, tag_filters: Tags) -> list[str]:
        """Names of the nodes with these tags; one whose process has ended is no more."""
        with self._lock:
            return [
                name for name, tags in self._tags.items() if tag_filters.items() <= tags.items() and self._is_up(name)
            ]

    def is_running(self, node_id: str) -> bool:
        """Whether it is there."""
        with self._lock:
            return node_id in self._tags and self._is_up(node_id)

    def is_terminated(self, node_id: str) -> bool:
        """Whether it is gone."""
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> Tags:
        """What the autoscaler said of it when it asked for it."""
        with self._lock:
            return self._tags[node_id]

    def terminate_node(self, node_id: str) -> None:
        """End a node; Ray has drained it."""
        with self._lock:
            node = self._nodes[node_id]
        node.terminate()
        try:
            node.wait(_END_S)
        except subprocess.TimeoutExpired:
            node.kill()

    def _is_up(self, name: str) -> bool:
        return name not in self._nodes or self._nodes[name].poll() is None  # the head is


def _start(name: str, kind: str, cpus: int) -> "subprocess.Popen[bytes]":
    """One more node; the kernel takes it down with this process."""
    directory = Path(os.environ["LOCAL_DIR"]) / name
    directory.mkdir()
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        "--disable-usage-stats",
        f"--address={os.environ['LOCAL_HEAD']}",
        f"--num-cpus={cpus}",
        f"--object-store-memory={_MEMORY}",
        f"--temp-dir={directory}",
        "--dashboard-agent-listen-port=0",  # these are per machine by default
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    # By these names the autoscaler knows the nodes that it asked for.
    env = os.environ | {"RAY_CLOUD_INSTANCE_ID": name, "RAY_NODE_TYPE_NAME": kind}
    with (directory / "start.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(end_with_parent, signal.SIGKILL),
        )
