"""Tensors read from and written to blobs: dtypes, streaming, trunk merging."""
