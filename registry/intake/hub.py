"""The Hugging Face Hub as a source: download one pinned revision's configuration, tokenizer and weights.

Every downloaded file is checked by its digest. Requests send the token that huggingface_hub finds (HF_TOKEN, or a
login) only to the hub's own host.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from registry import hub_cache
from registry.checkpoints.canonical import Progress
from registry.checkpoints.preflight import ADAPTER_CONFIG, SMALL_FILES
from registry.checkpoints.safe_files import printable
from registry.checkpoints.tensors import CONVERT, DEFAULT_LIMITS, weight_files
from registry.errors import HubError, IntegrityError, InvalidInputError, StorageError, UnsafeFileError
from registry.hub_errors import PREFIX, Again, mapped
from registry.hub_errors import is_hub as is_hub

ATTEMPTS = 5  # consecutive attempts without a new byte
FIRST_WAIT_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0
# Size of the first request for a header: most headers are shorter.
HEADER_BYTES = 2**17
_CHUNK_BYTES = 2**20
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
Result = TypeVar("Result")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size in bytes, and its digest: sha256 (large files) or git's sha1 (small ones)."""

    name: str
    size: int
    digest: str

    @property
    def is_weights(self) -> bool:
        """Whether the file is a safetensors file."""
        return self.name.endswith(".safetensors")


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, and the files that we read from it."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}@{self.commit}"


def look_up(source: str) -> Snapshot:
    """Return the snapshot of `hf:owner/name[@revision]`; without a revision, the newest commit.

    Raises InvalidInputError, NotFoundError (no such repository or revision, or no access), UnsafeFileError (no
    safetensors), HubError.
    """
    repository, _, revision = source.removeprefix(PREFIX).partition("@")
    check_repository(repository, f"{source!a}: expected {PREFIX}owner/name or {PREFIX}owner/name@revision")
    try:
        info = _ask(repository, revision or None)
    except HubError:
        commit = hub_cache.commit_of(repository, revision or None)
        if commit is None:
            raise
        return _cached(repository, commit)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise HubError(f"the hub returned {printable(info.sha)} for {PREFIX}{repository}, expected a commit")
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    chosen = _chosen(f"{PREFIX}{repository}", list(siblings))
    return Snapshot(repository, info.sha, tuple(_remote_file(siblings[name]) for name in chosen))


def check_repository(name: str, refusal: str) -> None:
    """Raise InvalidInputError with this message unless the name is owner/name."""
    if not _REPOSITORY.fullmatch(name):
        raise InvalidInputError(refusal)


def _cached(repository: str, commit: str) -> Snapshot:
    """Return the snapshot of a commit in the library's cache. Raises UnsafeFileError."""
    files = hub_cache.files_of(repository, commit)
    chosen = _chosen(f"{PREFIX}{repository}", list(files))
    return Snapshot(repository, commit, tuple(RemoteFile(name, *files[name]) for name in chosen))


def download(snapshot: Snapshot, folder: Path, progress: Progress | None = None) -> None:
    """Download every file of a snapshot into a folder, through huggingface_hub and its cache.

    Files in the cache or in the folder are not downloaded again. A file gets its final name only when its digest is
    right. Raises HubError, IntegrityError, NotFoundError.
    """
    total = sum(file.size for file in snapshot.files)
    done = 0
    for file in sorted(snapshot.files, key=lambda file: (file.is_weights, file.name)):
        target = folder / file.name
        if not target.exists():

            def report(received: int, before: int = done, size: int = file.size) -> None:
                if progress is not None:
                    progress("downloading", before + min(received, size), total)

            _fetch(snapshot, file, target, report)
            report(file.size)
        done += file.size


def download_headers(snapshot: Snapshot, folder: Path) -> None:
    """Download the small files and the headers of the weights; weight files are sparse after the header.

    Preflight reads nothing else, so the cost does not depend on the model's size. Raises the same errors as
    `download`.
    """
    small = tuple(file for file in snapshot.files if not file.is_weights)
    download(Snapshot(snapshot.repository, snapshot.commit, small), folder)
    for file in snapshot.files:
        if file.is_weights:
            start = b"".join(_stream(snapshot, file, 0, min(HEADER_BYTES, file.size)))
            length = 8 + (struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0)
            if len(start) < length <= min(file.size, 8 + DEFAULT_LIMITS.header_bytes):
                start += b"".join(_stream(snapshot, file, len(start), length))
            with (folder / file.name).open("wb") as shell:
                shell.write(start[:length])
                shell.truncate(file.size)


def _chosen(source: str, names: list[str]) -> list[str]:
    """Return the files of a repository that a checkpoint needs. Raises UnsafeFileError without safetensors."""
    flat = [name for name in names if "/" not in name and "\\" not in name]
    small = [name for name in flat if name in SMALL_FILES or name == ADAPTER_CONFIG]
    weights = weight_files(flat)
    if not any(name.endswith(".safetensors") for name in weights):
        pickles = sorted(name for name in flat if name.endswith(_PICKLES))
        got = f"{printable(pickles[0])}, a pickle by its name, which is never opened" if pickles else "none"
        raise UnsafeFileError(f"{source}: expected safetensors, got {got}; {CONVERT}")
    return [*small, *weights]


def _remote_file(sibling: Any) -> RemoteFile:
    limit = SMALL_FILES.get(sibling.rfilename)
    digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
    if not isinstance(sibling.size, int) or not isinstance(digest, str) or sibling.size < 0:
        raise HubError(f"the hub returned no size or no digest for {printable(sibling.rfilename)}")
    if limit is not None and sibling.size > limit:
        raise UnsafeFileError(f"{sibling.rfilename}: more than {limit} bytes")
    return RemoteFile(sibling.rfilename, sibling.size, digest)


def _fetch(snapshot: Snapshot, file: RemoteFile, target: Path, report: Callable[[int], None]) -> None:
    """Download a file through the library's cache; a cached file with another digest is downloaded once more."""
    partial = target.with_name(f"{target.name}.part")
    for is_second in (False, True):
        cached = _through_library(snapshot, file, report, is_second)
        partial.unlink(missing_ok=True)
        _link(cached, partial)
        if _digest(partial, file) == file.digest:
            partial.replace(target)
            return
        partial.unlink()
        cached.unlink()
    raise IntegrityError(
        f"{snapshot}: the downloaded {file.name} does not match the hub's digest {file.digest[:12]}…: try again"
    )


def _through_library(
    snapshot: Snapshot, file: RemoteFile, report: Callable[[int], None], force: bool
) -> Path:
    """Return the path of a file in huggingface_hub's cache, where it is downloaded if it is missing.

    The library uses Xet where the repository does, and continues after a broken connection.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    def download_it() -> str:
        try:
            return hf_hub_download(
                snapshot.repository,
                file.name,
                revision=snapshot.commit,
                force_download=force,
                tqdm_class=_reporting(report),
            )
        except errors.LocalEntryNotFoundError as error:
            reason = error.__cause__ or error  # why the hub could not be asked
        except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled):
            raise
        except OSError as error:
            reason = error
        if isinstance(reason, OSError) and reason.errno is not None:
            raise StorageError(
                f"{snapshot}: {file.name} cannot be written to {constants.HF_HUB_CACHE}: {reason.strerror}; "
                "make room there, or name another folder in HF_HUB_CACHE"
            ) from reason
        if type(reason) is OSError or isinstance(reason, errors.FileMetadataError):
            raise Again(
                printable(str(reason))
            ) from reason  # too few bytes, or an answer that is not the hub's
        raise reason

    return Path(
        retried(f"{snapshot}: {file.name}", download_it, attempts=2)
    ).resolve()  # the library retries too


def _reporting(report: Callable[[int], None]) -> Any:
    """Return a class of progress bars that print nothing and report the number of bytes received so far."""
    from huggingface_hub.utils import tqdm

    class Reporting(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.received = int(options.get("initial") or 0)
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.received += int(n or 0)
            report(self.received)

    return Reporting


def _link(cached: Path, target: Path) -> None:
    """Give a cached file another name, or copy it to another disk."""
    try:
        os.link(cached, target)
    except OSError:
        shutil.copyfile(cached, target)


def _digest(path: Path, file: RemoteFile) -> str:
    """Return the file's sha256 or git blob id (sha1 over a header and the content), as the hub gives it."""
    is_git = len(file.digest) == 40
    state = hashlib.sha1(b"blob %d\0" % file.size) if is_git else hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(_CHUNK_BYTES):
            state.update(block)
    return state.hexdigest()


def _stream(snapshot: Snapshot, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from `start` to `end`: from the library's cache, or with as many requests as needed.

    Raises HubError after ATTEMPTS consecutive requests without a new byte.
    """
    cached = hub_cache.read(snapshot.repository, snapshot.commit, file.name, file.size, start, end)
    if cached is not None:
        yield from cached
        return
    failures = 0
    while start < end:
        reason, wait = "the connection closed early", None
        try:
            with _response(snapshot, file, start, end) as response:
                for chunk in _body(response, start, end):
                    failures, start = 0, start + len(chunk)
                    yield chunk
        except Again as again:
            reason, wait = str(again), again.wait
        if start < end:
            failures += 1
            if failures == ATTEMPTS:
                raise HubError(f"{snapshot}: {file.name} could not be downloaded: {reason}; try again later")
            _wait(wait if wait is not None else FIRST_WAIT_SECONDS * 2 ** (failures - 1))


def _body(response: Any, start: int, end: int) -> Iterator[bytes]:
    """Yield at most the bytes from `start` to `end` of a response; a server may ignore the range."""
    skip = start if response.status_code == 200 else 0
    left = end - start
    for chunk in response.iter_bytes(_CHUNK_BYTES):
        wanted = chunk[skip : skip + left]
        skip = max(0, skip - len(chunk))
        left -= len(wanted)
        if wanted:
            yield wanted
        if not left:
            return


@contextmanager
def _response(snapshot: Snapshot, file: RemoteFile, start: int, end: int) -> Iterator[Any]:
    """Open a response for a part of a file. A redirect to another host is followed without the token."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    url = hf_hub_url(snapshot.repository, file.name, revision=snapshot.commit)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    with (
        mapped(str(snapshot)),
        get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response,
    ):
        _require_success(response)
        yield response


def _ask(repository: str, revision: str | None) -> Any:
    """Request the repository's files with their digests."""
    from huggingface_hub import HfApi

    return retried(
        f"{PREFIX}{repository}" + (f"@{revision}" if revision else ""),
        lambda: HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
        ),
    )


def retried(source: str, work: Callable[[], Result], *, attempts: int = ATTEMPTS) -> Result:
    """Return the result of a request to the hub; temporary failures are retried. Raises HubError, NotFoundError."""
    for failures in range(1, attempts + 1):
        try:
            with mapped(source):
                return work()
        except Again as again:
            if failures == attempts:
                raise HubError(f"{source}: the hub does not answer: {again}; try again later") from again
            _wait(again.wait if again.wait is not None else FIRST_WAIT_SECONDS * 2 ** (failures - 1))
    raise AssertionError("the last attempt returns or raises")


def _require_success(response: Any) -> None:
    from huggingface_hub.utils import hf_raise_for_status

    if response.status_code >= 400:
        response.read()  # the body contains the hub's error message
    hf_raise_for_status(response)


def _wait(seconds: float) -> None:
    time.sleep(seconds)
