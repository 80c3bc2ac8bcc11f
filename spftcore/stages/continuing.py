"""A run that continues a finished one: its model, its question writer, its pairs and its tests.

The new run is a run of its own in its own folder; the old one is only read. It begins with the old
run's best model as its base and the old run's last SQL-to-Text model, and takes over the pairs the
old run had (seeds and synthesized pairs for training, the questions it was tested on), as far as
their databases are still there, beside whatever is new.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spftcore.config import Config, read_yaml
from spftcore.errors import UsageError
from spftcore.pairs import Pair
from spftcore.store import Store


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that may be continued.

    Attributes:
        directory: its folder.
    """

    directory: Path

    @classmethod
    def open(cls, directory: Path) -> FinishedRun:
        """Checks that the run is there and complete.

        Raises:
            UsageError: there is no run, or it has not finished.
        """
        if not (directory / "run.sqlite").is_file():
            raise UsageError(
                f"There is no run in {directory} to continue. run.continues takes the folder of a "
                "finished run, as runs/NAME."
            )
        if not (directory / "model").is_dir():
            raise UsageError(
                f"The run in {directory} has not finished. Finish it with --resume, then continue "
                "it."
            )
        return cls(directory)

    def inputs(self, *, databases: bool) -> dict[str, Any]:
        """Settings that a run continuing this one begins with, nested: this run's own, without what
        names or places it, with its model as the model.

        Args:
            databases: whether the new run names databases of its own.
        """
        values = read_yaml(self.directory / "config.yaml")
        for name in ("name", "directory", "continues"):
            values.get("run", {}).pop(name, None)
        data = values.setdefault("data", {})
        own = self.directory / "databases"
        if databases:
            data["tables_json"] = None  # it described others
        if data.get("databases") is None:  # the embedded ones lie in the run
            data["databases"] = str(own)
        # Its pairs come from its store, as it used them.
        data.update(pairs=None, dev=None, test=None, max_pairs=0)
        values.setdefault("model", {})["name_or_path"] = str(self.directory / "model")
        return values

    def question_writer(self) -> Path | None:
        """Its last SQL-to-Text model; None where it had none."""
        with closing(Store(self.directory / "run.sqlite")) as store:
            trained = sorted(
                (int(name.rpartition("_")[2]), name)
                for name in store.finished()
                if name.startswith("sql_to_text_")
            )
            for _, name in reversed(trained):
                path = store.result(name).get("path")
                if path is not None and (self.directory / path).is_dir():
                    return (self.directory / path).resolve()
        return None

    def pairs(self) -> tuple[list[Pair], list[Pair]]:
        """(pairs it trained on, pairs it was evaluated on); ids carry the run's name, and so do the
        `checks` of the former, as `run`."""
        with closing(Store(self.directory / "run.sqlite")) as store:
            everything = store.pairs()

        run = self.directory.resolve().name

        def named(pair: Pair, **changed: Any) -> Pair:
            return replace(pair, id=f"{run}:{pair.id}", **changed)

        trained = [
            named(pair, split="train", checks={**pair.checks, "run": run})
            for pair in everything
            if pair.split in ("train", "feedback")
        ]
        evaluated = [named(pair) for pair in everything if pair.split in ("dev", "test")]
        return trained, evaluated


def continued(config: Config) -> FinishedRun | None:
    """The run that `run.continues` names."""
    folder = config.run.continues
    return None if folder is None else FinishedRun.open(folder)
