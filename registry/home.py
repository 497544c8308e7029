"""Settings, and the open registry: its home, database, blob store and embedder."""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Engine, select, text
from sqlalchemy.orm import Session

from registry import disk_reserve
from registry.access import ANONYMOUS, Actor, local_actor
from registry.blobs import BlobStore, LocalBlobStore
from registry.database.engine import create_engine, mapped_errors, migrate
from registry.database.schema import Account, DatabaseId
from registry.errors import InvalidInputError, StorageError
from registry.paths import PathLike
from registry.records import Fence
from registry.store_users import User
from registry.tokens import authenticate

DEFAULT_HOME = "~/.local/share/nexusmix"
DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
_FILE_SETTINGS = ("database_url", "store_url", "embedder")


@dataclass(frozen=True)
class Registry:
    """An open registry; cheap to create, safe to share between threads.

    With a `fence`, it belongs to one attempt at a run and publishes only for that run. `actor` is who changes it.
    """

    home: Path
    engine: Engine
    blobs: BlobStore
    embedder: str
    fence: Fence | None = None
    actor: Actor = field(default_factory=local_actor)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database's connections."""
        self.engine.dispose()

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[Session]:
        """Open a transaction: committed at the end of the block, rolled back if the block raises.

        Write transactions run one at a time in SQLite. A `read_only` session does not wait for writers and
        commits nothing. Raises StorageError if the database fails.
        """
        with mapped_errors(self.engine):
            engine = self.engine.execution_options(read_only=True) if read_only else self.engine
            with Session(engine, expire_on_commit=False) as session:
                yield session
                if not read_only:
                    session.commit()


def open_registry(
    home: PathLike | None = None,
    *,
    database_url: str | None = None,
    embedder: str | None = None,
    store_url: str | None = None,
    token: str | None = None,
    frees_room: bool = False,
    own_settings: bool = False,
) -> Registry:
    """Open the registry, and create or migrate its database if needed.

    Each setting comes from the argument, else the environment (NEXUSMIX_HOME, NEXUSMIX_DATABASE_URL,
    NEXUSMIX_STORE_URL, NEXUSMIX_EMBEDDER), else config.toml in the home, else its default. Raises
    InvalidInputError for a wrong setting, StorageError if the home or the database cannot be used.

    With `own_settings`, for a second registry, the environment is not read.

    The actor is the owner of the `token`, else of NEXUSMIX_TOKEN. Without a token it is the user of this process: a
    maintainer if the registry has no accounts, or if the user owns its SQLite file; otherwise an anonymous reader.
    Raises AccessError for a wrong token.

    With `frees_room`, for an operation that frees disk space, the home's reserve file is deleted first. So the
    registry opens even on a full disk.
    """
    folder = Path(home or os.environ.get("NEXUSMIX_HOME") or DEFAULT_HOME).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create the home {folder}: {error.strerror or error}") from error
    configured = _read_config(folder / "config.toml")

    def setting(name: str) -> str | None:
        given = None if own_settings else os.environ.get(f"NEXUSMIX_{name.upper()}")
        return given or configured.get(name)

    # not built as text: a '?' or '%' in the home would change the URL's meaning
    default_database = URL.create("sqlite", database=str(folder / "registry.db"))
    engine = create_engine(database_url or setting("database_url") or default_database)
    if frees_room:
        disk_reserve.spend(folder)
    migrate(engine)
    if not frees_room:
        disk_reserve.keep(folder)
    store = _open_store(store_url or setting("store_url") or str(folder / "blobs"), folder, engine)
    return Registry(
        home=folder,
        engine=engine,
        blobs=store,
        embedder=embedder or setting("embedder") or DEFAULT_EMBEDDER,
        actor=_actor(engine, token or (None if own_settings else os.environ.get("NEXUSMIX_TOKEN")) or None),
    )


def _actor(engine: Engine, token: str | None) -> Actor:
    """Return who acts. Raises AccessError for a wrong token."""
    with mapped_errors(engine), Session(engine.execution_options(read_only=True)) as session:
        if token is not None:
            return authenticate(session, token)
        is_shared = session.scalar(select(Account.id).limit(1)) is not None
    return ANONYMOUS if is_shared and not _is_own_file(engine) else local_actor()


def _is_own_file(engine: Engine) -> bool:
    """Return whether the database is a file of this process's user, or the user is root."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return False
    return os.getuid() in (0, Path(engine.url.database).stat().st_uid)


def _user(engine: Engine, store: Path | None) -> User:
    """Return the database's identity in the blob store, which is in a folder or (None) elsewhere."""
    with mapped_errors(engine), engine.connect().execution_options(read_only=True) as connection:
        name = connection.scalar(select(DatabaseId.id)) or ""
        if engine.dialect.name == "sqlite":
            database = engine.url.database
            if not database:
                return User(name, "memory")
            file = Path(database).resolve()
            place = (
                f"{socket.gethostname()}:{file}" if store is None else os.path.relpath(file, store.resolve())
            )
            return User(name, place)
        row = connection.execute(
            text("SELECT datname, oid FROM pg_database WHERE datname = current_database()")
        ).one()
        return User(name, f"{engine.dialect.name} {row.datname} (oid {row.oid})")


def _read_config(path: Path) -> Mapping[str, str]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # malformed TOML or UTF-8
        raise InvalidInputError(f"{path} is not TOML: {error}") from error
    for name, value in content.items():
        if name not in _FILE_SETTINGS:
            raise InvalidInputError(f"{path} sets {name!a}; known settings are {', '.join(_FILE_SETTINGS)}")
        if not isinstance(value, str):
            raise InvalidInputError(f"{path}: {name} is {value!a}, expected a string")
    return content


def _open_store(url: str, home: Path, engine: Engine) -> BlobStore:
    """Return the store of a path, a file:// URL or another URL of fsspec. Raises InvalidInputError."""
    if "://" not in url:
        folder = Path(url).expanduser().absolute()
        return LocalBlobStore(folder, _user(engine, folder))
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise InvalidInputError(f"the store file://{parts.netloc} is not on this machine: give a folder")
        folder = Path(unquote(parts.path))
        return LocalBlobStore(folder, _user(engine, folder))
    from registry.remote_blobs import RemoteBlobStore

    return RemoteBlobStore(url, home / "cache", _user(engine, None))
