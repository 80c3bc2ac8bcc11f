"""Prompts and completions as token ids: what is trained on and what is asked is encoded alike."""

from __future__ import annotations

from typing import Any

from spftcore.errors import SpftError


class Encoder:
    """Token ids of prompts and completions, each encoded by itself: no token spans their border.

    Args:
        tokenizer: of `transformers`.
        chat_template: send prompts through the tokenizer's chat template if it has one.
    """

    def __init__(self, tokenizer: Any, *, chat_template: bool) -> None:
        self._tokenizer = tokenizer
        self._chat = chat_template and bool(tokenizer.chat_template)

    def prompt(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt.

        Raises:
            SpftError: the chat template fails.
        """
        if not self._chat:
            return tuple(self._tokenizer(text)["input_ids"])
        message = [{"role": "user", "content": text}]
        try:
            return tuple(
                self._tokenizer.apply_chat_template(
                    message, add_generation_prompt=True, return_dict=False
                )
            )
        except Exception as error:  # the template is a program that came with the model
            raise SpftError(
                f"The chat template of the model's tokenizer fails on a plain user message "
                f"({type(error).__name__}: {error}). Correct chat_template in the model's "
                "folder, or set model.chat_template=false."
            ) from error

    def completion(self, text: str) -> tuple[int, ...]:
        """Token ids of a completion, ended by end-of-sequence."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, self._tokenizer.eos_token_id)
