"""Adapters: the LoRA that `lora.*` asks for, quantized bases, and where an adapter's base lies."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from spftcore.config import Config
from spftcore.errors import SpftError

ADAPTER_FILE = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Where the base of an adapter lies, seen from the adapter: a run's folder may be moved.
BASE_FILE = "base.json"

ALL_LINEAR = "all-linear"


# -- the adapter that the settings ask for ---------------------------------------------------------


def lora(model: Any, config: Config, targets: Sequence[str] = ()) -> Any:
    """The `peft.LoraConfig` of `lora.*`, checked against the model it will be put on.

    Args:
        model: a `transformers` causal language model, not yet adapted.
        config: `lora` settings, rank > 0.
        targets: names of the linear layers to adapt (the last part of their path, as `q_proj`);
            none: all but the head.

    Raises:
        SpftError: a name that no linear layer bears, or adapters as large as what they adapt.
    """
    from peft import LoraConfig

    chosen = dict(_adaptable(model))
    if targets:
        for target in targets:
            if not any(_bears(path, target) for path in chosen):
                names = sorted({path.rpartition(".")[2] for path in chosen})
                raise SpftError(
                    f"lora.target_modules names '{target}', but the model has no such linear "
                    f"layer. It has: {', '.join(names)}. Leave the setting out to adapt them all."
                )
        chosen = {
            path: shape
            for path, shape in chosen.items()
            if any(_bears(path, target) for target in targets)
        }
    rank = config.lora.rank
    if sum(rank * (rows + columns) for rows, columns in chosen.values()) >= sum(
        rows * columns for rows, columns in chosen.values()
    ):
        raise SpftError(
            f"lora.rank={rank} makes adapters as large as the layers they adapt. Use a lower rank, "
            "or lora.rank=0 to train the whole model."
        )
    return LoraConfig(
        r=rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(targets) or ALL_LINEAR,
        task_type="CAUSAL_LM",
    )


def _adaptable(model: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """(path, (out, in)) of every linear layer but the head."""
    head = model.get_output_embeddings()
    for path, module in model.named_modules():
        if module is not head and hasattr(module, "in_features"):
            yield path, (int(module.out_features), int(module.in_features))


def _bears(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


# -- a quantized base ------------------------------------------------------------------------------


def quantization(kind: str, dtype: torch.dtype) -> Any:
    """The `transformers` setting that loads a base in 4 or 8 bits (QLoRA, arXiv 2305.14314).

    Args:
        kind: `nf4` (4-bit NormalFloat, its scales quantized again) or `int8` (LLM.int8()).
        dtype: what products are computed in.

    Raises:
        SpftError: `bitsandbytes` is not installed, or the kind is unknown.
    """
    if kind not in ("nf4", "int8"):
        raise SpftError(f"model.quantize is '{kind}'; it can be none, nf4 or int8.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SpftError(
            f"model.quantize={kind} needs the package bitsandbytes, which is not installed. Run "
            "`pip install bitsandbytes`, or use model.quantize=none."
        )
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


# -- where the base lies ---------------------------------------------------------------------------


def record_base(adapter: Path, base: str, home: Path) -> None:
    """Notes in an adapter folder where its base lies.

    A base in the run's own folder is noted relative to the adapter's home, any other as it is.

    Args:
        adapter: the folder that holds the adapter now (it may be renamed to `home` later).
        base: folder or hub id of the base.
        home: where the adapter will lie: `RUN/checkpoints/NAME`.
    """
    where = base
    if Path(base).is_absolute() and Path(base).is_relative_to(home.resolve().parent.parent):
        where = os.path.relpath(base, home.resolve())
    text = json.dumps({"base": where, "relative": where != base})
    (adapter / BASE_FILE).write_text(text + "\n", encoding="utf-8")


def base_of(adapter: str | Path) -> str:
    """Folder or hub id of the model that an adapter was put on.

    The base is looked for beside the adapter first, so that a run that was moved or copied uses
    its own, and then where it lay when the adapter was made.

    Raises:
        SpftError: the adapter's files are unreadable or incomplete, or its base is gone.
    """
    folder = Path(adapter).resolve()
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise SpftError(
            f"The adapter '{folder}' has no {ADAPTER_WEIGHTS}. Copy the whole folder; adapters in "
            "other formats than safetensors are not read."
        )
    recorded = _json(folder / ADAPTER_FILE).get("base_model_name_or_path")
    note = _json(folder / BASE_FILE) if (folder / BASE_FILE).is_file() else {}
    looked = []
    if note.get("relative"):
        # RUN/model is a copy of one of RUN/checkpoints, where the path was noted.
        for home in (folder, folder.parent / "checkpoints" / folder.name):
            found = (home / str(note["base"])).resolve()
            if (found / "config.json").is_file():
                return str(found)
            looked.append(str(found))
    if not recorded:
        raise SpftError(
            f"The adapter '{folder}' does not say what it was put on: its {ADAPTER_FILE} has no "
            "base_model_name_or_path. Write the folder or hub id of the base there."
        )
    base = str(recorded)
    # A hub id has one slash at most; anything else that is not there is a folder that is gone.
    if not Path(base).is_dir() and (base.startswith((".", "/", "~")) or base.count("/") > 1):
        looked.append(base)
        raise SpftError(
            f"The model under the adapter '{folder}' is not there; looked in "
            f"{', '.join(looked)}. Move it back, or write its folder or hub id as "
            f"base_model_name_or_path into {folder / ADAPTER_FILE}."
        )
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpftError(f"Cannot read {path} ({error}). Copy the adapter's folder again.") from None
    if not isinstance(content, dict):
        raise SpftError(f"{path} holds no JSON object. Copy the adapter's folder again.")
    return content
