"""A full disk: contributing and composing with a fine-tune fail cleanly, and work once there is space."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pico
import publishing
import pytest
from typer.testing import CliRunner

from composer.composition import compose
from composer.errors import ComposerError
from composer.mix.recipe import Recipe
from registry.blobs import LocalBlobStore
from registry.catalog import queries
from registry.errors import RegistryError, StorageError
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute
from ui.cli import app

DISK_BYTES = 16 * 2**20
TRAINING = {"tokens": 2_048, "sequence_length": 64, "batch_tokens": 512, "warm_start": False}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small separate disk, if this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command on this machine: a full disk was not tried")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here, so a full one was not tried: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def registry(disk: Path, pico_seed: Path, pico_expert: Path, tmp_path: Path) -> Iterator[Registry]:
    """A registry on that disk, with a seed and the expert `code`."""
    opened = open_registry(disk / "home", embedder="hashing:16")
    add_seed(opened, "pico", pico_seed, license="Apache-2.0")
    add(opened, "code", pico_expert, tmp_path)
    yield opened
    opened.engine.dispose()


def add(registry: Registry, name: str, source: Path, texts: Path) -> None:
    data = [pico.write_documents(texts / f"{name}.jsonl", name)]
    contribute(registry, name, source, seed="pico", license="MIT", data=data)


def fill(disk: Path, left: int) -> Path:
    """Fill the disk except for `left` bytes; return the file that fills it."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb") as file:
        file.write(bytes(max(0, free - left)))
    return ballast


@pytest.mark.parametrize("left", [0, 64_000, 128_000])
@pytest.mark.parametrize("work", ["contribute", "compose"])
def test_a_full_disk_keeps_existing_data_and_work_resumes_once_there_is_space(
    registry: Registry, disk: Path, pico_anchored: Path, tmp_path: Path, work: str, left: int
) -> None:
    recipe = Recipe.parse(
        {"name": "team", "seed": "pico", "experts": ["code"], "trunk_merge": "regmean", "training": TRAINING}
    )
    do: dict[str, Callable[[], object]] = {
        "contribute": lambda: add(registry, "law", pico_anchored, tmp_path),
        "compose": lambda: compose(registry, recipe),
    }
    store = registry.blobs
    assert isinstance(store, LocalBlobStore)
    ballast = fill(disk, left)
    with pytest.raises((RegistryError, ComposerError, OSError)):
        do[work]()
    assert [expert.ref for expert in queries.list_experts(registry)] == ["code@1"]
    assert queries.list_mixes(registry) == []
    assert queries.verify(registry) == []
    assert not list((store.root / "tmp").glob("*.part"))

    ballast.unlink()
    do[work]()
    assert queries.verify(registry) == []
    assert len(queries.list_experts(registry)) + len(queries.list_mixes(registry)) == 2


def test_a_mix_is_deleted_and_garbage_collected_without_a_byte_free(registry: Registry, disk: Path) -> None:
    publishing.add_mix(registry, experts=["code@1"], seed="pico")
    big = registry.blobs.put_bytes(bytes(3 * 2**20))
    registry.engine.dispose()
    fill(disk, 0)
    with pytest.raises(StorageError):
        open_registry(registry.home)
    for verb in (["delete", "blend@1"], ["gc", "--grace", "0"]):
        done = CliRunner().invoke(app, ["--home", str(registry.home), *verb])
        assert done.exit_code == 0, done.output
    opened = open_registry(registry.home)
    assert not opened.blobs.exists(big)
    assert queries.list_mixes(opened) == [] and queries.verify(opened) == []
    opened.engine.dispose()
