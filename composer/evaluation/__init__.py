"""Measurements of mixes and experts, and their report."""
