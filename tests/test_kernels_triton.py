"""The Triton kernels pass in the interpreter and compile for every supported GPU unspilled."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed (it needs Linux)")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from spftcore.kernels import logits_triton, pairs_triton  # noqa: E402

HERE = Path(__file__).resolve().parent
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def run_kernel_tests(interpreted: bool) -> None:
    """Run interpreted_kernels.py in a process of its own: Triton decides once, at import."""
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpreted else "0"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "interpreted_kernels.py"],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "only 0-dimensional arrays can be converted" in result.stdout:
        pytest.skip("this Triton's interpreter does not run with this NumPy (3.6 with 2.4)")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


def test_kernels_agree_with_fp64_in_the_interpreter():
    run_kernel_tests(interpreted=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_agree_with_fp64_on_the_gpu():
    run_kernel_tests(interpreted=False)


def logits_kernel(
    dtype: str,
    capped: bool,
    gradient: bool,
    launch: logits_triton.Launch = logits_triton.FIXED,
    stride: str = "i32",
):
    signature = {
        "logits": f"*{dtype}",
        "targets": "*i64",
        "logprobs": "*fp32",
        "vocabulary": "i32",
        "stride": stride,
        "cap": "fp32",
        "ignored": "i32",
    }
    constants = {
        "IGNORES": True,
        "CAPPED": capped,
        "GRADIENT": gradient,
        "BLOCK": launch.block,
    }
    return logits_triton.target_logprobs_kernel, signature, constants, launch.warps


def pair_kernel(dtype: str, index: str):
    signature = {
        "main": f"*{dtype}",
        "other": "*fp32",
        "cu_seqlens": f"*{index}",
        "chosen": f"*{index}",
        "rejected": f"*{index}",
        "scale": "*fp32",
        "weight": "*fp32",
        "losses": "*fp32",
        "results": "*fp32",
        "pairs": "i32",
        "lam": "fp32",
        "nll_weight": "fp32",
    }
    constants = {
        "WEIGHTED": True,
        "BLOCK_PAIRS": pairs_triton.BLOCK_PAIRS,
        "BLOCK_TOKENS": pairs_triton.BLOCK_TOKENS,
    }
    return pairs_triton.pair_loss_kernel, signature, constants, pairs_triton.WARPS


def gradient_kernel(dtype: str, index: str):
    signature = {
        "gradient": f"*{dtype}",
        "cu_seqlens": f"*{index}",
        "chosen": f"*{index}",
        "rejected": f"*{index}",
        "results": "*fp32",
        "upstream": "*fp32",
        "upstream_stride": "i32",
        "sequences": "i32",
        "pairs": "i32",
    }
    constants = {
        "BLOCK_SEQUENCES": pairs_triton.BLOCK_SEQUENCES,
        "BLOCK_SCAN": pairs_triton.BLOCK_SCAN,
        "BLOCK_TOKENS": pairs_triton.BLOCK_TOKENS,
    }
    return pairs_triton.pair_gradient_kernel, signature, constants, pairs_triton.WARPS


VARIANTS = {
    "logprobs bf16": logits_kernel("bf16", False, False),
    "logprobs and gradient bf16": logits_kernel("bf16", False, True),
    "logprobs and gradient bf16, capped": logits_kernel("bf16", True, True),
    "logprobs and gradient fp32": logits_kernel("fp32", False, True),
    **{
        f"logprobs and gradient bf16, capped, tuned to {launch}": logits_kernel(
            "bf16", True, True, launch
        )
        for launch in logits_triton.CANDIDATES[1:]
    },
    "pair loss fp32": pair_kernel("fp32", "i64"),
    "pair gradient fp32": gradient_kernel("fp32", "i64"),
    "pair gradient bf16, int32": gradient_kernel("bf16", "i32"),
}


def compiled_for(variant, capability: int):
    """A kernel as it would be launched, compiled without a GPU."""
    kernel, signature, constants, warps = variant
    signature = signature | dict.fromkeys(constants, "constexpr")
    positions = {name: (kernel.arg_names.index(name),) for name in signature}
    # What a launch knows: pointers, the vocabulary and the row stride are multiples of 16.
    aligned = [name for name, kind in signature.items() if kind.startswith("*")]
    aligned += [name for name in ("vocabulary", "stride") if name in signature]
    source = ASTSource(
        kernel,
        signature,
        {positions[name]: value for name, value in constants.items()},
        {positions[name]: [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
    )


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles_without_spilling_registers(variant, capability, tmp_path, record_property):
    compiled = compiled_for(VARIANTS[variant], capability)
    warps = VARIANTS[variant][-1]
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run(
        [TOOLS / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    resources = {name: int(value) for name, value in re.findall(r"([A-Z]+):(\d+)", usage)}
    shared = compiled.metadata.shared
    print(f"{variant}, sm_{capability}: {resources['REG']} registers, {shared} B shared")
    record_property("registers", resources["REG"])
    record_property("shared_bytes", shared)
    assert resources["STACK"] == 0
    assert resources["LOCAL"] == 0
    # Two programs share a multiprocessor's 65,536 registers, to cover each other's waits.
    assert 2 * resources["REG"] * warps * 32 <= 65536 or warps == 32


@pytest.mark.parametrize("stride", ["i32", "i64"])
def test_a_rows_offset_is_computed_in_64_bits(stride):
    # 14,123 rows of 152,064 logits pass 2^31 elements: the product row * stride must be wide even
    # where the stride itself fits in 32 bits.
    compiled = compiled_for(logits_kernel("bf16", False, True, stride=stride), 90)
    ttir = str(compiled.asm["ttir"])
    products = re.findall(r"arith\.muli [^\n]*: (i\d+)", ttir)
    assert products[0] == "i64"
    assert "mul.wide.s32" in compiled.asm["ptx"] or "mul.lo.s64" in compiled.asm["ptx"]
