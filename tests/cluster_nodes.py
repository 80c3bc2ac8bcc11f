"""A Ray cluster of two nodes on this machine, and how to lose one of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

CPUS = 8  # of a node: enough for all that runs on both, when the other one is lost
STORE_BYTES = 100 << 20  # the least that Ray takes


class Nodes:
    """The head node, on which the driver is, and a second one that may be lost.

    Attributes:
        address: of the cluster.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": CPUS,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "no_monitor": True,
            },
        )
        self._second: Any = None
        self.address: str = self._cluster.address

    def two(self) -> None:
        """Sees to it that there are two nodes."""
        if self._second is None:
            self._second = self._cluster.add_node(num_cpus=CPUS, object_store_memory=STORE_BYTES)

    def lose_one(self) -> None:
        """The second node is gone, with all that ran on it."""
        if self._second is not None:
            (raylet,) = self._second.all_processes["raylet"]
            left = psutil.Process(raylet.process.pid).children(recursive=True)
            self._cluster.remove_node(self._second, allow_graceful=False)
            for process in left:  # they would answer for a while yet
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._second = None

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()


def wait_for_all(workers: Any) -> None:
    """Until every worker is there, so that the lost node has one."""
    while not all(slot.ready for slot in workers.slots):
        coming = all(slot.ready or slot.greeting is not None for slot in workers.slots)
        assert coming, workers._failure  # Ray does not try again: this would wait for ever
        workers.wait({})


@contextmanager
def running_nodes() -> Iterator[Nodes]:
    logging.getLogger("ray").setLevel(logging.ERROR)
    from spftcore.cluster.connection import connected

    nodes = Nodes()
    try:
        nodes.two()
        connected(nodes.address)
        yield nodes
    finally:
        nodes.close()
