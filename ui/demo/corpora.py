"""Corpora of the demo's four domains, written from text of the Python installation and its packages.

    python   the source of Python's standard library
    cpp      the C++ headers inside the torch wheel
    math     the docstrings of sympy
    prose    English paragraphs of reference documentation, without code

A document is the beginning of one file, at most DOCUMENT_CHARS long. The registry's own rule separates training
and test documents, so the same packages always give the same bytes.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.domains.documents import Sample, split

DOCUMENT_CHARS = 8000
MIN_DOCUMENT_CHARS = 400
TRAIN_BYTES = 1_000_000
TEST_BYTES = 100_000
MAX_SOURCE_BYTES = 80_000
PROSE_PACKAGES = ("sklearn", "networkx", "pandas", "sqlalchemy")
# Generated headers: there are thousands of them, almost identical.
GENERATED_HEADERS = re.compile(r"/ATen/ops/|/generated/|_generated|\.pb\.h$|/nvfuser/|/google/protobuf/")
# The wheel's build adds these lines to every header. They are removed because they would be trivial to predict.
_HEADER_GUARD = re.compile(
    r"^#(if|else|error|endif)[^\n]*TORCH_(STABLE_ONLY|TARGET_VERSION)[^\n]*\n", re.MULTILINE
)
_NOT_SOURCE = {
    "test",
    "tests",
    "site-packages",
    "idlelib",
    "lib2to3",
    "encodings",
    "pydoc_data",
    "turtledemo",
}
_CODE_LINE = re.compile(r"^\s*(>>>|\.\.\s|#|[|+=\-~^]{3,})|::\s*$|[=<>{}\[\]`*_|\\]{4,}", re.MULTILINE)


@dataclass(frozen=True)
class Domain:
    """One of the demo's domains: `documents` reads its text, and `license` is the licence of that text."""

    name: str
    title: str
    license: str
    documents: Callable[[], Iterator[str]]


def write_corpora(out: Path, *, on_domain: Callable[[str, int, int], None] | None = None) -> dict[str, Path]:
    """Write `<out>/<domain>/{train,test}.jsonl` for every domain and return the domains' folders."""
    folders: dict[str, Path] = {}
    for done, domain in enumerate(DOMAINS.values()):
        if on_domain:
            on_domain(domain.name, done, len(DOMAINS))
        sample = sample_domain(domain)
        folder = out / domain.name
        folder.mkdir(parents=True, exist_ok=True)
        for part, documents in (("train", sample.train), ("test", sample.held_out)):
            lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents]
            (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        folders[domain.name] = folder
    return folders


def sample_domain(domain: Domain) -> Sample:
    """Return the domain's training and held-out documents, up to the size limits. No document is cut at a limit."""
    documents = list(domain.documents())
    whole = set(documents)
    sample = split(documents, max_bytes=TRAIN_BYTES, max_held_out_bytes=TEST_BYTES)
    return Sample(
        train=[text for text in sample.train if text in whole],
        held_out=[text for text in sample.held_out if text in whole],
    )


def read_head(path: Path) -> str | None:
    """Return the first DOCUMENT_CHARS of a text file, cut at the end of a line; None if binary or too short."""
    with path.open("rb") as stream:
        # A UTF-8 character has at most four bytes.
        head = stream.read(4 * DOCUMENT_CHARS)
    if b"\0" in head:
        return None
    return document_of(head.decode(errors="ignore"))


def document_of(text: str) -> str | None:
    """Return the text cut to a document's length at the end of a line, or None if it is too short."""
    text = text.strip()
    if len(text) > DOCUMENT_CHARS:
        text = text[:DOCUMENT_CHARS].rpartition("\n")[0] or text[:DOCUMENT_CHARS]
    return text + "\n" if len(text) >= MIN_DOCUMENT_CHARS else None


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"{name} is not installed, and the demo reads its text from it: pip install '.[demo]'"
        )
    return Path(spec.origin).parent


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the Python sources below a folder in sorted order, without tests."""
    for path in sorted(folder.rglob("*.py")):
        if not _NOT_SOURCE.intersection(path.relative_to(folder).parts[:-1]):
            yield path


def docstrings(path: Path, max_bytes: int = MAX_SOURCE_BYTES) -> list[str]:
    """Return the docstrings of a module, its classes and its functions, in source order.

    Returns an empty list for a source larger than `max_bytes`, which would be slow to parse.
    """
    if path.stat().st_size > max_bytes:
        return []
    try:
        module = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    return [text for node in _definitions(module) if (text := ast.get_docstring(node))]


def paragraphs(text: str) -> list[str]:
    """Return the English paragraphs of reference documentation, without code, tables, parameter lists or maths."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        prose = " ".join(block.split())
        if len(prose) < 120 or prose[-1] not in ".:!?)" or _CODE_LINE.search(block):
            continue
        plain = sum(character.isalpha() or character in " ,.'" for character in prose)
        if plain / len(prose) > 0.93:
            found.append(prose)
    return found


_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(node: _Definition) -> Iterator[_Definition]:
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definitions(child)


def _standard_library() -> Iterator[str]:
    for path in python_files(Path(sysconfig.get_path("stdlib"))):
        if document := read_head(path):
            yield document


def _torch_headers() -> Iterator[str]:
    folder = package_folder("torch") / "include"
    for path in sorted(folder.rglob("*.h")):
        if GENERATED_HEADERS.search(path.as_posix()):
            continue
        if document := document_of(_HEADER_GUARD.sub("", read_head(path) or "")):
            yield document


def _sympy_docstrings() -> Iterator[str]:
    for path in python_files(package_folder("sympy")):
        if document := document_of("\n\n".join(docstrings(path))):
            yield document


def _reference_prose() -> Iterator[str]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    texts = [[topics[name]] for name in sorted(topics)]
    texts += (
        docstrings(path) for package in PROSE_PACKAGES for path in python_files(package_folder(package))
    )
    seen: set[str] = set()
    for text in texts:
        # Many paragraphs are repeated in several modules; only the first occurrence is used.
        prose = dict.fromkeys(paragraph for part in text for paragraph in paragraphs(part))
        fresh = [paragraph for paragraph in prose if paragraph not in seen]
        seen.update(fresh)
        if document := document_of("\n\n".join(fresh)):
            yield document


DOMAINS = {
    domain.name: domain
    for domain in (
        Domain("python", "Source code of Python's standard library", "Python-2.0.1", _standard_library),
        Domain("cpp", "C++ headers of the torch wheel", "BSD-3-Clause", _torch_headers),
        Domain("math", "Mathematical docstrings of sympy", "BSD-3-Clause", _sympy_docstrings),
        Domain("prose", "English reference documentation", "BSD-3-Clause", _reference_prose),
    )
}
