"""Held-out accuracy of the systems, and the export of the best candidate."""

from __future__ import annotations

import shutil
from pathlib import Path

from spftcore.models import ADAPTER_FILE, replace_folder
from spftcore.stages import self_play
from spftcore.stages.context import RunContext
from spftcore.store import StageWriter

EVALUATED_SPLITS = ("dev", "test")


def _model_of(context: RunContext, system: str) -> tuple[str, str]:
    """(candidate name, checkpoint) that stands for a system."""
    store = context.store
    if system in ("base", "sft"):
        return system, store.result(system)["path"]
    if system in ("vbi", "self_play"):
        pool = store.candidates()
        if system == "vbi":
            pool = [c for c in pool if c.id.startswith("vbi_")]
        candidate = self_play.best(pool)
        return candidate.id, str(candidate.path)
    last = f"{system}_{context.config.self_play.iterations}"
    return last, store.result(f"{last}_train")["path"]


def evaluate(context: RunContext, stage: StageWriter, system: str) -> None:
    """The system's answers to the dev and test questions."""
    candidate, path = _model_of(context, system)
    model = context.load(path)
    stage.result = {"candidate": candidate}
    for split in EVALUATED_SPLITS:
        pairs = context.store.pairs(stage="prepare", split=split)
        if pairs:
            stage.answers(split, context.answer(model, candidate, pairs, evaluation=True))


def export(context: RunContext, stage: StageWriter) -> None:
    """Copies the best candidate to `model` in the run's folder, where it loads elsewhere."""
    chosen = self_play.best(context.store.candidates())
    target = context.directory / "model"
    temporary = target.with_name("model.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(context.directory / chosen.path, temporary)
    replace_folder(temporary, target)
    kind = "adapter" if (target / ADAPTER_FILE).is_file() else "model"
    stage.result = {"candidate": chosen.id, "kind": kind, "path": str(Path(target))}
