"""Exports a trained model as a plain checkpoint: `python -m spftcore.export --model runs/NAME`.

An adapter is merged into its base, so that `transformers`, `vllm` and others load the result
without knowing of adapters; a full model is copied.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from spftcore import adapters, models
from spftcore.config import Config, OptionParser, read_yaml, resolve
from spftcore.errors import SpftError, UsageError, explain
from spftcore.store import Store

# Largest relative error of the logits (root of the mean square, over their spread) that rounding
# explains. Merging is checked in fp32, where (W + BA) x and W x + B (A x) differ by rounding only;
# the written file again, whose weights lose up to 2^-12 (fp16) or 2^-9 (bf16) of their value each.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
PROBES = (
    "How many customers ordered more than twice in 2023?",
    "table city (id integer primary key, name text, country text)\nName the largest city.",
    "select name from city where country = 'Peru' order by inhabitants desc limit 1",
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: the new folder.
        kind: `merged`, `model` (copied) or `adapter`.
        dtype: of the weights.
        error: relative error of its logits against the source's; None where files were copied.
    """

    path: Path
    kind: str
    dtype: str
    error: float | None


def locate(model: Path, candidate: str | None = None) -> tuple[Path, Config]:
    """The checkpoint folder that `--model` and `--candidate` name, and the settings it belongs to.

    Args:
        model: a run (`runs/NAME`: its best candidate), or the folder of a checkpoint or adapter.
        candidate: a candidate of the run's pool, or another of its checkpoints.

    Raises:
        SpftError: nothing is there, or the run has no such candidate (yet).
    """
    if not model.is_dir():
        raise SpftError(
            f"There is no folder {model}. Give a run (runs/NAME) or the folder of a checkpoint."
        )
    settings = model / "config.yaml"
    if not (model / "run.sqlite").is_file():
        if candidate is not None:
            raise UsageError(f"--candidate needs a run, and {model} holds no run.sqlite.")
        for kind in ("config.json", adapters.ADAPTER_FILE):
            if (model / kind).is_file():
                return model, Config()
        raise SpftError(
            f"{model} is neither a run (no run.sqlite) nor a checkpoint (no config.json and no "
            f"{adapters.ADAPTER_FILE})."
        )
    config = resolve([(str(settings), read_yaml(settings))])
    store = Store(model / "run.sqlite")
    try:
        pool = {c.id: model / c.path for c in store.candidates()}
    finally:
        store.close()
    known = ", ".join([*pool]) or "none yet"
    if candidate is None:
        if not (model / "model").is_dir():
            raise SpftError(
                f"The run {model} has not chosen its best candidate yet. Finish it with "
                f"--resume, or name one with --candidate (the pool holds: {known})."
            )
        return model / "model", config
    path = pool.get(candidate, model / "checkpoints" / Path(candidate).name)
    if not path.is_dir():
        raise SpftError(f"The run {model} has no candidate '{candidate}'. Its pool holds: {known}.")
    return path, config


def export(
    source: Path,
    output: Path,
    config: Config,
    *,
    dtype: str | None = None,
    adapter: bool = False,
) -> Exported:
    """Writes a checkpoint as a plain folder, all of it or nothing.

    A merge is made in fp32 on the CPU (4 bytes of memory per parameter) and rounded once; its
    logits are compared with the adapter's before and, read back from the folder, after.

    Args:
        source: folder of a full model or of an adapter.
        output: folder to be made.
        config: `model.trust_remote_code` counts.
        dtype: of the weights; None keeps those of the model (of an adapter's base).
        adapter: write the adapter alone, as `peft` and vllm's LoRA modules read it.

    Raises:
        SpftError: the source cannot be read, the output exists, or the logits differ.
    """
    if output.exists():
        raise UsageError(f"{output} exists and is not overwritten. Give another --output.")
    is_adapter = (source / adapters.ADAPTER_FILE).is_file()
    if adapter and not is_adapter:
        raise UsageError(f"{source} is a full model; --adapter is for adapters only.")
    if adapter and dtype is not None:
        raise UsageError("--dtype changes merged weights; an adapter is copied as it is.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(output.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if adapter:
            done = _copy_adapter(source, temporary)
        elif is_adapter or dtype is not None:
            done = _written_anew(source, temporary, config, dtype)
        else:
            models.load_tokenizer(source, config)  # a folder without one would serve nobody
            shutil.copytree(source, temporary)
            done = Exported(temporary, "model", _stored_dtype(source), None)
        models.replace_folder(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(output, done.kind, done.dtype, done.error)


def _copy_adapter(source: Path, temporary: Path) -> Exported:
    base = adapters.base_of(source)
    shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(adapters.BASE_FILE))
    path = temporary / adapters.ADAPTER_FILE
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return Exported(temporary, "adapter", "", None)


def _written_anew(source: Path, temporary: Path, config: Config, dtype: str | None) -> Exported:
    is_adapter = (source / adapters.ADAPTER_FILE).is_file()
    dtype = dtype or _stored_dtype(
        Path(adapters.base_of(source)) if is_adapter else source, config.model.dtype
    )
    plain = Config.model_validate(
        {"model": {"trust_remote_code": config.model.trust_remote_code, "dtype": "float32"}}
    )
    device = torch.device("cpu")
    loaded = models.load(source, plain, device=device)
    ids = [loaded.tokenizer(text)["input_ids"] for text in PROBES]
    expected = _logits(loaded.model, ids)
    model = loaded.model
    if is_adapter:
        try:
            model = model.merge_and_unload(safe_merge=True)
        except ValueError as broken:  # safe_merge met a weight that is not finite
            raise SpftError(f"The adapter {source} cannot be merged: {broken}.") from None
        _require_equal(_logits(model, ids), expected, "float32", source)
    model.to(getattr(torch, dtype))
    model.save_pretrained(temporary)
    loaded.tokenizer.save_pretrained(temporary)
    del loaded, model  # one copy in memory at a time
    reread = models.load(
        temporary,
        plain.model_copy(update={"model": plain.model.model_copy(update={"dtype": dtype})}),
        device=device,
    )
    error = _require_equal(_logits(reread.model, ids), expected, dtype, source)
    return Exported(temporary, "merged" if is_adapter else "model", dtype, error)


def _logits(model: Any, ids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits [T, V] of each prompt, fp32."""
    model.eval()
    with torch.inference_mode():
        return [model(torch.tensor([row])).logits[0].float() for row in ids]


def _require_equal(
    found: Sequence[Tensor], expected: Sequence[Tensor], dtype: str, source: Path
) -> float:
    """The largest relative error over the prompts.

    Raises:
        SpftError: it is larger than rounding to `dtype` explains.
    """
    error = max(
        # + tiny: a model whose logits are all equal has no spread.
        float((f - e).square().mean().sqrt() / (e.std() + torch.finfo(e.dtype).tiny))
        for f, e in zip(found, expected, strict=True)
    )
    if not error <= TOLERANCE[dtype]:  # also when it is no number
        raise SpftError(
            f"The exported weights do not give the logits of {source}: relative error "
            f"{error:.1e} in {dtype}, where rounding explains {TOLERANCE[dtype]:.0e}. Nothing was "
            "written. Try --dtype float32; with it, this is a fault to report."
        )
    return error


def _stored_dtype(folder: Path, otherwise: str = "float32") -> str:
    """The dtype that a checkpoint's config names (`otherwise` for a hub id)."""
    path = folder / "config.json"
    if not path.is_file():
        return otherwise
    content = json.loads(path.read_text(encoding="utf-8"))
    name = str(content.get("dtype") or content.get("torch_dtype") or "float32")
    return name if name in TOLERANCE else "float32"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, 1 (it failed), 2 (usage)."""
    parser = OptionParser(
        prog="python -m spftcore.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="PATH", help="a run, checkpoint or adapter"
    )
    parser.add_argument("--candidate", metavar="ID", help="of the run (default: its best one)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), help="weights (default: as they are)")
    parser.add_argument("--adapter", action="store_true", help="the adapter alone, not merged")
    try:
        given = parser.parse(argv)
        transformers.logging.disable_progress_bar()
        source, config = locate(given.model, given.candidate)
        try:
            done = export(source, given.output, config, dtype=given.dtype, adapter=given.adapter)
        except SpftError:
            raise
        except Exception as error:
            raise explain(error, given.output.parent) from None
    except SpftError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(f"{done.path}: {done.kind} {done.dtype}".rstrip() + f", from {source}")
    if done.error is not None:
        print(f"Its logits differ from the source's by {done.error:.1e} of their spread.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
