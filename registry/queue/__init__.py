"""The queue of long work: the side of its users and the side of its workers."""
