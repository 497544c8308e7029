"""Recipe, lock and manifest of a mix, and its opening."""
