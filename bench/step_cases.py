"""Which shapes of a step are measured, by the name of their case; imports nothing but Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# hidden, layers, heads, key-value heads, intermediate
SIZES = {
    "0.1m": (64, 2, 2, 2, 256),  # what a step costs beside the model's arithmetic
    "8m": (256, 8, 4, 2, 1024),  # body; with 32,000 tied embeddings 16.1 M parameters
    "1.5b": (1536, 28, 12, 2, 8960),  # Qwen2.5-1.5B, and its 151,936 tied embeddings
}


@dataclass(frozen=True)
class Cell:
    """One shape of a step.

    Attributes:
        size: key of SIZES.
        prompt: tokens of every prompt.
        completion: mean tokens of a completion; lengths vary evenly from half to one and a half.
        vocabulary: V.
        groups: prompts in a step, each with one gold and `rejected` answers.
        rejected: answers of a group, each a pair with the gold.
        pairs_held: pairs in the data set, of which each step takes the next; None: every step
            takes the same ones, so that all providers see the same first step.
        device: "cpu" or "cuda".
        dtype: of the weights.
        lora: rank of the adapter, or 0 to train every weight.
    """

    name: str
    size: str
    prompt: int
    completion: int
    vocabulary: int
    groups: int
    rejected: int = 1
    pairs_held: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    lora: int = 0

    @property
    def pairs(self) -> int:
        """Pairs in a step."""
        return self.groups * self.rejected


def _grid() -> Iterator[Cell]:
    for vocabulary in (1_500, 32_000, 151_936):
        for prompt in (128, 600, 2_000):
            for completion in (20, 45, 120):
                name = f"prompt {prompt}, completion {completion}, V {vocabulary}"
                yield Cell(name, "8m", prompt, completion, vocabulary, groups=2)


CASES: dict[str, list[Cell]] = {
    "tiny": [Cell("tiny", "0.1m", 60, 10, 1_500, groups=2)],
    "cpu-16m": [Cell("cpu-16m", "8m", 600, 45, 32_000, groups=4)],
    "cpu-16m-v152k": [Cell("cpu-16m-v152k", "8m", 600, 45, 151_936, groups=2)],
    "grid": list(_grid()),
    "rejected": [
        Cell(f"{rejected} rejected", "8m", 600, 45, 32_000, groups=2, rejected=rejected)
        for rejected in (1, 4)
    ],
    "flat": [
        Cell(f"{held} pairs", "0.1m", 128, 20, 1_500, groups=8, pairs_held=held)
        for held in (1_000, 10_000, 100_000)
    ],
    "gpu-1.5b": [
        Cell(
            "gpu-1.5b",
            "1.5b",
            2_000,
            45,
            151_936,
            groups=4,
            device="cuda",
            dtype="bfloat16",
            lora=16,
        )
    ],
}
