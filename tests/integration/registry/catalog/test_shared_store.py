"""A shared blob store: garbage collection never deletes blobs that another database refers to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import publishing
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from typer.testing import CliRunner

from registry.catalog import queries
from registry.catalog.gc import Garbage, collect
from registry.database.engine import create_engine, migrate
from registry.database.schema import REVISION
from registry.errors import ConflictError
from registry.home import Registry, open_registry
from ui.cli import app

Opener = Callable[..., Registry]


@pytest.fixture
def opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens registries with homes under `tmp_path`, with their own store or a given one."""
    opened: list[Registry] = []

    def open_one(home: str, *, store: Path | None = None, database_url: str | None = None) -> Registry:
        with monkeypatch.context() as patch:
            if store is not None:
                patch.setenv("NEXUSMIX_STORE_URL", str(store))
            opened.append(open_registry(tmp_path / home, database_url=database_url, embedder="hashing:16"))
        return opened[-1]

    yield open_one
    for registry in opened:
        registry.engine.dispose()


def collect_now(registry: Registry, **options: Any) -> Garbage:
    return collect(registry, grace=timedelta(0), **options)


def forget_users(store: Path) -> None:
    """Turn a store into an earlier one, which does not record its users."""
    shutil.rmtree(store / "databases")


def migrate_from_before(registry: Registry) -> None:
    """Turn a database into an earlier one, which has no id, and migrate it again."""
    config = Config()
    config.set_main_option("script_location", "registry.database:migrations")
    with registry.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
    migrate(registry.engine)


def test_another_empty_database_does_not_delete_a_stores_blobs(opener: Opener, tmp_path: Path) -> None:
    mine = opener("mine", store=tmp_path / "store")
    publishing.add_seed(mine)
    other = opener("other", store=tmp_path / "store")
    for dry_run in (True, False):
        with pytest.raises(ConflictError, match=r"\.\./mine/registry\.db.*gc --adopt-store"):
            collect_now(other, dry_run=dry_run)
    assert queries.verify(mine) == []
    assert collect_now(mine).blobs == ()


def test_a_new_database_at_the_same_path_does_not_delete_the_old_ones_blobs(opener: Opener) -> None:
    publishing.add_seed(opener("home"))
    home = opener("home").home
    for file in home.glob("registry.db*"):
        file.unlink()
    anew = opener("home")
    with pytest.raises(ConflictError, match="another database"):
        collect_now(anew)
    assert len(list(anew.blobs.iter_digests())) == 4


def test_nobody_collects_a_store_in_which_two_databases_keep_blobs(opener: Opener, tmp_path: Path) -> None:
    one, two = (opener(name, store=tmp_path / "store") for name in ("one", "two"))
    publishing.add_seed(one, "first")
    publishing.add_seed(two, "second")
    for registry in (one, two):
        with pytest.raises(ConflictError, match="share"):
            collect_now(registry)
        assert queries.verify(registry) == []
    collect_now(one, adopt=True)
    assert queries.verify(one) == []
    assert collect_now(one).blobs == ()
    with pytest.raises(ConflictError):
        collect_now(two)


def test_a_copy_of_a_home_collects_its_own_store_and_a_copied_database_not_the_originals(
    opener: Opener, tmp_path: Path
) -> None:
    whole = opener("whole")
    publishing.add_seed(whole)
    whole.engine.dispose()
    shutil.copytree(whole.home, tmp_path / "copy")
    copy = opener("copy")
    stray = copy.blobs.put_bytes(b"stray")
    assert collect_now(copy).blobs == (stray,)
    assert queries.verify(copy) == queries.verify(whole) == []

    apart = opener("apart", store=tmp_path / "store")
    publishing.add_seed(apart)
    apart.engine.dispose()
    shutil.copytree(apart.home, tmp_path / "twin")
    with pytest.raises(ConflictError, match=r"\.\./apart/registry\.db"):
        collect_now(opener("twin", store=tmp_path / "store"))


def test_an_old_store_is_adopted_by_the_database_that_refers_to_all_of_it(opener: Opener) -> None:
    registry = opener("home")
    publishing.add_seed(registry)
    forget_users(registry.home / "blobs")
    migrate_from_before(registry)
    registry = opener("home")
    assert collect_now(registry, dry_run=True).blobs == ()
    assert registry.blobs.others().unknown
    collect_now(registry)
    stray = registry.blobs.put_bytes(b"stray")
    assert collect_now(registry).blobs == (stray,)


def test_an_old_store_is_not_adopted_by_a_new_database_even_after_it_published(
    opener: Opener, tmp_path: Path
) -> None:
    old = opener("old", store=tmp_path / "store")
    publishing.add_seed(old)
    forget_users(tmp_path / "store")
    migrate_from_before(old)
    new = opener("new", store=tmp_path / "store")
    with pytest.raises(ConflictError, match="does not refer to 4 of its blobs"):
        collect_now(new)
    publishing.add_seed(new, "second")
    with pytest.raises(ConflictError, match=r"does not refer to 2 of its blobs.*gc --adopt-store"):
        collect_now(new)
    assert queries.verify(old) == []
    publishing.add_seed(opener("old", store=tmp_path / "store"), "third")
    with pytest.raises(ConflictError, match="another database"):
        collect_now(new)


def test_the_remedy_that_the_error_names_works(opener: Opener, tmp_path: Path) -> None:
    publishing.add_seed(opener("gone", store=tmp_path / "store"))
    home = opener("home", store=tmp_path / "store").home
    environment = {"NEXUSMIX_STORE_URL": str(tmp_path / "store")}
    line = ["--home", str(home), "gc", "--grace", "0"]
    refused = CliRunner().invoke(app, line, env=environment)
    assert refused.exit_code != 0 and isinstance(refused.exception, ConflictError)
    assert CliRunner().invoke(app, [*line, "--adopt-store"], env=environment).exit_code == 0
    assert not list((tmp_path / "store" / "sha256").glob("??/*"))
    assert CliRunner().invoke(app, line, env=environment).exit_code == 0


def test_a_store_is_used_by_both_types_of_database_separately(
    opener: Opener, new_postgres: Callable[..., str], tmp_path: Path
) -> None:
    url = new_postgres()
    server = opener("home", database_url=url)
    publishing.add_seed(server)
    assert collect_now(opener("home", database_url=url)).blobs == ()
    with pytest.raises(ConflictError, match="postgresql test_"):
        collect_now(opener("home"))


def test_several_processes_that_put_the_first_blob_at_once_are_all_noted(tmp_path: Path) -> None:
    imports = (
        "from pathlib import Path\n"
        "from uuid import uuid4\n"
        "from registry.blobs import LocalBlobStore\n"
        "from registry.store_users import User"
    )
    body = (
        "user = User(uuid4().hex, 'here')\n"
        "LocalBlobStore(Path(sys.argv[1]), user).put_bytes(b'x')\n"
        "print(user.file_name)"
    )
    names = publishing.race(imports, body, 4, str(tmp_path))
    assert {path.name for path in (tmp_path / "databases").iterdir()} - {"unknown"} == set(names)
    assert {path.name for path in tmp_path.iterdir()} == {"databases", "sha256", "tmp"}


def test_an_old_database_gets_an_id_once(database_url: str) -> None:
    engine = create_engine(database_url)
    config = Config()
    config.set_main_option("script_location", "registry.database:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
    assert not inspect(engine).has_table("database_id")
    ids = []
    for _ in range(2):
        migrate(engine)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == REVISION
            ids += connection.scalars(text("SELECT id FROM database_id")).all()
    engine.dispose()
    assert len(ids) == 2 and ids[0] == ids[1] and len(ids[0]) == 32
