"""Freed tensors stay with the process while it trains on a CPU, instead of going back and forth.

glibc gives a large block back to the system when it is freed, and the next one of that size is
mapped anew and faulted in page by page: with activations of 11 MB, tens of thousands of faults a
step. Measured: docs/training.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEEP = 2**31 - 1  # bytes; the most that mallopt takes
USUAL = 32 * 2**20  # where glibc's own moving thresholds end up for such blocks


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While the body runs, malloc keeps up to 2 GiB of freed memory; afterwards it gives it back.

    Without glibc nothing changes.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, KEEP)
    # Before 2.35 glibc refuses more than 32 MiB for the second.
    if not libc.mallopt(M_MMAP_THRESHOLD, KEEP):
        libc.mallopt(M_MMAP_THRESHOLD, USUAL)
    try:
        yield
    finally:
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(option, USUAL)
        libc.malloc_trim(0)
