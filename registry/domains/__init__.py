"""The text of a domain, its embedding, and the index that finds it."""
