"""huggingface_hub's own cache as a source: files that are in it are read from there, without a connection too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOCK = 2**20


def _repository(name: str, kind: str = "models") -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"{kind}--{name.replace('/', '--')}")


def commit_of(name: str, revision: str | None, kind: str = "models") -> str | None:
    """Return the commit of a revision that is in the cache; None if it is not.

    Without a revision, it is that of `main`, or else the only one.
    """
    root = _repository(name, kind)
    commit = revision or "main"
    if not _COMMIT.fullmatch(commit):
        reference = root / "refs" / commit
        if reference.resolve().is_relative_to(root.resolve()) and reference.is_file():
            commit = reference.read_text(encoding="utf-8", errors="replace").strip()
        elif revision is None and (root / "snapshots").is_dir():
            commits = [path.name for path in (root / "snapshots").iterdir()]
            commit = commits[0] if len(commits) == 1 else ""
    return commit if _COMMIT.fullmatch(commit) and (root / "snapshots" / commit).is_dir() else None


def data_set(name: str, revision: str | None) -> Path | None:
    """Return the folder of a data set's revision that is in the cache; None if it is not."""
    commit = commit_of(name, revision, "datasets")
    return None if commit is None else _repository(name, "datasets") / "snapshots" / commit


def files_of(name: str, commit: str) -> dict[str, tuple[int, str]]:
    """Return size and digest of each file of a cached commit by name; the digest is the name of its blob."""
    found = {}
    for path in sorted((_repository(name) / "snapshots" / commit).iterdir()):
        blob = path.resolve()
        if blob.is_file() and blob.parent == (_repository(name) / "blobs").resolve():
            found[path.name] = (blob.stat().st_size, blob.name)
    return found


def read(name: str, commit: str, file: str, size: int, start: int, end: int) -> Iterator[bytes] | None:
    """Return the bytes from `start` to `end` of a cached file in pieces; None if it is not in the cache or not whole.

    The caller verifies the digest.
    """
    path = (_repository(name) / "snapshots" / commit / file).resolve()
    if (
        path.parent != (_repository(name) / "blobs").resolve()
        or not path.is_file()
        or path.stat().st_size != size
    ):
        return None
    return _pieces(path, start, end)


def _pieces(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as content:
        content.seek(start)
        while start < end and (block := content.read(min(_BLOCK, end - start))):
            start += len(block)
            yield block
