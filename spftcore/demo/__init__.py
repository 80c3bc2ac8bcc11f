"""The embedded default: six small databases, seed pairs, and questions held out.

`seeds.jsonl` is trained on; `dev.jsonl` and `test.jsonl` were written apart from the seeds, from
the schemas alone, and no query of theirs is among the seeds or can be synthesized. Everything that
was tuned was tuned on `dev.jsonl`.
"""

from typing import Any

# Settings that suit a one-million-parameter model trained from nothing on two cores.
SETTINGS: dict[str, Any] = {
    "prompt": {"style": "linked", "max_prompt_tokens": 192, "max_completion_tokens": 96},
    "base": {"steps": 850, "learning_rate": 2e-3},
    "sql_to_text": {
        "scratch_steps": 600,
        "steps": 100,
        "learning_rate": 1e-3,
        "round_trip": False,  # answering every question takes longer than writing it
    },
    "vbi": {
        "rounds": 2,
        "count": 1700,
        "feedback": 300,
        "ranking": 300,
        "steps": 450,
        "learning_rate": 1e-3,
    },
    "self_play": {
        "iterations": 2,
        "steps": 80,
        "learning_rate": 1e-4,
        "lam": 1.0,
        "pairs": 600,
    },
}
