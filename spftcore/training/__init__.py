"""The training step: batches of sequences, objectives, and the optimizer loop."""
