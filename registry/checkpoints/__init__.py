"""Checkpoint files: safe reading, model families, and the checks before anything is accepted."""
