"""One run alone, as two DDP processes and as two FSDP2 processes, all on the CPU:
`python launched_run.py FOLDER OPTION…` makes the runs `alone`, `ddp` and `fsdp` in FOLDER."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import torch
from training_processes import join

from spftcore.train import main

GROUPS = ("ddp", "fsdp")


def launched(group: str, folder: Path, options: list[str]) -> int:
    """What `accelerate launch` does: starts two processes of a run. Returns how many failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        # Forked, since importing takes longer than everything else here.
        child = os.fork()
        if child == 0:
            code = 1
            try:
                join(group, rank, port)
                code = main([f"--run.name={group}", f"--run.directory={folder}", *options])
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, options = Path(sys.argv[1]), sys.argv[2:]
    failed = sum(launched(group, folder, options) for group in GROUPS)
    failed += main(["--run.name=alone", f"--run.directory={folder}", "--run.workers=1", *options])
    sys.exit(failed)
