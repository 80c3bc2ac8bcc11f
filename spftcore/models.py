"""Models and tokenizers: loading, building the tiny one, adapters, checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spftcore import adapters
from spftcore.adapters import ADAPTER_FILE as ADAPTER_FILE
from spftcore.config import Config, ModelConfig
from spftcore.errors import SpftError


@dataclass(frozen=True, slots=True)
class Head:
    """The output projection: logits = softcap · tanh(scale · (h Wᵀ + b) / softcap)."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None


@dataclass(slots=True)
class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: `transformers` model, or a `peft` model around one.
        tokenizer: its tokenizer, with padding on the left.
        parent: what an adapter was put on ('' for a full model).
        folder: where it lies as it is now ('' where it was changed since it was loaded).
    """

    model: Any
    tokenizer: Any
    parent: str = ""
    folder: str = ""

    @property
    def causal_lm(self) -> Any:
        """The `transformers` model without the adapter wrapper."""
        return self.model.get_base_model() if self.parent else self.model

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        **attention: Any,
    ) -> Tensor:
        """Last hidden states.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T], 1 for tokens and 0 for padding; or what the model's attention
                takes as a ready mask ([B, 1, T, T], a `BlockMask`, either by layer type); none:
                each row is one sequence.
            position_ids: [B, T] int64 where they are not 0, 1, 2 …
            attention: what else its attention takes (borders of sequences).

        Returns:
            [B, T, H].
        """
        decoder = self.causal_lm.base_model
        return decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **attention,
        ).last_hidden_state

    @property
    def head(self) -> Head:
        layer = self.causal_lm.get_output_embeddings()
        config = self.causal_lm.config
        scale = getattr(config, "logit_scale", None) or 1.0
        scale *= getattr(config, "lm_head_multiplier", None) or 1.0  # Falcon-H1
        scaling = getattr(config, "logits_scaling", None) or 1.0
        # Granite and MiniCPM3 divide by what HyperCLOVA X multiplies with.
        scale *= scaling if config.model_type == "hyperclovax" else 1.0 / scaling
        softcap = getattr(config, "final_logit_softcapping", None)
        return Head(layer.weight, getattr(layer, "bias", None), float(scale), softcap)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def pick_device(config: Config) -> torch.device:
    """The device that `run.device` asks for.

    Raises:
        SpftError: CUDA was asked for and there is none.
    """
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise SpftError("run.device is cuda, but PyTorch sees no GPU. Use run.device=cpu or auto.")
    if config.run.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.run.device)


def build_tiny(config: ModelConfig, corpus: Iterable[str], seed: int) -> LanguageModel:
    """A decoder-only model with random weights, and a byte-level BPE tokenizer trained on a corpus.

    GPT-NeoX with ReLU: rotary positions copy well from short contexts, and its layer norm and
    activation are single fast operations on a CPU.

    Args:
        config: sizes.
        corpus: texts like those the model will see.
        seed: of the weights.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # Digits one by one: numbers are copied, not learned.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    torch.manual_seed(seed)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.hidden_size,
            hidden_act="relu",
            hidden_dropout=config.dropout,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 1.0,
            },
            max_position_embeddings=1024,
            use_parallel_residual=False,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return LanguageModel(model, tokenizer)


def _absolute(path: str | Path) -> str:
    # An adapter's config names the folder of its base, which must be found from anywhere.
    return str(Path(path).resolve()) if Path(path).is_dir() else str(path)


def load_tokenizer(path: str | Path, config: Config) -> Any:
    """The tokenizer of a checkpoint, padding on the left.

    Raises:
        SpftError: there is none, or it cannot end a completion.
    """
    from transformers import AutoTokenizer

    path = _absolute(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, trust_remote_code=config.model.trust_remote_code
        )
        # For some model types transformers makes up an empty tokenizer where there is none.
        ids = tokenizer("select 1", add_special_tokens=False)["input_ids"]
        if not str(tokenizer.decode(ids, skip_special_tokens=True)).strip():
            raise ValueError("there are no tokenizer files, or they hold no vocabulary")
    except Exception as error:  # any of a dozen kinds; its text goes into ours
        raise SpftError(
            f"No tokenizer could be loaded from '{path}' ({_first_line(error)}). A model folder "
            "needs its tokenizer files (tokenizer.json, tokenizer_config.json) beside the weights."
        ) from None
    if tokenizer.eos_token_id is None:
        raise SpftError(f"The tokenizer of '{path}' has no end-of-sequence token; set eos_token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def architecture(path: str | Path, config: Config) -> Any:
    """The `transformers` configuration of a checkpoint, or of the base of an adapter.

    Raises:
        SpftError: there is none, or the base is gone.
    """
    from transformers import AutoConfig

    source = _absolute(path)
    if (Path(source) / ADAPTER_FILE).is_file():
        source = adapters.base_of(source)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=config.model.trust_remote_code)
    except Exception as error:
        raise SpftError(
            f"No model configuration could be read from '{source}' ({_first_line(error)}). It must "
            "be a transformers checkpoint with safetensors weights, or a hub id."
        ) from None


def load(
    path: str | Path, config: Config, *, device: torch.device, new_adapter: bool = False
) -> LanguageModel:
    """Loads a checkpoint: a `transformers` folder or hub id, or an adapter folder of ours. Dropout
    is off until the model is trained.

    Args:
        path: folder or hub id.
        config: `model` (dtype, remote code) and `lora` settings.
        device: where it goes.
        new_adapter: put a fresh trainable adapter on a full model (if `lora.rank` > 0).

    Raises:
        SpftError: no model or no tokenizer there, the tokenizer cannot end a completion, the model
            under an adapter is gone or is another one, or `lora` does not fit the model.
    """
    path = _absolute(path)
    tokenizer = load_tokenizer(path, config)
    is_adapter = (Path(path) / ADAPTER_FILE).is_file()
    source = adapters.base_of(path) if is_adapter else path
    adapted = is_adapter or (new_adapter and config.lora.rank > 0)
    model = _load_base(source, config, device, adapted=adapted)
    if is_adapter:
        adapter = _with_adapter(model, source, path)
        adapter.eval()  # peft leaves a trainable adapter's dropout on
        return LanguageModel(adapter, tokenizer, parent=source, folder=str(path))
    if adapted:
        from peft import get_peft_model

        settings = adapters.lora(model, config, config.lora.target_modules)
        # Its random half must not depend on what ran before in this process.
        with torch.random.fork_rng():
            torch.manual_seed(config.run.seed)
            wrapped = get_peft_model(model, settings)
        wrapped.eval()
        return LanguageModel(wrapped, tokenizer, parent=source)
    return LanguageModel(model, tokenizer, folder=str(path))


def _load_base(source: str, config: Config, device: torch.device, *, adapted: bool) -> Any:
    """A full model on `device`; in 4 or 8 bits where `model.quantize` asks for it and an adapter
    will be put on."""
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, config.model.dtype)
    options: dict[str, Any] = {"trust_remote_code": config.model.trust_remote_code}
    kind = config.model.quantize
    if adapted and kind != "none":
        options["quantization_config"] = adapters.quantization(kind, dtype)
        options["device_map"] = {"": device}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
    except Exception as error:
        raise SpftError(
            f"No causal language model could be loaded from '{source}' ({_first_line(error)}). "
            "It must be a transformers checkpoint with safetensors weights, or a hub id."
        ) from None
    if getattr(model.config, "attn_logit_softcapping", None):
        # Gemma 2 caps its attention scores, which PyTorch's fused attention cannot: with it the
        # model would answer and train as another one, without an error.
        model.set_attn_implementation("eager")
    if "quantization_config" in options:
        from peft import prepare_model_for_kbit_training

        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model.to(device)


def _with_adapter(model: Any, source: str, path: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, path, is_trainable=True)
    except Exception as error:
        raise SpftError(
            f"The adapter '{path}' does not fit the model '{source}' ({_first_line(error)}). It "
            "was made on another model, or a file of it is damaged."
        ) from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def is_sharded(language_model: LanguageModel) -> bool:
    """Whether processes hold a part of each weight, as FSDP2 leaves them."""
    return any(hasattr(p, "full_tensor") for p in language_model.model.parameters())


def gathered(language_model: LanguageModel) -> dict[str, Tensor] | None:
    """The whole weights of a model that is shared out over processes, on the CPU of the first one;
    those of the adapter alone where there is one; None where the model is whole already. Every
    process calls it; the others get nothing, since a machine may not hold them all as often as it
    has GPUs."""
    if not is_sharded(language_model):
        return None
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    trained = {n for n, p in language_model.model.named_parameters() if p.requires_grad}
    weights = {}
    wholes: dict[int, Tensor] = {}  # tied weights stay one tensor
    for name, value in language_model.model.state_dict(keep_vars=True).items():
        if language_model.parent and name not in trained:
            continue
        if id(value) not in wholes:
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            wholes[id(value)] = whole.detach().cpu() if first else whole.new_empty(0)
        if first:
            weights[name] = wholes[id(value)]
    return weights


def save(
    language_model: LanguageModel, path: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Writes a checkpoint (safetensors) so that `path` holds all of it or nothing.

    A full model becomes a plain `transformers` folder, an adapter a plain `peft` folder, each with
    its tokenizer.

    Args:
        language_model: what to save.
        path: the new folder.
        weights: in place of its own, where these are shared out (`gathered`).
    """
    temporary = path.with_name(path.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    if language_model.parent:
        for settings in language_model.model.peft_config.values():
            settings.base_model_name_or_path = language_model.parent
    language_model.model.save_pretrained(temporary, state_dict=weights)
    language_model.tokenizer.save_pretrained(temporary)
    if language_model.parent:
        adapters.record_base(temporary, language_model.parent, path)
    with contextlib.suppress(FileNotFoundError):  # peft writes an empty model card
        (temporary / "README.md").unlink()
    replace_folder(temporary, path)


def digest(language_model: LanguageModel) -> str:
    """What a model's log-probs depend on beside the tokens: its weights, adapter included, in the
    form and dtype they are computed in, and its architecture. 64 hexadecimal digits.

    It is taken of the model in memory, so a folder that was moved or copied counts as the same.
    """
    found = hashlib.sha256()
    for config in (language_model.causal_lm.config, *_adapter_settings(language_model)):
        values = {key: v for key, v in config.to_dict().items() if key not in _PROVENANCE}
        # A set prints in an order of its own in each process.
        text = json.dumps(values, sort_keys=True, default=lambda v: sorted(map(str, v)))
        found.update(text.encode())
    for name, value in sorted(language_model.model.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            found.update(raw.numpy().data)
    return found.hexdigest()


# Settings that say where a model came from and by which program, and not what it computes.
_PROVENANCE = {
    "_name_or_path",
    "transformers_version",
    "peft_version",
    "base_model_name_or_path",
    "inference_mode",
    "revision",
    "auto_mapping",
}


def _adapter_settings(language_model: LanguageModel) -> list[Any]:
    if not language_model.parent:
        return []
    settings = language_model.model.peft_config
    return [settings[name] for name in sorted(settings)]


def replace_folder(temporary: Path, path: Path) -> None:
    """Gives a finished folder its name, all of it safely on the disk first."""
    for entry in (*temporary.iterdir(), temporary):
        _sync(entry)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
