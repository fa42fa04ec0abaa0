"""A cluster of Ray on this machine's loopback, whose nodes have one core each and can be killed."""

from __future__ import annotations

import logging
import os
import tempfile
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
        """Kills the node that was started first, with everything that runs there, without a word to the head."""
        self._cluster.remove_node(self._others.pop(0), allow_graceful=False)


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
