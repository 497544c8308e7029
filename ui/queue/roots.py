"""Root folders: the only folders that the web app may read from and write to, because any visitor can enter a path.

A root excludes the hidden folders (`.ssh`, `.cache` …) below it; a root inside a hidden folder is allowed. There
are no roots unless the environment names them: `nexusmix ui` sets them for its server.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.checkpoints.safe_files import refuse_system_path
from registry.errors import InvalidInputError
from registry.intake import hub

IMPORTS_VARIABLE = "NEXUSMIX_IMPORT_ROOTS"
EXPORTS_VARIABLE = "NEXUSMIX_EXPORT_ROOTS"
# The fields of a run's request that contain paths.
READ = ("source", "embedding", "data", "held_out")
WRITTEN = ("out",)


@dataclass(frozen=True)
class Roots:
    """Folders to read from (`imports`) and to write to (`exports`), with every link in them resolved."""

    imports: tuple[Path, ...] = ()
    exports: tuple[Path, ...] = ()

    def check_import(self, path: str | Path) -> Path:
        """Return the absolute path if reading it is allowed. Raises InvalidInputError, UnsafeFileError."""
        return _within(path, self.imports, "read", "--import-root")

    def check_export(self, path: str | Path) -> Path:
        """Return the absolute path if writing to it is allowed. Raises InvalidInputError, UnsafeFileError."""
        return _within(path, self.exports, "write to", "--export-root")

    def check(self, request: Mapping[str, Any]) -> None:
        """Check that all paths of a run's request are in the roots. Raises InvalidInputError, UnsafeFileError."""
        for name in READ:
            for path in _paths(request.get(name)):
                if name != "source" or not hub.is_hub(path):
                    self.check_import(path)
        for name in WRITTEN:
            for path in _paths(request.get(name)):
                self.check_export(path)

    def to_json(self) -> dict[str, list[str]]:
        """Return the roots as JSON for a run's request."""
        return {
            "imports": [str(root) for root in self.imports],
            "exports": [str(root) for root in self.exports],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Sequence[str]]) -> Roots:
        """Return the roots from the JSON of a run's request."""
        return cls(tuple(map(Path, fields["imports"])), tuple(map(Path, fields["exports"])))

    def environment(self) -> dict[str, str]:
        """Return the environment variables that `configured_roots` reads."""
        return {
            IMPORTS_VARIABLE: os.pathsep.join(map(str, self.imports)),
            EXPORTS_VARIABLE: os.pathsep.join(map(str, self.exports)),
        }


def configured_roots() -> Roots:
    """Return the roots from the environment variables, whose folders are separated as in PATH."""
    return Roots(*(_resolved(_split(name)) for name in (IMPORTS_VARIABLE, EXPORTS_VARIABLE)))


def chosen_roots(
    imports: Iterable[Path] | None, exports: Iterable[Path] | None, *, only_local: bool
) -> Roots:
    """Return the requested roots. The defaults are for one local user; without `only_local` there are none."""
    local = (Path.home(), Path.cwd(), Path(tempfile.gettempdir())) if only_local else ()
    cached = (_hub_cache(),) if only_local else ()
    return Roots(
        _resolved((*local, *cached) if imports is None else imports),
        _resolved(local if exports is None else exports),
    )


def _within(path: str | Path, roots: Sequence[Path], do: str, option: str) -> Path:
    try:
        absolute = Path(path).absolute()
        resolved = absolute.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name with a zero byte
        raise InvalidInputError(f"{path!a} is not a valid path: {error}") from error
    refuse_system_path(absolute)
    if any(_is_meant(resolved, root) for root in roots):
        return absolute
    if not roots:
        raise InvalidInputError(
            f"this web app is not allowed to {do} any folder: restart it with {option} DIR to allow one"
        )
    raise InvalidInputError(
        f"{absolute} is outside the folders that this web app may {do}, or in a hidden folder: expected a path "
        f"{_listed(roots)}; choose such a path, or restart the app with {option} DIR"
    )


def _is_meant(path: Path, root: Path) -> bool:
    """Return whether the path is inside the root, with no hidden folder or file between them."""
    return path.is_relative_to(root) and not any(
        part.startswith(".") for part in path.relative_to(root).parts
    )


def _paths(value: object) -> list[str]:
    if value is None:
        return []
    return [str(value)] if isinstance(value, (str, Path)) else list(map(str, value))  # type: ignore[call-overload]


def _resolved(folders: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(folder.expanduser().absolute().resolve() for folder in folders))


def _split(variable: str) -> list[Path]:
    return [Path(part) for part in os.environ.get(variable, "").split(os.pathsep) if part]


def _listed(roots: Sequence[Path]) -> str:
    return " or ".join(["below " + str(roots[0]), *map(str, roots[1:])])


def _hub_cache() -> Path:
    """Return the cache folder of the Hugging Face Hub, as its own library determines it."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
