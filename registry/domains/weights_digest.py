"""The digest of a weights file, remembered between processes: hashing 90 MB is a tenth of a search from the shell."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from pathlib import Path

from registry.blobs import CLOCK_TICK_NS, signature

_MOST = 32  # remembered files


def weights_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex. It is hashed again if its inode, size or time of change differs.

    The digests are in `nexusmix/weights.json` of the user's cache; without it, each process hashes the file.
    """
    with path.open("rb") as stream:
        stat = os.fstat(stream.fileno())
        key, mark = str(path.resolve()), [*signature(stat), stat.st_ctime_ns]
        known = _read()
        found = known.get(key)
        if isinstance(found, list) and found[1:] == mark:
            return str(found[0])
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > CLOCK_TICK_NS:
        known.pop(key, None)
        kept = dict(list(known.items())[1 - _MOST :])
        _write(kept | {key: [digest, *mark]})
    return digest


def _file() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "nexusmix" / "weights.json"


def _read() -> dict[str, object]:
    try:
        content = json.loads(_file().read_bytes())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home folder
        return {}
    return content if isinstance(content, dict) else {}


def _write(content: dict[str, object]) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{uuid.uuid4().hex}")
        try:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
