"""Published seeds, experts and mixes: queries, publishing, aliases, deletion, garbage collection."""
