"""Whether packed groups give a model's own log-probs: measured on the model before it trains.

A wrong mask raises no error and trains a wrong model, so one packed group is compared with its
sequences encoded one by one before the first step.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.training.attention import (
    Attention,
    Backend,
    completion_logprobs,
    implementation,
    row_cost,
)
from spftcore.training.groups import Group
from spftcore.training.masks import Reach, reaches
from spftcore.training.packing import RowCost

Setting = Literal["auto", "parts", "sdpa", "flex", "varlen", "plain"]

log = logging.getLogger(__name__)
_said: set[tuple[str, str]] = set()  # (model type, back end) that the log has been told

LONGEST = 600  # tokens of the checked group, so that the check stays cheap
# Largest difference of a log-prob that rounding explains in each format; a padded batch of the
# same sequences shows what more a model needs.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
HALF_TOLERANCE = 5e-2
NOISE_FACTOR = 4.0


def choose(
    model: LanguageModel,
    setting: Setting = "auto",
    *,
    shared: bool = True,
    report: Callable[[str], None] | None = None,
) -> Attention:
    """The back end for a model, checked on the model itself.

    Args:
        model: what will be trained or scored.
        setting: `training.attention`.
        shared: whether several completions share a prompt in what is to come.
        report: is told which back end it is, and why where sequences are plain; none: the log is,
            once for each type of model, as a warning where packing failed.

    Raises:
        SpftError: the setting asks for what this machine cannot run.
    """
    failures: list[str] = []

    def say(text: str) -> None:
        if report is not None:
            report(text)
        elif (kind := (model.causal_lm.config.model_type, text.partition(";")[0])) not in _said:
            _said.add(kind)
            log.log(logging.WARNING if failures else logging.INFO, text)

    own = implementation(model)
    if own == "sdpa" and getattr(model.causal_lm.config, "attn_logit_softcapping", None):
        # SDPA leaves the cap out without a word, and the model would not be the one it was.
        model.causal_lm.set_attn_implementation("eager")
        own = "eager"
    cost = row_cost(model)
    plain = Attention("plain", cost)
    if setting in ("flex", "varlen") and model.device.type == "cpu":
        raise SpftError(
            f"training.attention={setting} needs a GPU: it has no backward pass on the CPU. "
            "Use auto or sdpa."
        )
    for backend in _candidates(setting, own, model.device.type, shared):
        attention = Attention(backend, cost)
        try:
            difference, allowed = measure(model, attention)
        except Exception as error:  # whatever a foreign model raises, plain sequences will do
            failures.append(f"{backend} failed: {_first_line(error)}")
            continue
        if difference <= allowed:
            agree = f"packed and separate log-probs agree to {difference:.0e}"
            say(f"attention: {backend}; {'; '.join([*failures, agree])}")
            return attention
        failures.append(
            f"{backend} differs from separate sequences by {difference:.1e} in a log-prob, "
            f"rounding explains {allowed:.1e}"
        )
    say("attention: plain sequences" + "".join(f"; {failure}" for failure in failures))
    return plain


def _candidates(setting: Setting, own: str, device: str, shared: bool) -> list[Backend]:
    """The back ends to try, the best first; where none stands the check, sequences are plain."""
    if setting == "plain":
        return []
    if setting != "auto":
        return [setting]
    if own.startswith("flash_attention") or (not shared and _flash_attention(device)):
        return [] if shared else ["varlen"]
    return ["parts", "sdpa"] if device == "cpu" and own == "sdpa" else ["sdpa"]


def _flash_attention(device: str) -> bool:
    return device == "cuda" and importlib.util.find_spec("flash_attn") is not None


def measure(model: LanguageModel, attention: Attention) -> tuple[float, float]:
    """(largest difference of a log-prob between packed and separate, what rounding explains)."""
    group = sample_group(model)
    separate = group.separate()
    plain = Attention("plain", attention.cost)
    layouts = [attention]
    if attention.backend == "parts":  # it takes groups apart or not, by what is cheaper
        layouts = [Attention("parts", RowCost(1.0, 1.0, call)) for call in (0.0, 1e9)]
    training = model.model.training
    model.model.eval()
    try:
        with torch.no_grad():

            def scored(how: Attention, groups: list[Group]) -> Tensor:
                return completion_logprobs(model, how.pack(model, groups), how).double()

            with attention.on(model):
                packed = [scored(how, [group]) for how in layouts]
            alone = torch.cat([scored(plain, [one]) for one in separate])
            padded = scored(plain, list(separate))
    finally:
        model.model.train(training)
    noise = float((padded - alone).abs().max())
    floor = TOLERANCE.get(model.causal_lm.dtype, HALF_TOLERANCE)
    difference = max(float((one - alone).abs().max()) for one in packed)
    return difference, max(floor, NOISE_FACTOR * noise)


def sample_group(model: LanguageModel) -> Group:
    """A prompt with two completions of ordinary tokens, longer than the model's windows where that
    stays within LONGEST tokens."""
    config = model.causal_lm.config
    reach = reaches(config)
    layers = reach.values() if isinstance(reach, dict) else [reach or Reach()]
    limits = [limit for one in layers for limit in (one.window, one.chunk) if limit is not None]
    first, second, prompt = 20, 14, 40
    longest = min(LONGEST, getattr(config.get_text_config(), "max_position_embeddings", LONGEST))
    # The second completion must see less than the whole prompt by position, and stand yet further
    # from it in the row.
    beyond = [limit for limit in limits if prompt <= limit + first <= longest - first - second]
    if beyond:
        prompt = max(beyond) + first
    prompt = max(1, min(prompt, longest - first - second))
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    vocabulary = model.causal_lm.get_input_embeddings().weight.shape[0]
    ordinary = [i for i in range(min(vocabulary, 50_000)) if i not in special]
    # Steps of a large prime walk through the vocabulary without a random generator.
    ids = [ordinary[(7919 * i + 104_729) % len(ordinary)] for i in range(prompt + first + second)]
    return Group(
        tuple(ids[:prompt]), (tuple(ids[prompt : prompt + first]), tuple(ids[prompt + first :]))
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
