"""The folder `kernels/` is `spftcore.kernels` and nothing else, wherever Python is started."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_in_repository_root(program: str) -> str:
    """Output of a program started there, so that `kernels/` is on its path; no network."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def test_transformers_works_from_the_repository_root():
    # A distribution called `kernels` exists, which transformers uses where it is installed.
    pytest.importorskip("transformers", reason="transformers is not installed")
    program = (
        "import torch\n"
        "from transformers import AutoModelForCausalLM, LlamaConfig\n"
        "from transformers.utils import is_kernels_available\n"
        "config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=8,\n"
        "    num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)\n"
        "model = AutoModelForCausalLM.from_config(config)\n"
        "print(is_kernels_available(), tuple(model(torch.tensor([[1, 2]])).logits.shape))\n"
    )
    found, shape = run_in_repository_root(program).splitlines()[-1].split(maxsplit=1)
    installed = any(one.metadata["Name"] == "kernels" for one in importlib.metadata.distributions())
    assert found == str(installed)
    assert shape == "(1, 2, 11)"


def test_spftcore_kernels_is_the_folder_kernels():
    program = "import spftcore.kernels as k; print(k.__file__)"
    assert Path(run_in_repository_root(program)) == ROOT / "kernels" / "__init__.py"


def test_importing_the_kernels_does_not_import_triton():
    # The CPU path works where Triton does not exist.
    program = (
        "import sys, spftcore.losses\n"
        "print(any(name.split('.')[0] == 'triton' and getattr(module, '__file__', None)\n"
        "    for name, module in sys.modules.items()))\n"
    )
    before = run_in_repository_root(program.replace("spftcore.losses", "torch"))
    assert run_in_repository_root(program) == before
