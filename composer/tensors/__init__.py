"""Tensors as streams of blobs: dtypes, merging, model folders."""
