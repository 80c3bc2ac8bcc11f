"""The stages of a run: each reads what earlier stages stored and stores its own result."""
