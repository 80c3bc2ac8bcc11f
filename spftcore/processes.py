"""The processes of a run: one, or those that `accelerate launch` or `torchrun` started together.

Started together, every process runs every stage and takes its share of what is generated, verified
and trained on. What is drawn by chance, read from the run store or written anywhere belongs to the
first process, which hands it to the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from spftcore.errors import SpftError, UsageError

Item = TypeVar("Item")

# The others wait while the first one fills templates, which may take hours.
PATIENCE = timedelta(days=30)


class FailedElsewhere(SpftError):
    """The end of another process, which has said why."""


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # a connection was lost
        raise FailedElsewhere(f"Another process of this run has ended ({error}).") from None


def lost_connection(error: Exception) -> bool:
    """Whether an exchange between processes failed, as it does when one of them ends."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):  # NCCL's, and those of the meeting point
        return True
    return isinstance(error, RuntimeError) and "/gloo/" in str(error)  # has no class of its own


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among those of a run; made without arguments, it is alone.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        on_machine: how many of them are on this machine.
        group: over which they exchange what is no tensor on a device.
    """

    rank: int = 0
    size: int = 1
    on_machine: int = 1
    group: Any = None

    @classmethod
    def joined(cls) -> Processes:
        """Those that a launcher started, once all of them have come; else this one alone.

        Raises:
            UsageError: WORLD_SIZE is set, but not what a launcher sets beside it.
            SpftError: the processes did not find one another.
        """
        size = os.environ.get("WORLD_SIZE", "1")
        if size == "1":
            return cls()
        try:
            return cls._met()
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"WORLD_SIZE is '{size}' in the environment, but not all that a launcher sets is "
                f"there ({error}). Start with `accelerate launch` or `torchrun`, or unset it."
            ) from None
        except RuntimeError as error:
            raise SpftError(
                f"The processes of this run did not find one another ({error}). Check the "
                "launcher's address and port, and that all of them were started."
            ) from None

    @classmethod
    def _met(cls) -> Processes:
        import torch
        import torch.distributed as dist
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or state.num_processes
        # Not NCCL, whose operations may not wait for long, and which knows tensors on GPUs only.
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(state.process_index, state.num_processes, on_machine, group)

    @property
    def first(self) -> bool:
        """Whether this one reads and writes for all."""
        return self.rank == 0

    @property
    def sharding(self) -> bool:
        """Whether they were started to share a model's weights out among them (FSDP2)."""
        return self.size > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of a list that all of them hold."""
        return list(items[self.rank :: self.size])

    def merged(self, own: Sequence[Item]) -> list[Item]:
        """The list again, of what each process has made of its `share`, one result an item."""
        parts = self.each(list(own))
        merged: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            merged[rank :: self.size] = part
        return merged

    def each(self, own: Item) -> list[Item]:
        """What every process has, in their order, in all of them."""
        if self.size == 1:
            return [own]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with _reached():
            dist.all_gather_object(values, own, group=self.group)
        return values

    def once(self, make: Callable[[], Item]) -> Item:
        """What the first process makes, in all of them.

        Raises:
            FailedElsewhere: in the others, where the first has met an error of ours.
        """
        if self.size == 1:
            return make()
        if not self.first:
            failure, made = self._handed_out([None, None])
            if failure is not None:
                raise FailedElsewhere(failure)
            return made
        try:
            made = make()
        except SpftError as error:
            self._handed_out([str(error), None])
            raise
        self._handed_out([None, made])
        return made

    def _handed_out(self, values: list[Any]) -> list[Any]:
        import torch.distributed as dist

        with _reached():
            dist.broadcast_object_list(values, src=0, group=self.group)
        return values

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            import torch.distributed as dist

            with _reached():
                dist.barrier(group=self.group)

    def check_device(self, device: str) -> None:
        """Fails where the processes were started for another kind of device than the models' own.

        Raises:
            UsageError: likewise, with the option of the launcher that is missing.
        """
        if self.size == 1:
            return
        import torch
        from accelerate import PartialState

        started = PartialState().device.type
        if started == "cpu" and device != "cpu" and torch.cuda.is_available():
            raise UsageError(
                "The processes were started for the CPU, but the models would go to a GPU. Set "
                "run.device=cpu, or start them without --cpu."
            )
        if device == "cpu" and started != "cpu":
            raise UsageError(
                "run.device is cpu, but the processes were started for GPUs. Give `accelerate "
                "launch` the option --cpu, or leave run.device out."
            )
