"""`nexusmix doctor`: check the requirements of the other commands and report the remedy of each failure."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from ui.cli.kit.context import Json, open_registry
from ui.cli.kit.failures import FAILURE
from ui.cli.kit.output import Column, note, print_json, print_table
from ui.wording.display import plural, size

if TYPE_CHECKING:
    from registry.home import Registry

PACKAGES = ("torch", "transformers", "sentence-transformers", "faiss-cpu", "sqlalchemy", "streamlit")
LOW_DISK_BYTES = 2_000_000_000
SHOWN = 3  # faults per check


@dataclasses.dataclass(frozen=True)
class Check:
    """The result of one check: `detail` describes the state found, or the problem and its remedy."""

    check: str
    ok: bool
    detail: str


class _Unwritten(Exception):
    """Raised to leave a blob writer before it publishes a blob."""


def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Check the installation and the registry.

    Exits with code 1 if a check fails.
    """
    from registry.errors import RegistryError

    findings = [_check("versions", _versions), _check("threads", _threads), _check("device", _device)]
    try:
        with open_registry(ctx) as registry:
            findings.extend(_registry_checks(registry))
    except RegistryError as error:
        findings.append(Check("registry", False, str(error)))
    healthy = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": healthy, "checks": [dataclasses.asdict(finding) for finding in findings]})
    else:
        columns = [
            Column("ok", "", show=str),
            Column("check", "Check", style="bold"),
            Column("detail", "Result"),
        ]
        rows = [{**dataclasses.asdict(f), "ok": "✓" if f.ok else "✗"} for f in findings]
        print_table(rows, columns, empty="no checks were run")
        note("all checks passed" if healthy else "some checks failed: see the lines marked ✗")
    if not healthy:
        raise typer.Exit(FAILURE)


def _registry_checks(registry: Registry) -> Iterator[Check]:
    yield Check("home", True, str(registry.home))
    yield _check("database", lambda: _database(registry))
    yield _check("tables", lambda: _tables(registry))
    yield _check("blob store", lambda: _blob_store(registry))
    yield _check("blobs", lambda: _blobs(registry))
    yield _check("disk space", lambda: _disk_space(registry))
    yield _check("embedder", lambda: _embedder(registry))


def _check(name: str, find: Callable[[], str]) -> Check:
    """Run one check. Any exception becomes a failed result, so that the remaining checks still run."""
    try:
        return Check(name, True, find())
    except Exception as error:
        return Check(name, False, str(error) or type(error).__name__)


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found, missing = [f"nexusmix {version('nexusmix')}", f"Python {sys.version.split()[0]}"], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}; run: pip install nexusmix")
    return ", ".join(found)


def _threads() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    return plural(usable, "core") + (f", OMP_NUM_THREADS={limit}" if limit else "")


def _device() -> str:
    from composer import resources

    device = resources.device()
    if device.type == "cpu":
        return "cpu"
    return f"{device.type}, {size(resources.available_on(device))} available"


def _database(registry: Registry) -> str:
    from registry.catalog.queries import count_experts, list_mixes, list_seeds

    counts = (
        plural(len(list_seeds(registry)), "seed"),
        plural(count_experts(registry), "expert"),
        f"{len(list_mixes(registry))} mixes",
    )
    return f"{registry.engine.url.render_as_string(hide_password=True)}: {', '.join(counts)}"


def _blob_store(registry: Registry) -> str:
    try:
        with registry.blobs.writer() as writer:
            writer.write(b"doctor")
            raise _Unwritten
    except _Unwritten:
        blobs = plural(sum(1 for _ in registry.blobs.iter_digests()), "blob")
        others = registry.blobs.others().places
        shared = (
            f", shared with other databases ({'; '.join(others)}), so gc refuses to run" if others else ""
        )
        return f"writable, {blobs}{shared}"


def _tables(registry: Registry) -> str:
    from registry.database.engine import check_tables

    faults = check_tables(registry.engine)
    if faults:
        raise RuntimeError(f"{'; '.join(faults[:SHOWN])}: restore the database from a backup")
    return "complete"


def _blobs(registry: Registry) -> str:
    from registry.catalog.verification import find_missing

    problems = find_missing(registry)
    if problems:
        first = "; ".join(f"{problem.owner}: {problem.message}" for problem in problems[:SHOWN])
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise RuntimeError(
            f"{first}{more}; `nexusmix verify` reads all of them; contribute the same files again"
        )
    return "all present; `nexusmix verify` checks their contents"


def _disk_space(registry: Registry) -> str:
    import shutil

    usage = shutil.disk_usage(registry.home)
    if usage.free < LOW_DISK_BYTES:
        raise RuntimeError(
            f"only {size(usage.free)} free at {registry.home}, {size(LOW_DISK_BYTES)} recommended: free some disk "
            "space, or choose another folder with --home"
        )
    return f"{size(usage.free)} free of {size(usage.total)}"


def _embedder(registry: Registry) -> str:
    from registry.domains.embedding import load_embedder

    embedder = load_embedder(registry.embedder)
    embedder.encode(["a sentence"])
    return str(embedder.id)
