"""The queue of long-running jobs: functions for its users and for its workers."""
