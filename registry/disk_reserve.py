"""A little room on the disk of the home, given up to whatever frees more: SQLite opens nothing on a full disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# For SQLite's shared memory and the log of a transaction that deletes some thousand rows.
BYTES = 2**20


def keep(home: Path) -> None:
    """Take the room, if it is there."""
    reserve = home / "reserve"
    if reserve.exists():
        return
    try:
        reserve.write_bytes(os.urandom(BYTES))  # what a file system cannot compress
    except OSError:
        with contextlib.suppress(OSError):
            reserve.unlink(missing_ok=True)


def spend(home: Path) -> None:
    """Give the room up."""
    with contextlib.suppress(OSError):
        (home / "reserve").unlink(missing_ok=True)
