"""The demo: the whole workflow on real text from the installed packages, with a small seed."""
