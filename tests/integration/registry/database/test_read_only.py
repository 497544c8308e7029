"""A home on a read-only disk, and the faults that `check_tables` and `find_missing` report."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from publishing import add_expert, add_mix, add_seed
from sqlalchemy import text
from typer.testing import CliRunner

from registry.catalog import queries
from registry.catalog.verification import find_missing
from registry.database.engine import check_tables, create_engine, migrate
from registry.errors import StorageError
from registry.home import Registry, open_registry
from ui.cli import app


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate disk that can be made read-only, if this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no mount command on this machine: a read-only disk was not tried")
    if done.returncode:
        pytest.skip("no disk can be mounted here, so a read-only one was not tried")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("closed", [True, False])
def test_a_read_only_home_is_listed_and_searched_but_not_written(disk: Path, closed: bool) -> None:
    home = disk / "a home%?#"
    if os.fork() == 0:  # a process that ends without closing leaves the database's log
        try:
            writer = open_registry(home, embedder="hashing:4")
            add_seed(writer)
            add_expert(writer)
            add_mix(writer, experts=["python"])
            if closed:
                writer.engine.dispose()
        finally:
            os._exit(0)
    os.wait()
    assert (home / "registry.db-wal").exists() is not closed
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with open_registry(home, embedder="hashing:4") as registry:
        assert [mix.ref for mix in queries.list_mixes(registry)] == ["blend@1"]
        assert queries.verify(registry) == []
        assert registry.blobs.read_bytes(queries.get_mix(registry, "blend").lock) == b"blend lock"
        with pytest.raises(StorageError, match="readonly"):
            queries.withdraw(registry, "python", "no reason")
    done = CliRunner().invoke(app, ["--home", str(home), "list", "--json"])
    assert done.exit_code == 0 and "python@1" in done.output


def test_an_old_database_on_a_read_only_disk_is_refused_with_the_remedy(disk: Path) -> None:
    open_registry(disk / "home").close()
    engine = create_engine(f"sqlite:///{disk / 'home' / 'registry.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StorageError, match="open it once where it can be written"):
        open_registry(disk / "home")


def test_opening_a_current_database_does_not_wait_for_a_writer(any_registry: Registry) -> None:
    with any_registry.session():
        migrate(create_engine(any_registry.engine.url))


def test_faults_of_tables_and_blobs_are_found(any_registry: Registry) -> None:
    add_seed(any_registry)
    expert = add_expert(any_registry)
    assert check_tables(any_registry.engine) == [] and find_missing(any_registry) == []
    any_registry.blobs.delete(expert.ffn)
    any_registry.blobs.path(expert.trunk).write_bytes(b"cut")
    found = {(problem.owner, problem.digest) for problem in find_missing(any_registry)}
    assert found == {("expert python@1", expert.ffn), ("expert python@1", expert.trunk)}
    with any_registry.engine.begin() as connection:
        connection.execute(text("DROP TABLE run_metrics"))
        connection.execute(text("ALTER TABLE aliases RENAME COLUMN alias TO word"))
    assert check_tables(any_registry.engine) == [
        "the column aliases.alias is missing",
        "the table run_metrics is missing",
    ]


def test_the_doctor_reports_missing_blobs_and_malformed_tables(registry: Registry) -> None:
    add_seed(registry)
    expert = add_expert(registry)
    registry.blobs.delete(expert.ffn)
    with registry.engine.begin() as connection:
        connection.execute(text("DROP TABLE aliases"))
    done = CliRunner().invoke(app, ["--home", str(registry.home), "doctor", "--json"])
    assert done.exit_code == 1
    assert expert.ffn in done.output and "the table aliases is missing" in done.output
