"""Memory of a training on the CPU: freed tensors stay with the process until it is over."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

# In a process of its own: what the heap of an older one holds free already, nobody knows. Resident
# memory is asked for, not page faults, of which huge pages make a handful; and without a buffer,
# which malloc could put where the tensor was.
PROGRAM = """
import json, os, torch
from spftcore.training.heap import freed_memory_kept

SIZE = 48 * 2**20  # bytes: above what glibc ever keeps by itself
PAGE = os.sysconf("SC_PAGESIZE")
torch.set_num_threads(1)
statm = os.open("/proc/self/statm", os.O_RDONLY)

def resident():
    return int(os.pread(statm, 200, 0).split()[1]) * PAGE

def fill_and_free():
    torch.empty(SIZE, dtype=torch.uint8).fill_(1)

fill_and_free()  # torch's own first use
at_rest = resident()
left = []
fill_and_free()
left.append(resident())
with freed_memory_kept():
    for _ in range(2):
        for _ in range(16):  # malloc takes some turns until it finds the freed block again
            fill_and_free()
        left.append(resident())
left.append(resident())
print(json.dumps([(bytes - at_rest) / SIZE for bytes in left]))
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version") or not sys.platform.startswith("linux"),
    reason="only glibc is told to keep it",
)
def test_freed_tensors_stay_inside_and_are_used_again_and_go_back_at_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, first, second, after = json.loads(done.stdout)
    assert before < 0.25
    assert first > 0.75
    assert second - first < 0.5  # sixteen more took nothing new
    assert after < 0.25
