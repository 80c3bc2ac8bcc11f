"""Actors that do the work of a driver: started, greeted, lost and started again by Ray."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spftcore.cluster.connection import on_this_node
from spftcore.cluster.files import Origin
from spftcore.cluster.worker import software
from spftcore.errors import SpftError

POLL_SECONDS = 0.04
START_SECONDS = 300.0  # without any worker: a large model takes its time


@dataclass(eq=False)
class Slot:
    """A worker's place: Ray starts the actor again, elsewhere if need be, when it is lost.

    Attributes:
        number: of the worker.
        actor: its handle.
        greeting: its answer to `hello`, while that is to come.
        life: how many workers were lost here before.
        ready: whether this one has answered.
    """

    number: int
    actor: Any
    greeting: Any
    life: int = 0
    ready: bool = False


class Workers:
    """The workers of one kind; several threads may use them.

    Args:
        ray: the module, connected.
        make: starts an actor that Ray starts again when it is lost (`max_restarts=-1`); it has a
            method `hello` that gives `software()` and where it is.
        count: how many.
        need: what each takes, in words.

    Raises:
        SpftError: none comes, or one has other software.

    Attributes:
        lost: workers that were lost so far.
    """

    def __init__(self, ray: Any, make: Callable[[], Any], count: int, need: str) -> None:
        self._ray = ray
        self._need = need
        self._lock = threading.Lock()
        self._failure = ""
        self._silent_since = time.monotonic()
        self.lost = 0
        self.slots = []
        for number in range(count):
            actor = make()
            self.slots.append(Slot(number, actor, self._greet(actor)))
        try:
            while not any(slot.ready for slot in self.slots):
                self.wait({})
        except BaseException:
            self.close()
            raise

    def wait(self, asked: Mapping[Any, Any]) -> list[Any]:
        """Waits a moment; returns what is answered, and takes note of workers that have come.

        Raises:
            SpftError: there is no worker, and none comes.
        """
        greetings = {slot.greeting: slot for slot in self.slots if slot.greeting is not None}
        alive = any(slot.ready for slot in self.slots)
        if not asked and not greetings and not alive:
            raise SpftError(f"No worker of the cluster can be started: {self._failure}")
        waited = [*asked, *greetings]
        if not waited:
            return []
        ready, _ = self._ray.wait(waited, num_returns=1, timeout=POLL_SECONDS)
        now = time.monotonic()
        if asked or alive:
            self._silent_since = now
        elif now - self._silent_since > START_SECONDS:
            raise SpftError(
                f"No worker has started for {START_SECONDS:.0f} s. Each needs {self._need} of one "
                "node, and the cluster has none free (`ray status`): end what else runs there, or "
                "ask for less."
            )
        for reference in ready:
            if reference in greetings:
                self._welcome(greetings[reference], reference)
        return [reference for reference in ready if reference in asked]

    def lose(self, slot: Slot, life: int) -> bool:
        """Takes note of a lost worker; False where that is known already."""
        with self._lock:
            if slot.life != life:
                return False
            slot.life += 1
            slot.ready = False
            slot.greeting = self._greet(slot.actor)
            self.lost += 1
            return True

    def close(self) -> None:
        """Ends them."""
        if self._ray.is_initialized():
            for slot in self.slots:
                self._ray.kill(slot.actor)

    def _greet(self, actor: Any) -> Any:
        """Asks a worker to say that it is there, as often as it is started."""
        return actor.hello.options(max_task_retries=-1).remote()

    def _welcome(self, slot: Slot, greeting: Any) -> None:
        ray = self._ray
        try:
            found, where = ray.get(greeting)
        except ray.exceptions.RayError as error:
            with self._lock:  # it could not be made, and Ray does not try that again
                slot.greeting = None
                self._failure = last_line(error)
            return
        if found != software():
            raise SpftError(
                f"The node {where} has {', '.join(found)}, and this machine "
                f"{', '.join(software())}: results could differ. Install the same on all nodes."
            )
        with self._lock:
            if slot.greeting is greeting:
                slot.greeting = None
                slot.ready = True


def last_line(error: BaseException) -> str:
    """The last line of an error's text, where Ray puts what happened."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def started_origin(ray: Any) -> tuple[Any, str]:
    """The actor that answers for this machine's files, and its name: workers are told the name,
    since Ray cannot start an actor again whose arguments lie in its store."""
    name = f"spftcore-{uuid.uuid4().hex}"
    options = {"num_cpus": 0, "max_concurrency": 4, "scheduling_strategy": on_this_node(ray)}
    return ray.remote(Origin).options(name=name, **options).remote(), name
