"""The optimizer loop: AdamW in one process or several, guarded against NaN, resumed to the step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn

from spftcore.config import LoopConfig, TrainConfig
from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.training.batches import passes, sample_batches
from spftcore.training.checkpoints import Checkpoints, fingerprint, fingerprint_items
from spftcore.training.heap import freed_memory_kept
from spftcore.training.objectives import Objective
from spftcore.training.self_check import choose
from spftcore.training.speed import peak_memory, utilisation
from spftcore.training.stopping import Stop, Stopped

Item = TypeVar("Item")
Report = Callable[[int, dict[str, float]], None]

TOKENS_PER_PASS = LoopConfig().tokens_per_pass
BAD_STEPS = 5  # so many steps in a row without a finite loss and gradient end the stage
NAMED_ITEMS = 8  # of a bad batch, so many are named

log = logging.getLogger(__name__)


class Step(nn.Module):
    """A forward pass from items to their loss, as one module that `accelerate` can wrap.

    The package calls the decoder and the head apart, so DDP or FSDP2 around the causal language
    model would never see its forward pass; around this module they do.
    """

    def __init__(self, language_model: LanguageModel, objective: Objective[Any]) -> None:
        super().__init__()
        self.network = language_model.model
        # What FSDP2 shards one by one, where the launch configuration names no layers.
        self._no_split_modules = getattr(language_model.causal_lm, "_no_split_modules", None)
        self._language_model = language_model
        self._objective = objective

    def forward(self, items: Sequence[Any]) -> tuple[Tensor, dict[str, float]]:
        """(sum of the items' losses, sums of their statistics by name)."""
        return self._objective.losses(self._language_model, items)


def fit(
    model: LanguageModel,
    items: Sequence[Item | None],
    objective: Objective[Item],
    settings: TrainConfig,
    *,
    seed: int,
    dropout: bool,
    report: Report,
    loop: LoopConfig | None = None,
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
) -> None:
    """Trains the model in place.

    The loss is averaged over the items of the whole step (over their completion tokens, for SFT),
    however these are split into passes and over processes: every process of an `accelerate launch`
    calls this with the same arguments and takes its share of each batch.

    Args:
        model: trained in place; only parameters that require a gradient change.
        items: what batches are drawn from, a `TrainingSet` or a list; None is passed over.
        objective: the loss.
        settings: steps, batch size, rates.
        seed: of the order of items and of dropout.
        dropout: on for supervised training; off for preferences, whose margins it would blur.
        report: called after every step with the step (from 1) and its statistics; a step that was
            skipped has `skipped`. A training that is resumed reports its earlier steps again.
        loop: precision, memory, passes.
        checkpoints: where the state is saved and resumed from; none: nowhere.
        stop: looked at after every step.

    Raises:
        SpftError: there is nothing to train on, the loss stays non-finite, the batch is smaller
            than the number of processes, or a checkpoint belongs to another training.
        Stopped: `stop` asked for it; the state is saved.
    """
    if not items:
        raise SpftError("There is nothing to train on: no pair is left after filtering.")
    loop = loop or LoopConfig()
    if objective.attention is None:
        objective.attention = choose(model, loop.attention, shared=objective.shared)
    stop = stop or Stop()
    training = _Training(model, items, objective, settings, loop, seed, dropout)
    with (
        stop.heeded(),
        freed_memory_kept() if model.device.type == "cpu" else nullcontext(),
        objective.attention.on(model),
        _training_mode(model, dropout, loop.gradient_checkpointing),
    ):
        training.run(report, checkpoints, stop)


def rate(settings: TrainConfig, step: int) -> float:
    """The learning rate of a step (from 0) as a share of the peak."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    rest = max(1, settings.steps - warmup)
    if settings.schedule == "linear":
        return max(0.0, (settings.steps - step) / rest)
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / rest)))
    return 1.0


class _Training:
    """One call of `fit`: what stays the same over its steps, and the counts that do not."""

    def __init__(
        self,
        model: LanguageModel,
        items: Sequence[Any],
        objective: Objective[Any],
        settings: TrainConfig,
        loop: LoopConfig,
        seed: int,
        dropout: bool,
    ) -> None:
        self.model, self.items, self.objective = model, items, objective
        self.settings, self.loop, self.seed = settings, loop, seed
        self.accelerator = accelerator = _accelerator(model.device, loop.precision)
        if settings.batch_size < accelerator.num_processes:
            raise SpftError(
                f"A batch of {settings.batch_size} cannot be shared by "
                f"{accelerator.num_processes} processes. Raise batch_size, or start fewer."
            )
        self.identity = {
            "model": fingerprint(dict(model.model.named_parameters())),
            "data": fingerprint_items(items, objective.tokens),
            "objective": type(objective).__name__,
            "seed": seed,
            "dropout": dropout,
            "processes": accelerator.num_processes,
            **settings.model_dump(mode="json"),
            **loop.model_dump(mode="json", exclude={"save_seconds", "save_steps"}),
        }
        trained = [p for p in model.model.parameters() if p.requires_grad]
        # Vectors (biases, norms) are not decayed, as usual.
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.step, self.optimizer = accelerator.prepare(
            Step(model, objective),
            torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True),
        )
        # Only now: FSDP2 puts sharded parameters in the place of the model's own.
        self.parameters = {n: p for n, p in model.model.named_parameters() if p.requires_grad}
        self.bad = 0  # steps in a row that were skipped
        self.curve: list[dict[str, float]] = []

    def run(self, report: Report, checkpoints: Checkpoints | None, stop: Stop) -> None:
        accelerator, settings = self.accelerator, self.settings
        torch.manual_seed(self.seed + accelerator.process_index)
        start = 0
        if checkpoints is not None:
            start, progress = checkpoints.load(
                accelerator, self.parameters, self.optimizer, self.identity
            )
            self.bad, self.curve = progress.get("bad", 0), progress.get("curve", [])
        for number, statistics in enumerate(self.curve, 1):
            report(number, statistics)
        batches = sample_batches(
            self.items, self.objective.tokens, settings.batch_size, settings.steps, self.seed
        )
        for step, batch in enumerate(islice(batches, start, None), start + 1):
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate(settings, step - 1)
            due = checkpoints is not None and checkpoints.due(step)
            statistics, due, stopped = self._one(step, batch, due, stop.requested)
            self.curve.append(statistics)
            report(step, statistics)
            if checkpoints is not None and (due or stopped):
                progress = {"bad": self.bad, "curve": self.curve}
                checkpoints.save(
                    accelerator, self.parameters, self.optimizer, self.identity, step, progress
                )
            if stopped:
                raise Stopped

    def _one(
        self, step: int, batch: Sequence[Any], due: bool, stopped: bool
    ) -> tuple[dict[str, float], bool, bool]:
        """One optimizer step. Returns its statistics, and whether any process finds a checkpoint
        due or was asked to stop."""
        began = time.monotonic()
        self.optimizer.zero_grad(set_to_none=True)
        total = self.objective.normaliser(batch)
        processes = self.accelerator.num_processes
        loss, sums, suspects = 0.0, dict[str, float](), list[Any]()
        shares = self._passes(batch)
        for number, (group, counts) in enumerate(shares, 1):
            with self._reduced_later(last=number == len(shares)):
                summed, statistics = self.step(group)
                # Gradients are averaged over the processes; the loss is over all of their items.
                self.accelerator.backward(summed / (total / processes) * counts)
            if not counts:
                continue
            value = float(summed.detach())
            if not math.isfinite(value):
                suspects += group
            loss += value / total
            for name, term in statistics.items():
                sums[name] = sums.get(name, 0.0) + float(term)
            tokens = sum(self.objective.tokens(item) for item in group)
            sums["tokens"] = sums.get("tokens", 0.0) + tokens
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), self.settings.clip)
        sums |= {"loss": loss, "due": float(due), "stopped": float(stopped)}
        sums = self._summed(sums)
        finite = math.isfinite(sums["loss"]) and math.isfinite(float(_whole(norm)))
        if finite:
            self.optimizer.step()
            self.bad = 0
        else:
            self._skip(step, suspects or batch)
        seconds = time.monotonic() - began
        readable = _readable(sums, seconds)
        share = utilisation(self.model, sums["tokens"] / seconds / processes, self.loop.precision)
        if share is not None:
            readable["model FLOP utilisation"] = share
        readable["peak memory GB"] = peak_memory(self.model.device)
        if not finite:
            readable["skipped"] = 1.0
        return readable, sums["due"] > 0, sums["stopped"] > 0

    def _passes(self, batch: Sequence[Any]) -> list[tuple[list[Any], float]]:
        """This process's forward passes with their weight, as many as every other process's.

        FSDP2 gathers weights and DDP sends buffers in a pass, so a process that has fewer passes
        repeats its last one with weight 0; it would only wait otherwise.
        """
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        budget = self.loop.tokens_per_pass
        shares = [
            list(passes(batch[r::processes], self.objective.tokens, budget))
            for r in range(processes)
        ]
        own = [(group, 1.0) for group in shares[rank]]
        longest = max(len(share) for share in shares)
        return own + [(own[-1][0], 0.0)] * (longest - len(own))

    def _reduced_later(self, *, last: bool) -> Any:
        """Whether this pass's gradients wait for the last pass before they cross processes (DDP).
        FSDP2 sends them at once: whole gradients would not fit."""
        if last or self.accelerator.distributed_type == DistributedType.FSDP:
            return nullcontext()
        return self.accelerator.no_sync(self.step)

    def _summed(self, sums: dict[str, float]) -> dict[str, float]:
        """The sums over all processes."""
        if self.accelerator.num_processes == 1:
            return sums
        names = sorted(sums)
        values = torch.tensor([sums[name] for name in names], dtype=torch.float64)
        reduced: Any = self.accelerator.reduce(values.to(self.accelerator.device), "sum")
        return dict(zip(names, reduced.tolist(), strict=True))

    def _skip(self, step: int, suspects: Sequence[Any]) -> None:
        self.bad += 1
        names = list(dict.fromkeys(map(_named, self._culprits(suspects))))
        named = ", ".join(names[:NAMED_ITEMS])
        if len(names) > NAMED_ITEMS:
            named += f" and {len(names) - NAMED_ITEMS} more"
        what = f"The loss or the gradient of step {step} is not finite, on {named}"
        if self.bad == BAD_STEPS:
            raise SpftError(
                f"{what}; nor was it before: {BAD_STEPS} steps in a row (at step {step}). Lower "
                "the learning rate, or train in float32 or bfloat16."
            )
        log.warning("%s. The step is skipped.", what)

    def _culprits(self, suspects: Sequence[Any]) -> Sequence[Any]:
        """Those whose loss is not finite by themselves; all of them where none is."""
        if self.accelerator.num_processes > 1:  # a pass of FSDP2 needs every process
            return suspects
        with torch.no_grad(), torch.random.fork_rng():
            losses = [float(self.step([item])[0]) for item in suspects]
        bad = [item for item, loss in zip(suspects, losses, strict=True) if not math.isfinite(loss)]
        return bad or suspects


def _named(item: Any) -> str:
    return str(getattr(item, "id", "")) or "an item without id"


# -- set-up -------------------------------------------------------------------------------------


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    """For one process, or for those of the `accelerate launch` this process belongs to."""
    mixed = {"float32": "no", "bfloat16": "bf16"}[precision]
    # It keeps its settings for the life of a process, where another training may want others.
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state()
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=mixed,
        device_placement=False,  # the model already lies where it should
    )


@contextmanager
def _training_mode(model: LanguageModel, dropout: bool, recompute: bool) -> Iterator[None]:
    """Dropout and recomputed activations while the body runs; ready for answering afterwards."""
    model.model.train(dropout)
    lm = model.causal_lm
    if recompute:
        if not getattr(lm, "supports_gradient_checkpointing", False):
            raise SpftError(
                f"Models of type '{lm.config.model_type}' cannot recompute their activations. Set "
                "training.gradient_checkpointing=false."
            )
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # Layers recompute in training mode only; their dropout modules stay as they are.
        for layer in lm.modules():
            if getattr(layer, "gradient_checkpointing", False):
                layer.training = True
    try:
        yield
    finally:
        if recompute:
            lm.gradient_checkpointing_disable()
        model.model.eval()


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _readable(sums: Mapping[str, float], seconds: float) -> dict[str, float]:
    shown = {"loss": sums["loss"], "tokens/s": sums["tokens"] / seconds}
    if "pairs" in sums:
        shown["margin"] = sums["margin"] / sums["pairs"]
        shown["share wrong"] = sums["wrong"] / sums["pairs"]
        if sums["wrong"]:
            shown["ranking accuracy"] = sums["ranked"] / sums["wrong"]
    return shown


def progress_line(statistics: Mapping[str, float]) -> str:
    """The statistics of a step as one line (the step and the time left stand beside it)."""
    shown = [f"loss {statistics['loss']:.3f}"]
    if "margin" in statistics:
        shown.append(f"margin {statistics['margin']:+.2f}")
    if "ranking accuracy" in statistics:
        shown.append(f"ranked right {statistics['ranking accuracy']:.0%}")
    shown.append(f"{statistics['tokens/s']:,.0f} tokens/s")
    if "model FLOP utilisation" in statistics:
        shown.append(f"{statistics['model FLOP utilisation']:.0%} of peak")
    shown.append(f"{statistics['peak memory GB']:.1f} GB")
    return ", ".join(shown)
