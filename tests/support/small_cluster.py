"""A cluster of Ray on this machine's loopback, whose nodes have one core each and can be killed."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from unseg.compute.ray_cluster import SETTINGS, STORE

# A dead node is known within seconds. Ray's own times are for networks.
_SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 5}


class SmallCluster:
    """A head, whose core is the first node's, and further nodes. address: for `--ray-address`."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._others: list[Any] = []

    @property
    def address(self) -> str:
        """Returns HOST:PORT of the head."""
        return self._cluster.address

    def add(self) -> None:
        """Starts one more node."""
        self._others.append(self._cluster.add_node(num_cpus=1, object_store_memory=STORE))

    def kill(self) -> None:
        """Kills a node where an actor lives, with everything that runs there, without a word to the head.

        Waits until there is one: on a slow day the head's actor does much before the others have started, and the death
        of a node where nothing runs would never be noticed.
        """
        from ray._private.state import actors  # Ray's public listing asks its dashboard, which does not run here

        until = time.monotonic() + 60
        while True:
            lives = {told["Address"]["NodeID"] for told in actors().values() if told["State"] == "ALIVE"}
            for node in self._others:
                if node.node_id in lives:
                    self._others.remove(node)
                    self._cluster.remove_node(node, allow_graceful=False)
                    return
            assert time.monotonic() < until, "no actor has started but on the head"
            time.sleep(0.02)


@contextmanager
def cluster_of(nodes: int, cores: int = 1) -> Iterator[SmallCluster]:
    """Runs a cluster of so many nodes. What is in the environment now, its processes inherit. cores: of the first."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder,
    ):
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]))
        from ray.cluster_utils import Cluster

        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of what it writes into its own settings
        head = {"num_cpus": cores, "object_store_memory": STORE, "include_dashboard": False, "_system_config": _SOON}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            small = SmallCluster(cluster)
            for _ in range(nodes - 1):
                small.add()
            yield small
        finally:
            cluster.shutdown()
