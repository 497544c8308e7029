"""Data sets of the Hugging Face Hub, `hf:owner/name[@revision][:folder]`, in huggingface_hub's own cache.

The library downloads with its cache, Xet and resume. The digest of every file is checked here. Without a connection, a
revision that is in the cache is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from registry import hub_cache
from registry.errors import HubError, IntegrityError, InvalidInputError, NotFoundError
from registry.hub_errors import PREFIX, Again, mapped

_SOURCE = re.compile(
    r"hf:(?P<name>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w./-]+))?(?::(?P<folder>[^:]+))?"
)
_BLOCK = 2**20


def folder_of(source: str, is_text: Callable[[str], bool]) -> Path:
    """Download the files of a data set for which `is_text` is true of their name, and return their folder.

    Raises InvalidInputError, NotFoundError (no such data set or no text in it), HubError, IntegrityError.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise InvalidInputError(
            f"{source[:200]!a}: expected {PREFIX}owner/name, with @revision or :folder after it"
        )
    from huggingface_hub import HfApi, snapshot_download

    name, revision, folder = match["name"], match["revision"], (match["folder"] or "").strip("/")
    inside = f"{folder}/*" if folder else "*"
    try:
        with mapped(source, "data set"):
            info = HfApi().dataset_info(name, revision=revision, files_metadata=True)
            listed = {each.rfilename: each for each in info.siblings or ()}
            wanted = [file for file in listed if is_text(file) and (file == folder or fnmatch(file, inside))]
            if not wanted:
                raise NotFoundError(
                    f"{source}: no text in its {len(listed)} files; expected JSON lines, Parquet, CSV or text files"
                )
            root = Path(
                snapshot_download(
                    name, repo_type="dataset", revision=info.sha, allow_patterns=_escaped(wanted)
                )
            )
    except (Again, HubError) as error:
        cached = hub_cache.data_set(name, revision)
        if cached is not None and (cached / folder).exists():
            return cached / folder
        if isinstance(error, HubError):
            raise
        raise HubError(
            f"{source}: the hub does not answer ({error}), and its cache has no copy: try again later"
        ) from error
    for file in wanted:
        given = listed[file]
        digest = given.lfs.sha256 if given.lfs is not None else given.blob_id
        if digest and _digest(root / file, len(digest)) != digest:
            raise IntegrityError(
                f"{source}: {file} in {root} does not match the hub's digest {digest[:12]}…: delete it and run again"
            )
    return root / folder


def _escaped(names: list[str]) -> list[str]:
    """Return patterns that match exactly these names."""
    return [re.sub(r"([*?\[])", r"[\1]", name) for name in names]


def _digest(path: Path, digits: int) -> str:
    """Return a file's sha256, or its git blob id for a digest of 40 digits."""
    state = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if digits == 40 else hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
