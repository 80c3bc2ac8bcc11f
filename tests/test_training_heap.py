"""Memory of a training on the CPU: freed tensors stay with the process, and go back afterwards."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

# In a process of its own: what the heap of an older one holds free already, nobody knows. Resident
# memory is asked for, not page faults: with huge pages a block takes a handful of them.
PROGRAM = """
import json, torch
from pathlib import Path
from spftcore.training.heap import freed_memory_kept

SIZE = 48 * 2**20  # bytes: above what glibc ever keeps by itself
PAGE = 4096
torch.set_num_threads(1)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

def left_by_a_freed_tensor():
    torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    return (resident() - at_rest) / SIZE

torch.empty(SIZE, dtype=torch.uint8).fill_(1)  # torch's own first use
at_rest = resident()
before = left_by_a_freed_tensor()
with freed_memory_kept():
    inside = [left_by_a_freed_tensor() for _ in range(8)]
print(json.dumps([before, min(inside), max(inside), left_by_a_freed_tensor()]))
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version") or not sys.platform.startswith("linux"),
    reason="only glibc is told to keep it",
)
def test_a_freed_tensor_stays_inside_and_is_used_again_and_goes_back_outside() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, least, most, after = json.loads(done.stdout)
    assert before < 0.25
    assert least > 0.75
    assert most < 1.5  # eight tensors took one's memory
    assert after < 0.25
