"""General text of the demo's seed."""

import hashlib
from pathlib import Path

import pytest

from ui.demo import general
from ui.demo.corpora import Domain
from ui.demo.general import Kind, general_documents
from ui.demo.page_text import page_text

WORDS = [
    hashlib.sha256(str(i).encode()).hexdigest()[:6].translate(str.maketrans("0123456789", "ghijklmnop"))
    for i in range(600)
]


def _write(folder: Path, name: str, words: list[str]) -> str:
    lines = [" ".join(words[i : i + 10]) for i in range(0, len(words), 10)]
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text := "\n".join(lines) + "\n")
    return text


def test_general_text_has_no_document_that_repeats_text_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = _write(tmp_path / "demo", "a.txt", WORDS[:200])
    domain = Domain("python", "", "MIT", lambda: iter([demo]))
    monkeypatch.setattr(general, "DOMAINS", {"python": domain})
    monkeypatch.setattr(general, "KINDS", (Kind("notes", ("notes/*.txt",), 100_000, debian=True),))
    fresh = {_write(tmp_path / "notes", f"{i}.txt", WORDS[200 + 100 * i : 300 + 100 * i]) for i in range(3)}
    _write(tmp_path / "notes", "copy.txt", WORDS[:60] + WORDS[500:560])
    sample = general_documents(tmp_path)["notes"]
    assert {*sample.train, *sample.held_out} == fresh


def test_a_page_gives_its_blocks_without_scripts_and_keeps_code() -> None:
    page = "<head><title>x</title></head><script>var a;</script><p>A sentence\n of <b>a</b> manual.</p>"
    assert page_text(page + "<pre>if a:\n    b</pre>") == "A sentence of a manual.\n\nif a:\n    b"


def test_reading_ends_when_there_is_enough_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(general, "DOMAINS", {})
    texts = [_write(tmp_path / "notes", f"{i}.txt", WORDS[100 * i : 100 * i + 100]) for i in range(6)]
    kind = Kind("notes", ("notes/*.txt",), 2 * len(texts[0]), debian=True)
    monkeypatch.setattr(general, "KINDS", (kind,))
    sample = general_documents(tmp_path)["notes"]
    assert len(sample.train) + len(sample.held_out) == 2
