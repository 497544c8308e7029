"""The demo: real text from the installed packages, a small seed, and the main job end to end."""
