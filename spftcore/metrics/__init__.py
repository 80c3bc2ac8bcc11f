"""What answers are worth: execution accuracy and its relatives, with their uncertainty."""

from spftcore.metrics.statistics import Accuracy, Comparison, accuracy, mcnemar

__all__ = ["Accuracy", "Comparison", "accuracy", "mcnemar"]
