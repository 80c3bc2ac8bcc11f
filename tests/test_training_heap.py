"""Memory of a training on the CPU: freed tensors are used again without the system."""

from __future__ import annotations

import ctypes
import resource

import pytest
import torch

from spftcore.training.heap import freed_memory_kept

TENSOR = 48 * 2**20  # bytes: above what glibc ever keeps by itself
PAGES = TENSOR // resource.getpagesize()


def faults() -> int:
    """Page faults of forming and dropping a large tensor eight times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(TENSOR, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc is told to keep it"
)
def test_large_tensors_are_faulted_in_once_inside_and_each_time_outside() -> None:
    torch.set_num_threads(1)
    with freed_memory_kept():
        faults()  # the first of them is new memory
        inside = faults()
    outside = faults()

    assert inside < PAGES // 2
    assert outside > 4 * PAGES
