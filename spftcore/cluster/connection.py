"""A connection to a Ray cluster, or a sentence on why there is none."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spftcore.errors import SpftError

REACH_SECONDS = 10.0

# Read by Ray when it is imported, or by the processes it starts.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what a worker without a GPU sees is left alone
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


def connected(address: str) -> Any:
    """The module `ray`, connected to a cluster.

    A connection that the process has already stays as it is.

    Args:
        address: `auto` (the cluster that this machine belongs to), `local` (a cluster of this
            machine alone, for as long as this process lives), `HOST:PORT`, or `ray://…`.

    Raises:
        SpftError: Ray is not installed, or there is no such cluster.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    try:
        import ray
    except ImportError as error:
        raise SpftError(
            f"cluster.address asks for Ray, which cannot be imported ({error}). Install it with "
            '`pip install "spftcore[cluster]"`, on every node, or leave cluster.address=none.'
        ) from None
    if ray.is_initialized():
        return ray
    try:
        _reach(address)
        with _own_signals():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if address == "local" else None,
            )
    except Exception as error:  # of many kinds, by what stands in the way
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SpftError(
            f"There is no connection to the Ray cluster '{address}' ({first}). Start one with "
            "`ray start --head` on one machine and `ray start --address HOST:6379` on the others; "
            "Python and Ray must be of the same version on all."
        ) from None
    return ray


def _reach(address: str) -> None:
    """Fails at once where nobody listens; Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray ends its process on SIGTERM in its own way; a run has to save its state first."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        try:
            for number, handler in kept.items():
                if handler is not None:
                    signal.signal(number, handler)
        except ValueError:  # not the main thread: then Ray has set none either
            pass


def cpus(ray: Any) -> list[int]:
    """CPUs of each node that is alive."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def on_this_node(ray: Any) -> Any:
    """Where to start what has to read the driver's files."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
