"""Paths that the web app accepts: below its roots, through no link, in no hidden or kernel folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.checkpoints.safe_files import list_files, open_regular, refuse_system_path
from registry.domains.embedding import load_embedding
from registry.domains.reading import read_documents
from registry.errors import InvalidInputError, UnsafeFileError
from ui.queue.roots import Roots


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """A folder to read from, which contains a hidden folder, and a folder to write to."""
    for name in ("in/.ssh", "in/texts", "out", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    return Roots(imports=(tmp_path / "in",), exports=(tmp_path / "out",))


def test_a_path_below_a_root_is_accepted_whether_it_exists_or_not(roots: Roots, tmp_path: Path) -> None:
    roots.check_import(tmp_path / "in")
    roots.check_import(tmp_path / "in" / "texts" / "law.jsonl")
    roots.check_import(tmp_path / "out" / ".." / "in" / "texts")
    roots.check_export(tmp_path / "out" / "new")


@pytest.mark.parametrize(
    "path", ["elsewhere", "in/../elsewhere", "in2", ".", "in/.ssh/id", "in/.netrc", "out"]
)
def test_a_path_outside_the_roots_or_hidden_is_refused_with_the_remedy(
    roots: Roots, tmp_path: Path, path: str
) -> None:
    with pytest.raises(InvalidInputError, match="--import-root"):
        roots.check_import(tmp_path / path)


def test_a_link_is_followed_before_it_is_judged(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "kernel").symlink_to("/proc/self")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in" / "loop")
    for name in ("link", "link/file", "kernel/environ"):
        with pytest.raises(InvalidInputError):
            roots.check_import(tmp_path / "in" / name)
    with pytest.raises(InvalidInputError):
        roots.check_export(tmp_path / "out" / "link" / "new")
    with pytest.raises(InvalidInputError):
        Roots(imports=(tmp_path / "elsewhere",)).check_import(tmp_path / "in" / "loop")


def test_a_root_inside_a_hidden_folder_is_meant(tmp_path: Path) -> None:
    Roots(imports=(tmp_path / ".cache" / "hub",)).check_import(tmp_path / ".cache" / "hub" / "model")


def test_without_roots_there_is_no_path_at_all_but_the_hub(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="--import-root"):
        Roots().check_import(tmp_path)
    with pytest.raises(InvalidInputError, match="--export-root"):
        Roots().check_export(tmp_path / "new")
    Roots().check({"source": "hf:owner/name", "embedding": None, "data": [], "mix": "team@1"})


@pytest.mark.parametrize(
    "request_",
    [
        {"source": "/etc"},
        {"embedding": "/etc/law.json"},
        {"data": ["/etc/passwd"]},
        {"held_out": ["/etc/passwd"]},
        {"out": "/etc/new"},
        {"source": "in\0"},
    ],
)
def test_every_path_of_a_request_is_checked(roots: Roots, request_: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        roots.check(request_)


@pytest.mark.parametrize(
    "path",
    ["/proc/self/environ", "/sys/kernel", "/dev/shm/x", "/tmp/../proc/self/environ", "/proc/./self/root/etc"],
)
def test_the_kernels_files_are_refused_even_below_a_root(path: str) -> None:
    with pytest.raises(UnsafeFileError, match="a system folder that is never read"):
        refuse_system_path(Path(path))
    with pytest.raises(UnsafeFileError):
        Roots(imports=(Path("/"),)).check_import(path)


def test_no_reader_of_the_registry_takes_the_kernels_files(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/proc/self/environ")
    folder = tmp_path / "folder"
    folder.symlink_to("/proc/self")
    for path in (Path("/proc/self/environ"), link, folder / "environ"):
        with pytest.raises(UnsafeFileError, match="a system folder that"):
            list(read_documents([path]))
        with pytest.raises(UnsafeFileError, match="a system folder that"):
            load_embedding(path)
        with pytest.raises(UnsafeFileError, match="a system folder that"):
            open_regular(path)
    for path in (Path("/proc/self"), folder):
        with pytest.raises(UnsafeFileError, match="a system folder that"):
            list_files(path)
