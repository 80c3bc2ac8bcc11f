"""Which tensors the Triton kernels take, and the dtype in which sums run."""

import torch
from torch import Tensor


def on_triton(tensor: Tensor) -> bool:
    """Whether this tensor's work goes to Triton: on a GPU, except in fp64, which is for checks."""
    return tensor.is_cuda and tensor.dtype != torch.float64


def accurate(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and log-probs: fp32, or fp64 for fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
