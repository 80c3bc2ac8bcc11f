"""`SelfPlayLoss`: the pair losses as a module beside a `transformers` model, for one's own loop.

    loss_of = SelfPlayLoss.for_model(model, LossConfig("spft", lam=0.5))
    hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, H]
    loss_of(hidden, labels, opponent_logprobs, reward).loss.backward()

It takes the hidden states in place of the logits, and reads the head's weight where it lies.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spftcore.errors import SpftError
from spftcore.kernels import PairStatistics, linear_logprobs, sequence_sums
from spftcore.losses import LossConfig, preference_loss

IGNORED = -100  # what `transformers` writes into labels where nothing is to be predicted


class SelfPlayOutput(NamedTuple):
    """What `SelfPlayLoss` returns; a tuple, so that DDP and FSDP find the tensors in it."""

    loss: Tensor  # scalar, carries the gradient
    losses: Tensor  # [P], of each pair, weights included; 0 where not kept
    kept: Tensor  # [P] bool, the pairs that count for this kind of loss
    statistics: PairStatistics  # detached, [P] each


class SelfPlayLoss(nn.Module):
    """Loss over (gold, rejected) pairs of completions, from hidden states; no logits are held.

    The head stays where it is: the module has no parameters, no buffers and an empty `state_dict`;
    it reads weight and bias anew in every call, and their gradients go to the head. Hooks on the
    head do not run, since the head is not called.

    Sequences come in one of two forms.

    - Padded: hidden [B, T, H] and labels [B, T] as `transformers` writes them: token ids of the
      completion, -100 for prompt and padding, not shifted. Row b is sequence b.
    - Packed: hidden [N, H] holds only the states that predict the N completion tokens (each from
      one position before its token), labels [N] those tokens, cu_seqlens [S + 1] the borders of
      the completions. This form compiles into one graph and never waits for a GPU. The padded one
      finds the completion tokens first: keep its labels on the CPU, or it waits once per call.
    """

    def __init__(
        self,
        head: nn.Module | None,
        config: LossConfig | None = None,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        check: bool = False,
    ) -> None:
        """A loss over the logits softcap · tanh(scale · (h Wᵀ + b) / softcap).

        head: `model.get_output_embeddings()`, a linear layer or a tied embedding; made last, since
        PEFT and `resize_token_embeddings` put another module in its place. A head under PEFT's
        `modules_to_save` is trained as its copy; one with an adapter on it is refused, and so is
        a quantised one. config: the kind of loss; None is `LossConfig("spft", lam=1.0)`.
        scale, softcap: what the model does to its logits; `for_model` reads them.
        check: read values (targets, borders, rewards) on a GPU too, at the price of waiting for it.
        Raises `SpftError` for a head that has no plain weight [V, H].
        """
        super().__init__()
        _refuse_unreadable(head)
        self.config = config if config is not None else LossConfig("spft", lam=1.0)
        self.scale, self.softcap, self.check = scale, softcap, check
        self._head = (head,)  # in a tuple, nn.Module does not register it as a part of its own

    @classmethod
    def for_model(
        cls, model: Any, config: LossConfig | None = None, *, check: bool = False
    ) -> "SelfPlayLoss":
        """The loss for a causal `transformers` model, or a `peft` model around one.

        Reads from `model.config` what the model does to its logits (`logit_scaling`).
        Raises `SpftError` for a model without a readable head.
        """
        if not hasattr(model, "get_output_embeddings"):
            raise SpftError(
                f"A {type(model).__name__} has no output embeddings to ask for. Make the loss from "
                "the transformers model, before DDP or a module of yours is put around it."
            )
        scale, softcap = logit_scaling(model.config)
        return cls(model.get_output_embeddings(), config, scale=scale, softcap=softcap, check=check)

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor,
        reference: Tensor,
        reward: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        chosen: Tensor | None = None,
        rejected: Tensor | None = None,
        weight: Tensor | None = None,
        normaliser: float | Tensor | None = None,
    ) -> SelfPlayOutput:
        """Mean loss over the pairs that count.

        hidden, labels, cu_seqlens: padded or packed, see the class. reference: log-probs under the
        opponent (the starting model for `dpo`), detached: one per sequence [S], or per token, in
        labels' shape. reward: [P] in [0, 1] or bool, R(y') of the paper; None takes 1 throughout.
        chosen, rejected: [P], the sequences of each pair; without them the first half of the
        sequences are the golds of the second half, in the same order. weight: [P], or None.
        normaliser: what the sum over pairs is divided by; None takes the kept pairs (their weights)
        of this call. Over several processes or accumulated batches give that of the global batch:
        under DDP and FSDP, which average gradients, divided by the number of processes.

        Returns `SelfPlayOutput`.
        Raises `SpftError` for arguments that do not fit together.
        """
        logprobs, cu_seqlens, positions = self._token_logprobs(hidden, labels, cu_seqlens)
        sequences = cu_seqlens.shape[0] - 1
        if chosen is None and rejected is None:
            if sequences % 2:
                raise SpftError(
                    f"There are {sequences} sequences, which is no number of pairs. Give golds and "
                    "answers in equal number, or name each pair's sequences as chosen and rejected."
                )
            chosen = torch.arange(sequences // 2, device=hidden.device)
            rejected = chosen + sequences // 2
        elif chosen is None or rejected is None:
            raise SpftError("Only one of chosen and rejected is given. Give both, or neither.")
        if reward is None:
            reward = logprobs.new_ones(chosen.shape)
        elif reward.dtype == torch.bool:
            reward = reward.to(logprobs.dtype)
        tokens = _per_token(reference, labels, positions, cu_seqlens, logprobs)
        losses, kept, statistics = preference_loss(
            self.config, logprobs, tokens, cu_seqlens, chosen, rejected, reward, weight,
            check=self.check,
        )  # fmt: skip
        if normaliser is None:
            total = kept.to(losses.dtype) if weight is None else kept * weight
            normaliser = total.sum()
            normaliser = torch.where(normaliser > 0, normaliser, 1.0)
        return SelfPlayOutput(losses.sum() / normaliser, losses, kept, statistics)

    def sequence_logprobs(
        self, hidden: Tensor, labels: Tensor, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """Log-probability of each completion, [S]; under `torch.no_grad()` what `reference` wants.

        Arguments as in `forward`. Raises `SpftError` for arguments that do not fit together.
        """
        logprobs, cu_seqlens, _ = self._token_logprobs(hidden, labels, cu_seqlens)
        return sequence_sums(logprobs, cu_seqlens, check=self.check)

    def _token_logprobs(
        self, hidden: Tensor, labels: Tensor, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(log-probs [N], borders [S + 1], where the predicting states stand in [B · T] or None)"""
        positions = None
        if hidden.dim() == 3:
            if cu_seqlens is not None:
                raise SpftError(
                    "cu_seqlens belongs to packed hidden states [N, H], but these are "
                    f"{list(hidden.shape)}. Leave it out, or pick the completions' states."
                )
            positions, targets, cu_seqlens = _pick(hidden, labels)
            hidden = hidden.flatten(0, 1).index_select(0, positions)
        elif cu_seqlens is None:
            raise SpftError(
                f"hidden has shape {list(hidden.shape)} and there is no cu_seqlens. Give padded "
                "states [B, T, H], or packed states [N, H] with the borders of the completions."
            )
        else:
            targets = labels
        weight, bias = _weight_and_bias(self._head[0])
        logprobs = linear_logprobs(
            hidden, weight, targets, bias, scale=self.scale, softcap=self.softcap, check=self.check
        )
        return logprobs, cu_seqlens, positions

    def extra_repr(self) -> str:
        return f"{self.config}, scale={self.scale:g}, softcap={self.softcap}"


def logit_scaling(config: Any) -> tuple[float, float | None]:
    """(scale, softcap) that a `transformers` model with this config applies to its logits.

    Cohere multiplies by `logit_scale`, Falcon-H1 by `lm_head_multiplier`, MuseGlimmer by
    `output_multiplier`, HyperCLOVA X by `logits_scaling`; Granite and MiniCPM3 divide by
    `logits_scaling`. Gemma caps at `final_logit_softcapping`, RecurrentGemma at `logits_soft_cap`.
    """
    config = config.get_text_config()
    scale = 1.0
    if config.model_type != "mpt":  # whose `logit_scale` the model does not read
        scale = getattr(config, "logit_scale", None) or 1.0
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0
    scale *= getattr(config, "output_multiplier", None) or 1.0
    scaling = getattr(config, "logits_scaling", None) or 1.0
    scale = scale * scaling if config.model_type.startswith("hyperclovax") else scale / scaling
    softcap = getattr(config, "final_logit_softcapping", None)
    softcap = softcap or getattr(config, "logits_soft_cap", None)
    return float(scale), None if softcap is None else float(softcap)


@torch.compiler.disable  # how many tokens there are depends on values: one break of the graph
def _pick(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(positions [N] in [B · T] of the states that predict, their targets [N], borders [B + 1])."""
    if labels.shape != hidden.shape[:2]:
        raise SpftError(
            f"labels has shape {list(labels.shape)}, but hidden {list(hidden.shape)}. Give one "
            "label per position, -100 where it is no completion token."
        )
    predicts = F.pad(labels[:, 1:] != IGNORED, (0, 1))
    lengths = predicts.sum(1)
    if labels.device.type == "cpu":
        if bool((labels[:, 0] != IGNORED).any()):
            raise SpftError(
                "A completion starts at position 0 of its row, where nothing predicts its first "
                "token. Put the prompt, or a start token labelled -100, before it."
            )
        if bool((lengths == 0).any()):
            row = int((lengths == 0).nonzero()[0])
            raise SpftError(
                f"Completion {row} is empty: row {row} of labels is -100 throughout. Every "
                "completion holds at least its end-of-sequence token; was it cut off?"
            )
    positions = predicts.flatten().nonzero().squeeze(1)
    targets = labels.flatten().index_select(0, positions + 1)
    borders = F.pad(lengths.cumsum(0), (1, 0))
    return (
        _send(positions, hidden.device),
        _send(targets, hidden.device),
        _send(borders, hidden.device),
    )


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device; from pinned memory, so that the host does not wait for the GPU's queue."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _per_token(
    reference: Tensor,
    labels: Tensor,
    positions: Tensor | None,
    cu_seqlens: Tensor,
    logprobs: Tensor,
) -> Tensor:
    """The reference's log-prob of each completion token, [N]."""
    if positions is not None and reference.shape == labels.shape:
        return reference.flatten().index_select(0, positions + 1)
    if positions is None and reference.shape == logprobs.shape:
        return reference
    if reference.shape != (cu_seqlens.shape[0] - 1,):
        raise SpftError(
            f"reference has shape {list(reference.shape)}; give one log-prob per sequence, "
            f"[{cu_seqlens.shape[0] - 1}], or one per token in the shape of labels, "
            f"{list(labels.shape)}."
        )
    # Only sums over sequences matter: the first token carries its sequence's whole log-prob.
    first = cu_seqlens[:-1].long().clamp(max=logprobs.shape[0] - 1)
    return torch.zeros_like(logprobs).index_copy(0, first, reference.to(logprobs.dtype))


def _refuse_unreadable(head: Any) -> None:
    """Refuse a head whose logits are not h Wᵀ + b with a plain weight [V, H]."""
    if head is None:
        raise SpftError(
            "There is no head: get_output_embeddings() returned None. Load the model with "
            "AutoModelForCausalLM, which has one."
        )
    name, package = type(head).__name__, type(head).__module__.partition(".")[0]
    if package == "peft" and name != "ModulesToSaveWrapper":
        raise SpftError(
            f"The head has a PEFT adapter on it ({name}), which changes its logits without "
            "changing its weight. Leave the head out of target_modules, or train it whole with "
            "modules_to_save."
        )
    layer = _layer(head)
    weight = getattr(layer, "weight", None)
    packages = {
        type(part).__module__.partition(".")[0] for part in (layer, getattr(weight, "data", 0))
    }
    integers = weight is not None and not weight.is_floating_point()
    if integers or packages & {"bitsandbytes", "torchao"}:
        raise SpftError(
            f"The head is quantised ({type(layer).__name__}). Its weight is needed as it is: name "
            "it in llm_int8_skip_modules (bitsandbytes), or leave it out of the quantisation."
        )
    if not isinstance(layer, nn.Linear | nn.Embedding):
        raise SpftError(
            f"The head is a {type(layer).__name__}, of which it is not known that its logits are "
            "h Wᵀ + b. Give an nn.Linear or the tied nn.Embedding, or call linear_logprobs with "
            "the weight it multiplies by."
        )


def _layer(head: Any) -> Any:
    """The layer whose weight is in use: for PEFT's `modules_to_save`, the active adapter's copy."""
    if type(head).__name__ != "ModulesToSaveWrapper":
        return head
    if head.disable_adapters or not head.active_adapters:
        return head.original_module
    return head.modules_to_save[head.active_adapters[0]]


def _weight_and_bias(head: Any) -> tuple[Tensor, Tensor | None]:
    layer = _layer(head)
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if weight.dim() != 2:
        raise SpftError(
            f"The head's weight has shape {list(weight.shape)} instead of [V, H]: it is cut up "
            "among processes. Call the loss inside the forward of the module that FSDP wraps, or "
            "inside deepspeed.zero.GatheredParameters."
        )
    return _whole(weight), None if bias is None else _whole(bias)


def _whole(parameter: Any) -> Tensor:
    """The parameter, gathered where FSDP2 or tensor parallelism left it in shards (a DTensor)."""
    if not hasattr(parameter, "full_tensor"):
        return parameter
    from torch.distributed.tensor import Partial

    mesh = parameter.device_mesh
    whole: Tensor = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        # Each process has pairs of its own, and FSDP averages gradients over processes.
        whole.register_hook(lambda gradient: gradient / mesh.size())
    return whole
