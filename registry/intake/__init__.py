"""Intake of checkpoints from a folder or the Hugging Face Hub."""
