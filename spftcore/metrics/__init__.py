"""What answers are worth: execution accuracy and its relatives, with their uncertainty."""

from spftcore.metrics.statistics import (
    Accuracy,
    Comparison,
    Interval,
    accuracy,
    bootstrap,
    holm,
    mcnemar,
    paired_interval,
)

__all__ = [
    "Accuracy",
    "Comparison",
    "Interval",
    "accuracy",
    "bootstrap",
    "holm",
    "mcnemar",
    "paired_interval",
]
