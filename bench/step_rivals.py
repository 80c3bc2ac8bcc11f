"""Who else takes the optimizer steps of `bench/step.py`: a plain PyTorch loop, TRL's DPOTrainer.

Every provider trains the same model on the same pairs with the same loss (DPO, beta 0.1, the
reference being the model as it was at the start), clips at 1 and uses AdamW without decay.
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from step_cases import Cell
from step_problem import (
    ADAPTER_SEED,
    BETA,
    EOS,
    LEARNING_RATE,
    PAD,
    Run,
    Tokens,
    Unavailable,
    add_adapter,
    as_text,
    lora_config,
    make_tokenizer,
    mixed_precision,
    pairs_of,
    step_groups,
)
from torch import Tensor

Provider = Callable[[Run], None]

# Plain PyTorch: what one writes first.


def padded_logprobs(model: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
    """Log-probability of each completion [S], from one padded forward pass and all its logits."""
    device = model.device
    rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)[:, None]
    starts = torch.tensor([len(p) for p in prompts], device=device)[:, None]
    place = torch.arange(longest, device=device)
    logits = model(input_ids=ids, attention_mask=(place < lengths).long()).logits
    logprobs = F.log_softmax(logits[:, :-1].float(), dim=-1)
    chosen = logprobs.gather(2, ids[:, 1:, None])[..., 0]
    scored = (place >= starts) & (place < lengths)
    return (chosen * scored[:, 1:]).sum(1)


def dpo_loss(gold: Tensor, answer: Tensor, gold_reference: Tensor, answer_reference: Tensor) -> Any:
    return F.softplus(-BETA * ((gold - gold_reference) - (answer - answer_reference)))


def plain(run: Run) -> None:
    model = add_adapter(run.cell, run.model)
    prompts, golds, answers = zip(*pairs_of(step_groups(run.cell)), strict=True)

    def both() -> tuple[Tensor, Tensor]:
        return (
            padded_logprobs(model, prompts, golds),
            padded_logprobs(model, prompts, answers),
        )

    with torch.no_grad(), mixed_precision(run.cell):
        references = both()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    for _ in range(run.steps):
        optimizer.zero_grad(set_to_none=True)
        with mixed_precision(run.cell):
            loss = dpo_loss(*both(), *references).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        run.stamp({"loss": float(loss.detach()), "grad_norm": float(norm)})


# TRL.


def trl(*, precomputed: bool, checkpointing: bool = True, liger: bool = False) -> Provider:
    def provider(run: Run) -> None:
        os.environ["TQDM_DISABLE"] = "1"
        try:
            from datasets import Dataset, disable_caching
            from trl import DPOConfig, DPOTrainer
        except ModuleNotFoundError as error:
            raise Unavailable(f"not installed ({error.name})") from None
        if liger:
            try:
                importlib.metadata.version("liger-kernel")
            except importlib.metadata.PackageNotFoundError:
                raise Unavailable("not installed (liger-kernel)") from None
            if run.cell.device == "cpu":
                raise Unavailable("Liger's layers are Triton kernels: they need a GPU")
        from transformers import TrainerCallback

        class Stamping(TrainerCallback):
            def on_log(
                self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
            ) -> None:
                if "grad_norm" in logs:
                    run.stamp({"loss": logs["loss"], "grad_norm": logs["grad_norm"]})

        disable_caching()
        rows = [
            {"prompt": as_text(p).strip(), "chosen": as_text(g), "rejected": as_text(a)}
            for p, g, a in pairs_of(step_groups(run.cell))
        ]
        bf16 = run.cell.dtype == "bfloat16"
        with tempfile.TemporaryDirectory() as folder:
            arguments = DPOConfig(
                output_dir=folder,
                seed=ADAPTER_SEED,
                beta=BETA,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                max_steps=run.steps,
                per_device_train_batch_size=run.cell.pairs,
                max_length=None,  # its default would cut the longer prompts
                bf16=bf16,
                use_cpu=run.cell.device == "cpu",
                dataloader_pin_memory=run.cell.device != "cpu",
                gradient_checkpointing=checkpointing,
                precompute_ref_log_probs=precomputed,
                use_liger_kernel=liger,
                logging_steps=1,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            reference = None
            if not precomputed and not run.cell.lora:
                reference = copy.deepcopy(run.model)
            trainer = DPOTrainer(
                model=run.model,
                ref_model=reference,
                args=arguments,
                train_dataset=Dataset.from_list(rows),
                processing_class=make_tokenizer(run.cell),
                peft_config=lora_config(run.cell) if run.cell.lora else None,
                callbacks=[Stamping()],
            )
            _same_tokens(trainer.train_dataset, run.cell)
            trainer.train()

    return provider


def _same_tokens(dataset: Any, cell: Cell) -> None:
    for row, (prompt, gold, answer) in zip(dataset, pairs_of(step_groups(cell)), strict=True):
        made = [tuple(row[key]) for key in ("prompt_ids", "chosen_ids", "rejected_ids")]
        if made != [prompt, gold, answer]:
            raise AssertionError(f"TRL arrived at other tokens; EOS is {EOS}: {made[1][-3:]}")


RIVALS: dict[str, Provider] = {
    "plain": plain,
    "trl": trl(precomputed=False),
    "trl-precomputed": trl(precomputed=True),
    "trl-no-checkpointing": trl(precomputed=True, checkpointing=False),
    "trl-liger": trl(precomputed=True, liger=True),
}
