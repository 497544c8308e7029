"""The database: engines for SQLite and PostgreSQL, migrations, and the writers' lock."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from registry.database.schema import REVISION, Base
from registry.errors import ConflictError, InvalidInputError, StorageError

BUSY_SECONDS = 120.0  # SQLite's queue of writers is not fair: on a busy machine some wait long
# An arbitrary constant that every process shares: "nexus" in ASCII.
_WRITER_LOCK = 0x6E65787573


def create_engine(url: str | URL) -> Engine:
    """Return an engine for a SQLite or PostgreSQL `url`; it connects on first use.

    In SQLite each transaction starts with BEGIN IMMEDIATE. Concurrent writers then wait (up to BUSY_SECONDS)
    instead of failing at their first write. With the execution option `read_only` it is a plain BEGIN, which
    does not wait. Raises InvalidInputError for a URL that cannot be used.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _create_sqlite_engine(parsed)
        if parsed.get_backend_name() == "postgresql":
            return sqlalchemy.create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise InvalidInputError(
            f"the database URL cannot be read ({error}): write sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from error
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"the database driver {error.name} is not installed: pip install 'nexusmix[postgres]'"
        ) from error
    raise InvalidInputError(
        f"the database {parsed.get_backend_name()!a} is not supported: write sqlite:///FILE or "
        "postgresql://USER@HOST/NAME"
    )


def migrate(engine: Engine) -> None:
    """Upgrade the database to this code's schema; if several processes start at once, one of them migrates.

    Raises StorageError if the database is newer than the code, unreachable or damaged.
    """
    if _is_current(engine):
        return  # no lock: a reader does not wait for a writer, and a read-only home can be read
    if _is_read_only(engine.url):
        raise StorageError(
            f"the database {engine.url.database} is of another version of nexusmix and its folder is read-only, so it "
            "cannot be migrated: open it once where it can be written"
        )
    with mapped_errors(engine), _sqlite_file_lock(engine.url):
        if engine.dialect.name == "sqlite":
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # the file keeps this mode
        with engine.begin() as connection:
            lock_writers(connection)
            if current_revision(connection) != REVISION:
                _upgrade(connection)


def check_tables(engine: Engine) -> list[str]:
    """Return the faults of the database: damaged pages (SQLite), and tables or columns that are missing."""
    faults = []
    with mapped_errors(engine), engine.connect().execution_options(read_only=True) as connection:
        if engine.dialect.name == "sqlite":
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(5)")]
            faults += [] if found == ["ok"] else found
        inspector = sqlalchemy.inspect(connection)
        present = set(inspector.get_table_names())
        for table in Base.metadata.tables.values():
            if table.name not in present:
                faults.append(f"the table {table.name} is missing")
                continue
            columns = {column["name"] for column in inspector.get_columns(table.name)}
            faults += [
                f"the column {table.name}.{c.name} is missing" for c in table.columns if c.name not in columns
            ]
    return faults


def _is_current(engine: Engine) -> bool:
    """Return whether the database has this code's schema, without a lock and without creating a file."""
    if engine.dialect.name == "sqlite" and not _is_wal(engine.url):
        return False  # also a new file: while another process has it open, it cannot be switched to WAL
    with mapped_errors(engine), engine.connect().execution_options(read_only=True) as connection:
        return current_revision(connection) == REVISION


def _is_wal(url: URL) -> bool:
    """Return whether the file of a SQLite database exists and its header names the write-ahead log."""
    try:
        with Path(url.database or "").open("rb") as file:
            return file.read(20)[18:] == b"\2\2"
    except OSError:
        return False


def _is_read_only(url: URL) -> bool:
    """Return whether a SQLite database exists in a folder that this process may not write."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return False
    path = Path(url.database)
    return path.exists() and not os.access(path.parent, os.W_OK)


def current_revision(connection: Connection) -> str | None:
    """Return the revision recorded in the database; None for a new one."""
    if not sqlalchemy.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(sqlalchemy.text("SELECT version_num FROM alembic_version"))
    return revision


def lock_writers(connection: Connection | Session) -> None:
    """Acquire the writers' lock until the transaction ends; waits while another transaction holds it.

    Publishing and garbage collection acquire it. So versions are assigned one at a time, and no blob is removed
    while a row that refers to it is being written. In SQLite, BEGIN IMMEDIATE already gives this guarantee.
    """
    bind = connection.get_bind() if isinstance(connection, Session) else connection
    if bind.dialect.name == "postgresql":
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})


@contextmanager
def mapped_errors(engine: Engine) -> Iterator[None]:
    """Convert SQLAlchemy's exceptions into the registry's errors."""
    try:
        yield
    except sqlalchemy.exc.IntegrityError as error:
        raise ConflictError(
            f"another writer was first, or a row is still referenced: {error.orig}"
        ) from error
    except SQLAlchemyError as error:
        where = engine.url.render_as_string(hide_password=True)
        reason = str(getattr(error, "orig", None) or error).strip().replace("\n", " ")
        raise StorageError(f"the database {where} failed: {reason}; nothing was changed") from error


def _create_sqlite_engine(url: URL) -> Engine:
    # autocommit: the driver starts no transaction, so the `begin` event below controls it
    settings: dict[str, Any] = {"isolation_level": None, "timeout": BUSY_SECONDS}
    if _is_read_only(url):
        # Without its two files for the log, a database in a read-only folder opens only as immutable.
        log = Path(f"{url.database}-wal")
        has_log = log.exists() and log.stat().st_size > 0
        place = f"file:{quote(str(url.database))}?mode=ro{'' if has_log else '&immutable=1'}"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(place, uri=True, check_same_thread=False, **settings)

        engine = sqlalchemy.create_engine(url, creator=connect)
    else:
        engine = sqlalchemy.create_engine(url, connect_args=settings)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(
            "PRAGMA synchronous=FULL"
        )  # in WAL mode some builds default to NORMAL, which can lose the last commits

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN" if options.get("read_only") else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def _sqlite_file_lock(url: URL) -> Iterator[None]:
    """Hold an exclusive lock on a file next to a SQLite database.

    BEGIN IMMEDIATE would be enough for the tables. But switching a new file to WAL fails at once, without
    waiting, if another process has the file open.
    """
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        yield
        return
    import fcntl

    path = Path(url.database + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror or error}") from error
    with file:  # the lock is released when the file is closed or the process dies
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "registry.database:migrations")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = current_revision(connection)
    if found is not None and found not in known:
        raise StorageError(
            f"the database is at revision {found}, newer than this version of nexusmix ({REVISION}): "
            "upgrade nexusmix; nothing was changed"
        )
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(f"the database could not be migrated: {error}") from error
