"""The self-play loss in an ordinary training loop: `transformers`, AdamW, nothing else.

A tiny Llama learns to answer a prompt of digits with the same digits backwards. Its opponent is
itself as it was before; answers that happen to be right (R = 0) are not pushed away.

    python examples/ordinary_training_loop.py
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spftcore.losses import LossConfig
from spftcore.self_play_loss import IGNORED, SelfPlayLoss

END = 10  # tokens 0 to 9 are digits
STEPS, PAIRS, DIGITS = 60, 16, 3


def main() -> list[float]:
    """Trains for a few seconds on a CPU; returns the loss of every step."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, bos_token_id=None, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    loss_of = SelfPlayLoss.for_model(model, LossConfig("spft", lam=0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    # One batch of pairs: all golds, then all the opponent's answers, in the same order.
    prompts = torch.randint(10, (PAIRS, DIGITS))
    golds = prompts.flip(1)
    answers = torch.randint(10, (PAIRS, DIGITS))
    answers[::4] = golds[::4]  # every fourth answer is right
    reward = (answers != golds).any(1)  # R(y') of the paper: True where the answer is wrong
    ends = torch.full((2 * PAIRS, 1), END)
    ids = torch.cat([prompts.repeat(2, 1), torch.cat([golds, answers]), ends], dim=1)  # [2P, T]
    labels = ids.clone()
    labels[:, :DIGITS] = IGNORED  # prompts are given, not learned

    with torch.no_grad():  # the opponent's view, computed once
        hidden = model.base_model(input_ids=ids).last_hidden_state
        opponent = loss_of.sequence_logprobs(hidden, labels)  # [2P]

    losses = []
    for step in range(STEPS):
        hidden = model.base_model(input_ids=ids).last_hidden_state  # [2P, T, H], no logits
        out = loss_of(hidden, labels, opponent, reward)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
        if step % 10 == 0 or step == STEPS - 1:
            print(
                f"step {step:2}  loss {losses[-1]:.4f}  margin {out.statistics.margin.mean():.2f}"
            )
    return losses


if __name__ == "__main__":
    main()
