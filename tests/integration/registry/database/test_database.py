"""Databases: migrations, concurrent starts, newer and damaged databases, transactions, settings."""

from __future__ import annotations

from pathlib import Path

import publishing
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select, text

from registry.database.engine import create_engine, current_revision, migrate
from registry.database.schema import REVISION, Base, Blob, Seed
from registry.errors import ConflictError, InvalidInputError, StorageError
from registry.home import DEFAULT_EMBEDDER, Registry, open_registry

DIGEST = "sha256:" + "0" * 64


def test_a_new_database_gets_the_tables_of_the_schema(any_registry: Registry) -> None:
    with any_registry.engine.connect() as connection:
        assert current_revision(connection) == REVISION
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_schema_names_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "registry.database:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_migrating_again_changes_nothing(any_registry: Registry) -> None:
    publishing.add_seed(any_registry)
    migrate(any_registry.engine)
    with any_registry.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Seed)) == 1


def test_several_processes_start_at_once_on_a_new_database(database_url: str, tmp_path: Path) -> None:
    imports = (
        "from pathlib import Path\n"
        "from registry.home import open_registry\n"
        "from registry.catalog.queries import list_seeds"
    )
    body = "print(list_seeds(open_registry(Path(sys.argv[1]), database_url=sys.argv[2])))"
    assert publishing.race(imports, body, 4, str(tmp_path / "home"), database_url) == ["[]"] * 4


def test_a_database_newer_than_the_code_is_refused_and_left_alone(any_registry: Registry) -> None:
    with any_registry.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match=r"9999.*upgrade nexusmix"):
        migrate(any_registry.engine)
    with any_registry.engine.connect() as connection:
        assert current_revision(connection) == "9999"


def test_a_migration_that_fails_leaves_no_half_made_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(database_url)
    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            migrate(engine)
    assert inspect(engine).get_table_names() == []
    migrate(engine)
    assert inspect(engine).has_table("experts")
    engine.dispose()


def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_registry(tmp_path)


def test_an_unreachable_server_is_a_storage_error_that_hides_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError) as caught:
        open_registry(tmp_path, database_url=f"postgresql://me:secret@/none?host={tmp_path}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "oracle+none://x", "sqlite+none:///x"])
def test_a_database_url_that_cannot_be_used_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInputError, match="sqlite:///FILE"):
        open_registry(tmp_path, database_url=url)


def test_a_session_commits_at_its_end_and_rolls_back_on_an_exception(any_registry: Registry) -> None:
    with pytest.raises(RuntimeError), any_registry.session() as session:
        session.add(Blob(digest=DIGEST, size=1))
        session.flush()
        raise RuntimeError
    with any_registry.session() as session:
        assert session.get(Blob, DIGEST) is None
        session.add(Blob(digest=DIGEST, size=2**40))
    with any_registry.session(read_only=True) as session:
        blob = session.get_one(Blob, DIGEST)
        assert blob.size == 2**40
        assert blob.created_at.utcoffset() is not None


def test_a_row_that_exists_is_a_conflict_and_broken_sql_a_storage_error(any_registry: Registry) -> None:
    with any_registry.session() as session:
        session.add(Blob(digest=DIGEST, size=1))
    with pytest.raises(ConflictError), any_registry.session() as session:
        session.add(Blob(digest=DIGEST, size=1))
    with pytest.raises(StorageError, match="nothing was changed"), any_registry.session() as session:
        session.execute(text("SELECT * FROM no_such_table"))


def test_a_reader_does_not_wait_for_a_writer(any_registry: Registry) -> None:
    with any_registry.session() as writer:
        writer.add(Blob(digest=DIGEST, size=1))
        writer.flush()
        with any_registry.session(read_only=True) as reader:
            assert reader.get(Blob, DIGEST) is None


def test_sqlite_keeps_foreign_keys_and_a_write_ahead_log(registry: Registry) -> None:
    with registry.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 120_000


def test_the_argument_beats_the_environment_beats_the_file_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "with space ? and 100%"
    monkeypatch.setenv("NEXUSMIX_HOME", str(home))
    opened = open_registry()
    assert (opened.home, opened.embedder) == (home, DEFAULT_EMBEDDER)
    assert (home / "registry.db").exists()
    (home / "config.toml").write_text(f'embedder = "file"\nstore_url = "{(tmp_path / "store").as_uri()}"\n')
    opened = open_registry()
    assert opened.embedder == "file"
    opened.blobs.put_bytes(b"x")
    assert (tmp_path / "store" / "sha256").is_dir()
    monkeypatch.setenv("NEXUSMIX_EMBEDDER", "environment")
    assert open_registry().embedder == "environment"
    assert open_registry(embedder="argument").embedder == "argument"


@pytest.mark.parametrize(
    "content", ["embeder = 'typo'", "embedder = 3", "= not toml", 'store_url = "file://elsewhere/blobs"']
)
def test_a_wrong_setting_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.toml").write_text(content)
    with pytest.raises(InvalidInputError):
        open_registry(tmp_path)


def test_a_home_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot create the home"):
        open_registry(tmp_path / "file" / "home")
