"""The worker of the queue, its child process, and the kinds of run."""
