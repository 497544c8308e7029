"""Domain text, domain embeddings and the search index."""
