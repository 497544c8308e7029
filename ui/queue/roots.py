"""The folders of its machine that the web app may read from and write to; whoever can open it can ask for a path.

Nothing in a hidden folder (`.ssh`, `.cache` …) is meant by a root above it; a root inside it is. Where the
environment names no roots, there are none: `nexusmix ui` sets them for its server.
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
# The fields of a run's request that name paths.
READ = ("source", "embedding", "data", "held_out")
WRITTEN = ("out",)


@dataclass(frozen=True)
class Roots:
    """Folders to read from (`imports`) and to write to (`exports`), with every link in them resolved."""

    imports: tuple[Path, ...] = ()
    exports: tuple[Path, ...] = ()

    def check_import(self, path: str | Path) -> Path:
        """The path, if it may be read. Raises InvalidInputError, UnsafeFileError."""
        return _within(path, self.imports, "read", "--import-root")

    def check_export(self, path: str | Path) -> Path:
        """The path, if something new may be written there. Raises InvalidInputError, UnsafeFileError."""
        return _within(path, self.exports, "write to", "--export-root")

    def check(self, request: Mapping[str, Any]) -> None:
        """Refuse a run's request that names a path outside. Raises InvalidInputError, UnsafeFileError."""
        for name in READ:
            for path in _paths(request.get(name)):
                if name != "source" or not hub.is_hub(path):
                    self.check_import(path)
        for name in WRITTEN:
            for path in _paths(request.get(name)):
                self.check_export(path)

    def to_json(self) -> dict[str, list[str]]:
        """The roots as a run's request carries them."""
        return {
            "imports": [str(root) for root in self.imports],
            "exports": [str(root) for root in self.exports],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Sequence[str]]) -> Roots:
        """The roots that a request carries."""
        return cls(tuple(map(Path, fields["imports"])), tuple(map(Path, fields["exports"])))

    def environment(self) -> dict[str, str]:
        """The variables that `configured_roots` reads."""
        return {
            IMPORTS_VARIABLE: os.pathsep.join(map(str, self.imports)),
            EXPORTS_VARIABLE: os.pathsep.join(map(str, self.exports)),
        }


def configured_roots() -> Roots:
    """The roots that the environment names, folders parted as in PATH; none where it names none."""
    return Roots(*(_resolved(_split(name)) for name in (IMPORTS_VARIABLE, EXPORTS_VARIABLE)))


def chosen_roots(
    imports: Iterable[Path] | None, exports: Iterable[Path] | None, *, only_local: bool
) -> Roots:
    """The roots that were asked for; where none were, those of one local user, and none for anybody else."""
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
        raise InvalidInputError(f"{path!a} is no path: {error}") from error
    refuse_system_path(absolute)
    if any(_is_meant(resolved, root) for root in roots):
        return absolute
    if not roots:
        raise InvalidInputError(
            f"this web app may {do} no folder of its machine: whoever starts it can allow one with {option} FOLDER"
        )
    raise InvalidInputError(
        f"{absolute} is outside the folders that this web app may {do}, or in a hidden folder of theirs: expected "
        f"{_listed(roots)}; take a path there, or start the app with {option} FOLDER"
    )


def _is_meant(path: Path, root: Path) -> bool:
    """Whether a path lies below a root, and no hidden name comes between."""
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
    """Where models of the Hugging Face Hub are, by its own library's rules."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
