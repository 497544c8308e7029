"""The queue's worker, its child process, and the kinds of runs."""
