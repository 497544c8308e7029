"""Safe reading of untrusted files: regular files only, strict JSON, and escaped names in messages."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from registry.errors import NotFoundError, UnsafeFileError

MAX_DEPTH = 20  # levels of a configuration
SYSTEM_FOLDERS = (Path("/proc"), Path("/sys"), Path("/dev"))


def printable(name: object, limit: int = 80) -> str:
    """Return an untrusted value as safe text: quoted, escaped to ASCII, at most `limit` characters."""
    try:
        text = ascii(name)
    except (
        RecursionError,
        ValueError,
    ):  # a list nested too deeply; an int with more digits than Python converts
        text = f"a {type(name).__name__} too large to show"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def refuse_system_path(path: Path) -> None:
    """Refuse the kernel's virtual files, such as an environment in /proc. Raises UnsafeFileError."""
    absolute = Path(os.path.normpath(path.absolute()))
    for place in (absolute, Path(os.path.realpath(path))):
        for folder in SYSTEM_FOLDERS:
            if place.is_relative_to(folder):
                raise UnsafeFileError(
                    f"{printable(str(path))} is in {folder}, a system folder that is never read: "
                    "copy the files to another folder"
                )


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a FIFO or device is refused without blocking on it.

    Raises NotFoundError, UnsafeFileError (also for a path in /proc, /sys or /dev).
    """
    refuse_system_path(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise UnsafeFileError(f"{path}: cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafeFileError(f"{path}: expected a regular file, got a device, FIFO or folder")
    return os.fdopen(descriptor, "rb")


def parse_json(text: bytes, source: str) -> Any:
    """Parse JSON strictly: UTF-8, no duplicate key at any level, no NaN. Raises UnsafeFileError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise UnsafeFileError(f"{source}: the key {printable(key)} occurs twice")
            result[key] = value
        return result

    def refuse(constant: str) -> NoReturn:
        raise UnsafeFileError(f"{source}: {constant} is not JSON")

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UnsafeFileError(f"{source}: not valid JSON: {printable(str(error))}") from error


def refuse_unwritable(value: Any, source: str) -> None:
    """Refuse valid JSON that cannot be stored: deep nesting, huge numbers, lone surrogates.

    Raises UnsafeFileError.
    """
    left = [(value, 0)]
    while left:
        item, depth = left.pop()
        if depth > MAX_DEPTH:
            raise UnsafeFileError(f"{source}: nested more than {MAX_DEPTH} levels deep")
        if isinstance(item, dict):
            left += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            left += [(part, depth + 1) for part in item]
        elif isinstance(item, int | float) and not abs(item) < 2**1000:
            raise UnsafeFileError(f"{source}: {printable(item, 40)} is too large a number")
        elif isinstance(item, str) and any("\ud800" <= character <= "\udfff" for character in item):
            raise UnsafeFileError(f"{source}: {printable(item)} has half of a surrogate pair")


def list_files(folder: Path) -> dict[str, Path]:
    """Return the regular files directly in a folder, by name; subfolders are ignored.

    The Hugging Face cache (`models--*/snapshots/<revision>/`) consists of links to `models--*/blobs/`. Such a
    link is followed only if its target is in its own repository's blobs.

    Raises NotFoundError, UnsafeFileError (a symlink, device, FIFO or socket; a folder in /proc, /sys or /dev).
    """
    refuse_system_path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder; expected a Hugging Face model folder")
    blobs = _cache_blobs(folder)
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        target = path
        if stat.S_ISLNK(mode):
            target = path.resolve()
            if blobs is None or target.parent != blobs or not target.is_file():
                raise UnsafeFileError(
                    f"{folder}: {printable(path.name)} is a symlink; expected regular files only"
                )
        elif not stat.S_ISREG(mode):
            raise UnsafeFileError(f"{folder}: {printable(path.name)} is a device, FIFO or socket, not a file")
        files[path.name] = target
    return files


def is_cached_by_hub(link: Path) -> bool:
    """Return whether a link is one of the Hugging Face cache: from a snapshot of a data set to its own blobs."""
    parts = link.absolute().parts
    places = [place for place, part in enumerate(parts) if part.startswith("datasets--")]
    if not places or parts[places[-1] + 1 : places[-1] + 2] != ("snapshots",):
        return False
    repository = Path(*parts[: places[-1] + 1]).resolve()
    return link.resolve().parent == repository / "blobs" and link.resolve().is_file()


def _cache_blobs(folder: Path) -> Path | None:
    """Return the blobs folder of a Hugging Face cache snapshot; None for any other folder."""
    snapshot = folder.resolve()
    repository = snapshot.parent.parent
    if snapshot.parent.name == "snapshots" and repository.name.startswith("models--"):
        return repository / "blobs"
    return None
