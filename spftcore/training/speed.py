"""How well a training uses its machine: model FLOP utilisation and peak memory."""

from __future__ import annotations

import resource
import sys

import torch

from spftcore.models import LanguageModel

# Dense bf16 matrix products with fp32 sums, in 10¹² operations per second, from the makers' data
# sheets. The first name that occurs in the device's name counts.
PEAK_TFLOPS = (
    ("B200", 2250.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H800", 989.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("A40", 149.7),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("RTX 4090", 165.2),
)


def utilisation(model: LanguageModel, tokens_per_second: float, precision: str) -> float | None:
    """Share of the device's peak that the weights' products take up: 6 · parameters · tokens, with
    4 for a frozen parameter, whose gradient nobody computes.

    Counted are the weights of the layers, at every token. Attention and the output projection,
    which only completion tokens enter, come on top, so the share is a lower bound.

    Args:
        model: what is trained.
        tokens_per_second: of one device.
        precision: `training.precision`.

    Returns:
        None where the peak is not known: on a CPU, an unlisted GPU, or in another format.
    """
    in_bf16 = precision == "bfloat16" or model.causal_lm.dtype == torch.bfloat16
    if model.device.type != "cuda" or not in_bf16:
        return None
    name = torch.cuda.get_device_name(model.device)
    peak = next((tflops for known, tflops in PEAK_TFLOPS if known in name), None)
    if peak is None:
        return None
    tables = {id(model.causal_lm.get_input_embeddings().weight), id(model.head.weight)}
    counted = [p for p in model.model.parameters() if id(p) not in tables]
    operations = sum((6 if p.requires_grad else 4) * p.numel() for p in counted)
    return operations * tokens_per_second / (peak * 1e12)


def peak_memory(device: torch.device) -> float:
    """The most memory so far, in GB (10⁹ bytes): of the GPU's tensors, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident * (1 if sys.platform == "darwin" else 1024) / 1e9
