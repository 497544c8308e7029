"""Uploads: small files of a visitor in a private work folder of the home, from the form until their run succeeds."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from registry.errors import InvalidInputError
from registry.home import Registry
from registry.queue import runs
from registry.work_folders import work_folder
from ui.queue.roots import READ
from ui.wording.display import plural, size

PREFIX = "upload-"
MOST_BYTES = 200_000_000  # of one upload, unpacked
MOST_FILES = 200
MOST_KEPT = 2_000_000_000  # bytes of all uploads
KEPT_SECONDS = 86_400.0  # of an upload that no run needs
RUNS_SEARCHED = 500
_NAME = re.compile(r"[A-Za-z0-9_][\w.+ -]{0,150}", re.ASCII)


def keep(registry: Registry, files: Sequence[tuple[str, bytes]]) -> Path:
    """Store files, given by name and content, in a new private folder, and return the folder.

    A zip file is unpacked; its files must be in one folder. Old uploads that no run needs are removed first. Raises
    AccessError, and InvalidInputError for names or sizes that are refused.
    """
    registry.actor.require("queue run")
    contents = _unpacked(files)
    clean(registry, KEPT_SECONDS)
    new = sum(map(len, contents.values()))
    if _size(registry) + new > MOST_KEPT:
        raise InvalidInputError(
            f"the uploads that wait for their runs would exceed {size(MOST_KEPT)}: wait for a run to end, or copy the "
            "files to a folder of the registry's machine"
        )
    folder = work_folder(registry, f"{PREFIX}{uuid.uuid4().hex}")
    folder.mkdir(parents=True, mode=0o700)
    try:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def discard(registry: Registry, folder: Path) -> None:
    """Remove an upload, unless a run that has not succeeded needs it."""
    if folder.name not in _needed(registry):
        shutil.rmtree(folder, ignore_errors=True)


def discard_of(registry: Registry, request: Mapping[str, Any]) -> None:
    """Remove the uploads that a run has read; call it after the run's work."""
    for folder in _folders(registry):
        if any(Path(path).is_relative_to(folder) for path in _read_paths(request)):
            shutil.rmtree(folder, ignore_errors=True)


def clean(registry: Registry, older_than: float) -> None:
    """Remove the uploads that are older than some seconds and that no run needs."""
    limit = time.time() - older_than
    old = [folder for folder in _folders(registry) if folder.stat().st_mtime < limit]
    needed = _needed(registry) if old else set()
    for folder in old:
        if folder.name not in needed:
            shutil.rmtree(folder, ignore_errors=True)


def _unpacked(files: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    left = MOST_BYTES
    for name, content in _members(files):
        left -= len(content)
        if left < 0:
            raise InvalidInputError(f"the files have more than {size(MOST_BYTES)}: use a folder or the Hub")
        if not _NAME.fullmatch(name):
            raise InvalidInputError(f"the file name {name!a} is not allowed: use letters, digits, - and _")
        if name in contents:
            raise InvalidInputError(f"two files are named {name!a}: upload one folder's files only")
        contents[name] = content
        if len(contents) > MOST_FILES:
            raise InvalidInputError(f"more than {plural(MOST_FILES, 'file')}: use a folder or the Hub")
    if not contents:
        raise InvalidInputError("the upload contains no files")
    return contents


def _members(files: Sequence[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file; a zip file is replaced by its members, read to the limit at most."""
    for name, content in files:
        if name.lower().endswith(".zip"):
            yield from _of_zip(name, content)
        else:
            yield PurePosixPath(name).name, content


def _of_zip(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [each for each in archive.infolist() if not each.is_dir() and not _is_hidden(each)]
            folders = {str(PurePosixPath(each.filename).parent) for each in members}
            if len(folders) > 1:
                raise InvalidInputError(f"{name} has files in {len(folders)} folders: zip one folder's files")
            for each in members:
                with archive.open(each) as file:  # the size that the archive states is not trusted
                    yield PurePosixPath(each.filename).name, file.read(MOST_BYTES + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InvalidInputError(f"{name} is not a zip file that can be unpacked: {error}") from error


def _is_hidden(member: zipfile.ZipInfo) -> bool:
    """Return whether a member is hidden, or one of the folders that macOS adds."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(member.filename).parts)


def _folders(registry: Registry) -> list[Path]:
    return sorted(path for path in (registry.home / "work").glob(f"{PREFIX}*") if path.is_dir())


def _size(registry: Registry) -> int:
    return sum(
        path.stat().st_size for folder in _folders(registry) for path in folder.iterdir() if path.is_file()
    )


def _needed(registry: Registry) -> set[str]:
    """Return the names of the uploads in requests of runs that have not succeeded."""
    asked = runs.list_runs(registry, limit=RUNS_SEARCHED)
    text = json.dumps([run.request for run in asked if run.state != "succeeded"])
    return set(re.findall(rf"{PREFIX}[0-9a-f]{{32}}", text))


def _read_paths(request: Mapping[str, Any]) -> list[str]:
    values = [request.get(name) or [] for name in READ]
    return [path for value in values for path in ([value] if isinstance(value, str) else value)]
