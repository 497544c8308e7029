"""The registry: experts, seeds and mixes with their blobs, domain embeddings and lineage.

It knows nothing of torch modules: checkpoints are bytes with headers. Nothing connects at import.
"""
