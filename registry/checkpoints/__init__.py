"""Checkpoint files: safe reading, model families, and the checks before a checkpoint is accepted."""
