"""Shared fixtures: pico builders on the import path, no network, a registry in a temporary home."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Set before any import of torch or a Hugging Face library: tests use no network and few cores.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from registry.home import Registry

import pico

gc.set_threshold(50_000)  # as in nexusmix/__main__.py


@pytest.fixture(autouse=True)
def _own_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Isolate tests from the user's registry, independent of the environment; pages see test files only."""
    for name in ("NEXUSMIX_DATABASE_URL", "NEXUSMIX_STORE_URL", "NEXUSMIX_EMBEDDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEXUSMIX_HOME", str(tmp_path / "home"))
    for name in ("NEXUSMIX_IMPORT_ROOTS", "NEXUSMIX_EXPORT_ROOTS"):
        monkeypatch.setenv(name, str(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Let `os.fsync` only check its descriptor: what a test writes need not survive a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """Exclude the imported libraries from garbage collections: each training run requests several full ones."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database that `registry` copies, so that the migrations run once."""
    from registry.home import open_registry

    opened = open_registry(tmp_path_factory.mktemp("empty") / "home", embedder="hashing:16")
    opened.engine.dispose()
    return opened.home / "registry.db"


@pytest.fixture
def registry(empty_database: Path, tmp_path: Path) -> Iterator[Registry]:
    """An empty registry in a temporary home, with the offline hashing embedder of dimension 16."""
    from registry.home import open_registry

    (tmp_path / "home").mkdir()
    shutil.copyfile(empty_database, tmp_path / "home" / "registry.db")
    opened = open_registry(tmp_path / "home", embedder="hashing:16")
    yield opened
    opened.engine.dispose()


@pytest.fixture(scope="session")
def pico_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico Llama seed folder; read-only."""
    return pico.write_pico(tmp_path_factory.mktemp("pico") / "seed")


@pytest.fixture(scope="session")
def pico_expert(pico_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert of `pico_seed` with every weight changed; read-only."""
    return pico.branch_pico(pico_seed, tmp_path_factory.mktemp("pico") / "expert", seed=1)


@pytest.fixture(scope="session")
def pico_anchored(pico_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert of `pico_seed` with only its FFNs changed; read-only."""
    return pico.branch_pico(pico_seed, tmp_path_factory.mktemp("pico") / "anchored", seed=2, roles="ffn")
