"""Disk reserve: a small file in the home, deleted before operations that free space.

SQLite cannot open a database on a full disk.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Enough for SQLite's shared memory and the log of a transaction that deletes some thousand rows.
BYTES = 2**20


def keep(home: Path) -> None:
    """Create the reserve file if the disk has room for it."""
    reserve = home / "reserve"
    if reserve.exists():
        return
    try:
        reserve.write_bytes(os.urandom(BYTES))  # a file system cannot compress random bytes
    except OSError:
        with contextlib.suppress(OSError):
            reserve.unlink(missing_ok=True)


def spend(home: Path) -> None:
    """Delete the reserve file."""
    with contextlib.suppress(OSError):
        (home / "reserve").unlink(missing_ok=True)
