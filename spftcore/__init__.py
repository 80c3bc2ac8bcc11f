"""SPFT-SQL: self-play fine-tuning of open language models for text-to-SQL."""

__version__ = "0.1.0"
