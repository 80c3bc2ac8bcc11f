"""`pair_loss` alone and, on a GPU, each kernel alone as a share of what the machine can do."""

import statistics
from typing import Any

import torch
from loss_timing import Call, summary, take_turns
from torch import Tensor

from spftcore.kernels import pair_loss

PAIR_TOKENS = 60  # of one completion
COPIES = 20  # calls in one CUDA graph
COPIED = 2 * 1024**3  # bytes of one copy: far more than any cache
SQUARE = 8192  # width of the matrix product that stands for the machine's rate
KERNEL_ROWS = 2048  # of logits, for the kernels alone
KERNEL_SHAPES = [(2048, 248_320), (3584, 152_064), (896, 32_768)]  # width H, vocabulary V


def pair_rows(many: list[int], device: str, seconds: float) -> list[dict[str, Any]]:
    """`pair_loss` of so many pairs of 2 x 60 tokens: forward, with backward, and in CUDA graphs."""
    rows = []
    for pairs in many:
        for name, make in (("forward", _pair_forward), ("forward+backward", _pair_backward)):
            for graphed in (False, True) if device == "cuda" else (False,):
                full = f"{name}, {pairs} pairs" + (", CUDA graph" if graphed else "")
                row: dict[str, Any] = {"mode": "pair_loss", "provider": full, "pairs": pairs}
                try:
                    call = make(pairs, device)
                    call()
                    call = _graph(call) if graphed else call
                    times = take_turns({name: call}, device, seconds)[name]
                    each = [time / (COPIES if graphed else 1) for time in times]
                    row |= {"status": "ok", **summary(each)}
                except Exception as error:
                    row["status"] = f"failed: {type(error).__name__}: {str(error)[:160]}"
                rows.append(row)
    return rows


def _pair_problem(pairs: int, device: str) -> tuple[Any, ...]:
    logprobs = -torch.rand(2 * pairs * PAIR_TOKENS, device=device)
    borders = torch.arange(0, len(logprobs) + 1, PAIR_TOKENS, device=device)
    chosen = torch.arange(0, 2 * pairs, 2, device=device)
    reward = torch.ones(pairs, device=device)
    return logprobs, logprobs - 0.1, borders, chosen, chosen + 1, reward, None, 0.5


def _pair_forward(pairs: int, device: str) -> Call:
    arguments = _pair_problem(pairs, device)
    return lambda: pair_loss(*arguments)


def _pair_backward(pairs: int, device: str) -> Call:
    logprobs, *rest = _pair_problem(pairs, device)
    leaf = logprobs.requires_grad_()

    def call() -> None:
        loss, _ = pair_loss(leaf, *rest)
        torch.autograd.grad(loss.sum(), leaf)

    return call


def _graph(call: Call) -> Call:
    """COPIES calls, one after the other, as one CUDA graph; its own launch hardly counts then."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(COPIES):
            call()
    return graph.replay


def kernel_rows(dtype: torch.dtype, seconds: float) -> list[dict[str, Any]]:
    """Copy bandwidth, matrix rate, and each kernel's share of the one that bounds it.

    Bytes are those a kernel cannot avoid, each counted once: a row of V logits read (log-probs
    alone), read twice and written once (with the gradient in place).
    """
    ceilings = _ceilings(dtype, seconds)
    copy_rate = 2 * COPIED / statistics.median(ceilings["copy"])
    matrix_rate = 2 * SQUARE**3 / statistics.median(ceilings["matrix"])
    rows: list[dict[str, Any]] = [
        {"provider": "copy", "bytes_per_s": copy_rate, **summary(ceilings["copy"])},
        {"provider": "matrix", "flops": matrix_rate, **summary(ceilings["matrix"])},
    ]
    for width, vocabulary in KERNEL_SHAPES:
        kernels = _kernels(width, vocabulary, dtype)
        for call, _, _ in kernels.values():
            call()
        times = take_turns({name: kernels[name][0] for name in kernels}, "cuda", seconds)
        for name, (_, moved, computed) in kernels.items():
            each = statistics.median(times[name])
            row = {"provider": name, "width": width, "vocabulary": vocabulary}
            row |= {"rows": KERNEL_ROWS, "dtype": str(dtype), **summary(times[name])}
            if moved:
                row["copy_share"] = round(moved / each / copy_rate, 3)
            if computed:
                row["matrix_share"] = round(computed / each / matrix_rate, 3)
            rows.append(row)
    return [{"mode": "kernel", "status": "ok", **row} for row in rows]


def _ceilings(dtype: torch.dtype, seconds: float) -> dict[str, list[float]]:
    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda")
    goal = torch.empty_like(source)
    square = torch.randn(SQUARE, SQUARE, dtype=dtype, device="cuda")
    calls = {"copy": lambda: goal.copy_(source), "matrix": _product(square, square, square.clone())}
    for call in calls.values():
        call()
    return take_turns(calls, "cuda", seconds)


def _kernels(width: int, vocabulary: int, dtype: torch.dtype) -> dict[str, tuple[Call, int, int]]:
    """By name: the call, the bytes it must move, the operations it must do."""
    from spftcore.kernels import logits_triton

    options: dict[str, Any] = {"dtype": dtype, "device": "cuda"}
    logits = torch.randn(KERNEL_ROWS, vocabulary, **options)
    hidden = torch.randn(KERNEL_ROWS, width, **options)
    head = torch.randn(vocabulary, width, **options)
    targets = torch.randint(vocabulary, (KERNEL_ROWS,), device="cuda")
    once = logits.numel() * logits.element_size()
    operations = 2 * logits.numel() * width

    def softmax(gradient: bool) -> Call:
        return lambda: logits_triton.target_logprobs_(logits, targets, None, gradient)

    return {
        "log-probs": (softmax(False), once, 0),
        "log-probs, gradient": (softmax(True), 3 * once, 0),
        "product: logits": (_product(hidden, head.t(), logits.clone()), 0, operations),
        "product: back": (_product(logits, head, hidden.clone()), 0, operations),
        "product: head": (_product(logits.t(), hidden, head.clone()), 0, operations),
    }


def _product(left: Tensor, right: Tensor, out: Tensor) -> Call:
    return lambda: torch.mm(left, right, out=out)
