"""Checkpoint folder to GGUF, in one streaming pass."""
