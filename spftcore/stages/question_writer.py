"""A model that writes questions outside a run: the last SQL-to-Text model of one, or any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spftcore.config import Config, read_yaml, resolve
from spftcore.databases import Catalogue
from spftcore.errors import SpftError
from spftcore.stages.context import RunContext
from spftcore.stages.continuing import FinishedRun
from spftcore.store import Store
from spftcore.synthesis.questions import Task, Writer


def question_writer(model: Path, catalogue: Catalogue, folder: Path) -> Writer:
    """The writer that `write_questions` takes.

    Args:
        model: folder of a finished run, or a `transformers` checkpoint that follows instructions.
        catalogue: the databases that are asked about.
        folder: for what it has to keep meanwhile.

    Raises:
        SpftError: there is no model, or the run has no SQL-to-Text model.
    """
    config, checkpoint = Config(), model
    if (model / "run.sqlite").is_file():
        config = resolve([(str(model), read_yaml(model / "config.yaml"))])
        writer = FinishedRun.open(model).question_writer()
        if writer is None:
            raise SpftError(
                f"The run {model} has no SQL-to-Text model any more. Give another --model, or "
                "leave it out: the rules write the questions then."
            )
        checkpoint = writer
    context = RunContext(config, folder, Store(folder / "run.sqlite"), folder, lambda *_: None)
    context.__dict__["catalogue"] = catalogue  # as it was read already
    loaded = context.load(checkpoint)

    def write(tasks: Sequence[Task]) -> list[str]:
        prompts = [context.question_prompt(loaded, t.sql, t.database, t.draft) for t in tasks]
        return context.generate(loaded, prompts)

    return write
