"""An engine whose prompts are spread over actors of a Ray cluster, each with an engine in it."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from spftcore.cluster.connection import connected
from spftcore.cluster.files import Facts, NodeFiles, default_cache
from spftcore.cluster.shards import Shard, Shards, dealt
from spftcore.cluster.worker import asking, software
from spftcore.cluster.workers import Slot, Workers, last_line, started_origin
from spftcore.errors import SpftError, UsageError
from spftcore.rollout.requests import Completion, Sampling

WINDOW = 2  # requests on their way to or at work on an engine
LEAST_PROMPTS, MOST_PROMPTS = 8, 512  # of a request
YIELD_SECONDS = 0.05  # completions finished within it travel together
_REMEMBERED_STOPS = 256

Opener = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of the driver's and its files as they are; without files, the id of a hub."""

    root: str
    files: tuple[Facts, ...]

    @classmethod
    def of(cls, model: str | Path) -> Tree:
        folder = Path(model)
        if not folder.is_dir():
            return cls(str(model), ())
        root = folder.resolve()
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        found = (Facts.of(os.fsencode(path)) for path in paths)
        return cls(str(root), tuple(facts for facts in found if facts is not None))


class RolloutWorker:
    """Holds an engine, opened with the first model that is asked; an actor.

    Args:
        opener: makes an engine from a model's folder. Where the engine has `load_weights`, another
            model's are loaded into it; else another engine is opened.
        origin: name of the driver's `Origin` actor.
        cache: folder for models that the node does not see.
    """

    def __init__(self, opener: Opener, origin: str, cache: Path) -> None:
        self._opener = opener
        self.files = NodeFiles(asking(origin), cache)
        self._engine: Any = None
        self._model: Tree | None = None
        self._adapters: dict[Tree, str] = {}
        self._stopped: deque[int] = deque(maxlen=_REMEMBERED_STOPS)

    def hello(self) -> tuple[tuple[str, ...], str]:
        """Versions, and where this is."""
        return software(), f"{os.uname().nodename} ({sys.executable})"

    def stop(self, call: int) -> None:
        """Ends what is under way of a call, and what is still to come of it."""
        self._stopped.append(call)

    def generate(self, request: bytes) -> Iterator[list[Completion]]:
        """Completions, some at a time, as they are finished.

        Args:
            request: pickle of (call, model, adapter, prompts, sampling).
        """
        call, model, adapter, prompts, sampling = pickle.loads(request)
        if call in self._stopped:
            return
        self._hold(model)
        name = None if adapter is None else self._held_adapter(adapter)
        gathered: list[Completion] = []
        last = time.monotonic()
        for completion in self._engine.generate(prompts, sampling, adapter=name):
            if call in self._stopped:
                return
            gathered.append(completion)
            if time.monotonic() - last > YIELD_SECONDS:
                yield gathered
                gathered, last = [], time.monotonic()
        yield gathered

    def _hold(self, model: Tree) -> None:
        if model == self._model:
            return
        folder = self._here(model)
        if self._engine is not None and hasattr(self._engine, "load_weights"):
            self._engine.load_weights(folder)
        else:
            if hasattr(self._engine, "close"):
                self._engine.close()
            self._engine = self._model = None  # its memory must be free before
            self._engine = self._opener(folder)
        self._model = model
        self._adapters = {}

    def _held_adapter(self, adapter: Tree) -> str:
        if adapter not in self._adapters:
            name = f"adapter-{len(self._adapters)}"
            self._engine.load_adapter(name, self._here(adapter))
            self._adapters[adapter] = name
        return self._adapters[adapter]

    def _here(self, tree: Tree) -> str:
        return str(self.files.tree(tree.files, tree.root)) if tree.files else tree.root


class ClusterEngine:
    """Generates on the nodes of a cluster; an `Engine`.

    Completions are those that one engine would give with the same seed: a prompt's draw depends on
    its key, not on the engine that draws it. A lost engine is started again, and what it had not
    finished is asked again; a prompt that loses engine after engine, alone at last, gets `failed`
    completions.

    Args:
        opener: makes an engine from a model's folder, on a node; picklable.
        model: a folder of this machine, or a hub id. Nodes that see the folder at its path read it
            there; others fetch it once per node.
        address: of the cluster (`connection.connected`).
        engines: how many.
        cpus, gpus: what each takes of a node.
        cache: folder on each node for models fetched.

    Raises:
        SpftError: there is no Ray, no cluster, or no room for an engine.

    Attributes:
        failures: prompts that were given up.
    """

    def __init__(
        self,
        opener: Opener,
        model: str | Path,
        *,
        address: str = "auto",
        engines: int = 1,
        cpus: int = 1,
        gpus: float = 0.0,
        cache: Path | None = None,
    ) -> None:
        if engines < 1:
            raise UsageError(f"engines must be at least 1, not {engines}.")
        self._ray = ray = connected(address)
        self._model = Tree.of(model)
        self._adapters: dict[str, Tree] = {}
        self._calls = count()
        self.failures = 0
        self._origin, origin = started_origin(ray)
        actor = ray.remote(concurrency_groups={"work": 1})(RolloutWorker).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, scheduling_strategy="SPREAD"
        )
        need = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        self._workers = Workers(
            ray,
            lambda: actor.remote(opener, origin, cache or default_cache()),
            engines,
            need,
        )

    @property
    def lost(self) -> int:
        """Engines that were lost so far."""
        return self._workers.lost

    def load_weights(self, model: str | Path) -> None:
        """Answers with another model from now on; adapters stay known."""
        self._model = Tree.of(model)

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Makes an adapter (a `peft` folder) known by a name; one known by it is replaced."""
        self._adapters[name] = Tree.of(folder)

    def close(self) -> None:
        """Ends the engines; the connection to the cluster stays."""
        self._workers.close()
        if self._ray.is_initialized():
            self._ray.kill(self._origin)

    def __enter__(self) -> ClusterEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, adapter: str | None = None
    ) -> Iterator[Completion]:
        """Completions in the order in which they come from the nodes (`Engine.generate`).

        Raises:
            SpftError: no adapter has that name, or an engine cannot open or use the model.
        """
        if adapter is not None and adapter not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise SpftError(f"No adapter is called '{adapter}'. Loaded: {known}.")
        tree = None if adapter is None else self._adapters[adapter]
        call = _Call(
            next(self._calls), prompts, sampling, self._model, tree, len(self._workers.slots)
        )
        try:
            while not call.shards.over:
                self._hand_out(call)
                for stream in self._workers.wait(call.asked):
                    yield from self._take_in(call, stream)
        finally:
            for slot in {slot.number: slot for slot, _, _ in call.asked.values()}.values():
                slot.actor.stop.remote(call.number)

    def _hand_out(self, call: _Call) -> None:
        """Gives every engine as much as it may have."""
        under_way: dict[int, list[Shard]] = {slot.number: [] for slot in self._workers.slots}
        for slot, _, shard in call.asked.values():
            under_way[slot.number].append(shard)
        for _ in range(WINDOW):
            for slot in self._workers.slots:
                here = under_way[slot.number]
                if not slot.ready or len(here) >= WINDOW or any(s.losses for s in here):
                    continue
                if (taken := call.shards.take(slot.number, alone=not here)) is not None:
                    here.append(taken)
                    method = slot.actor.generate.options(
                        num_returns="streaming", concurrency_group="work"
                    )
                    call.asked[method.remote(call.request(taken))] = (slot, slot.life, taken)

    def _take_in(self, call: _Call, stream: Any) -> Iterator[Completion]:
        slot, life, shard = call.asked[stream]
        ray = self._ray
        try:
            got = ray.get(next(stream))
        except StopIteration:
            del call.asked[stream]
            yield from self._failed(call, list(shard.units))  # answered with less than was asked
            call.shards.finish(shard)
        except ray.exceptions.RayTaskError as error:
            del call.asked[stream]
            raise SpftError(f"An engine of the cluster failed: {last_line(error.cause)}") from None
        except ray.exceptions.RayError:
            del call.asked[stream]
            self._workers.lose(slot, life)
            yield from self._failed(call, call.shards.lose(shard))
        else:
            yield from call.new(got, shard)

    def _failed(self, call: _Call, places: Sequence[int]) -> Iterator[Completion]:
        self.failures += len(places)
        for place in places:
            for sample in sorted(call.missing[place]):
                yield Completion(place, sample, "", (), (), "failed")


class _Call:
    """What is asked of one `generate`, and what has come."""

    def __init__(
        self,
        number: int,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        model: Tree,
        adapter: Tree | None,
        engines: int,
    ) -> None:
        self.number = number
        self._prompts = prompts
        self._sampling = sampling
        self._model, self._adapter = model, adapter
        self.missing = [set(range(sampling.samples)) for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        asked = dealt(order if sampling.samples else [], engines)
        weights = [1] * len(prompts)
        self.shards = Shards(asked, weights, least=LEAST_PROMPTS, most=MOST_PROMPTS)
        self.asked: dict[Any, tuple[Slot, int, Shard]] = {}
        self._places: dict[int, list[int]] = {}  # by key of the shard, as it was sent

    def request(self, shard: Shard) -> bytes:
        """What an engine is sent: prompts by their place in the shard."""
        places = self._places[shard.key] = list(shard.units)
        keys = tuple(self._sampling.key(place) for place in places)
        grammars = tuple(self._sampling.grammar(place) for place in places)
        sampling = replace(self._sampling, keys=keys, grammars=grammars if any(grammars) else ())
        prompts = [tuple(self._prompts[place]) for place in places]
        return pickle.dumps((self.number, self._model, self._adapter, prompts, sampling))

    def new(self, completions: Sequence[Completion], shard: Shard) -> Iterator[Completion]:
        """Those that had not come before the engine was lost, by their place in the call."""
        places = self._places[shard.key]
        for completion in completions:
            place = places[completion.prompt]
            if completion.sample in self.missing[place]:
                self.missing[place].remove(completion.sample)
                if not self.missing[place]:
                    self.shards.done(shard, place)
                yield replace(completion, prompt=place)
