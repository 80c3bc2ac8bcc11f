"""What is trained on: token ids of a prompt with one completion, or with several that share it."""

from __future__ import annotations

from dataclasses import dataclass, field

from spftcore.errors import SpftError


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids of a prompt and of its completion; the completion ends with end-of-sequence.

    `id` names the pair it was made from, for messages.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    id: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt and its completions: one in supervised training, a gold and its rivals in self-play.

    Attributes:
        prompt: token ids, encoded once however many completions there are.
        completions: token ids of each, end-of-sequence included.

    Raises:
        SpftError: the prompt is empty (nothing would predict a completion's first token), or
            there is no completion, or an empty one.
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.prompt:
            raise SpftError("A sequence has an empty prompt: nothing predicts its first token.")
        if not self.completions or not all(self.completions):
            raise SpftError("A prompt has no completion, or an empty one: nothing can be scored.")

    def __len__(self) -> int:
        """Tokens of the group when the prompt stands once."""
        return len(self.prompt) + sum(len(completion) for completion in self.completions)

    def separate(self) -> tuple[Group, ...]:
        """The same completions, each with a prompt of its own."""
        return tuple(Group(self.prompt, (completion,)) for completion in self.completions)
