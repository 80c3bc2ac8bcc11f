"""Memory of a training on the CPU: freed tensors are used again without the system."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

# In a process of its own: what the heap of an older one holds free already, nobody knows.
PROGRAM = """
import json, resource, torch
from spftcore.training.heap import freed_memory_kept

SIZE = 48 * 2**20  # bytes: above what glibc ever keeps by itself
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
with freed_memory_kept():
    faults()  # the first of them is new memory
    inside = faults()
print(json.dumps([before, inside, faults()]))
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc is told to keep it"
)
def test_large_tensors_are_faulted_in_once_inside_and_each_time_outside() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, inside, after = json.loads(done.stdout)
    assert before > 1_000  # eight tensors, page by page or in larger pieces
    assert inside < before / 4  # one of eight may still be new
    assert after > before / 2
