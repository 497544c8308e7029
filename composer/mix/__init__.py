"""Recipe, lock and manifest of a mix, and loading of a mix into memory."""
