"""Text of the demo's domains from the installed packages."""

import json
from pathlib import Path

import pytest

from registry.domains.documents import is_held_out
from ui.demo import corpora
from ui.demo.corpora import (
    DOCUMENT_CHARS,
    DOMAINS,
    Domain,
    docstrings,
    document_of,
    paragraphs,
    sample_domain,
)

PROSE = (
    "The solver starts from the point that was given and moves along the steepest slope until nothing "
    "changes any more, which may take long where the valley is narrow."
)


def test_a_document_is_cut_at_the_end_of_a_line_and_short_text_is_none() -> None:
    text = "0123456789 0123456789\n" * 1000
    document = document_of(text)
    assert document is not None
    assert len(document) <= DOCUMENT_CHARS + 1
    assert set(document.splitlines()) == {"0123456789 0123456789"}
    assert document_of("too short") is None


def test_binary_files_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "blob.h").write_bytes(b"text " * 200 + b"\0")
    assert corpora.read_head(tmp_path / "blob.h") is None


@pytest.mark.parametrize(
    "block",
    [
        ">>> solve(x)\n" + PROSE,
        PROSE + " For example::",
        "x = [1, 2, 3]; y = f(x) + {a: b}; " * 8 + "end.",
        "    ======  ======\n    name    value of the parameter as it was given by whoever called\n" * 3,
        "Too short to be a paragraph.",
        PROSE.rstrip("."),
    ],
)
def test_code_tables_and_fragments_are_not_prose(block: str) -> None:
    assert paragraphs(block) == []


def test_paragraphs_of_prose_are_found_between_code_and_lose_their_line_breaks() -> None:
    wrapped = PROSE.replace(" and moves", "\n    and moves")
    text = f"Title\n=====\n\n{wrapped}\n\n>>> code()\n"
    (paragraph,) = paragraphs(text)
    assert paragraph.split() == PROSE.split()
    assert "\n" not in paragraph


def test_docstrings_come_in_the_order_of_the_source_and_broken_source_has_none(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '"""One."""\nclass A:\n    """Two."""\n    def f(self):\n        "Three."\n        x = "no"\n'
    )
    assert docstrings(module) == ["One.", "Two.", "Three."]
    module.write_text("def (")
    assert docstrings(module) == []


def test_documents_are_parted_by_the_registrys_rule_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"document {i} " * 10 for i in range(400)]
    monkeypatch.setattr(corpora, "TRAIN_BYTES", 5000)
    monkeypatch.setattr(corpora, "TEST_BYTES", 500)
    sample = sample_domain(Domain("d", "title", "MIT", lambda: iter(texts)))
    assert 4000 < sum(map(len, sample.train)) <= 5000
    assert 300 < sum(map(len, sample.held_out)) <= 500
    assert set(sample.train + sample.held_out) <= set(texts)
    assert all(is_held_out(text) for text in sample.held_out)
    assert not any(is_held_out(text) for text in sample.train)


def test_a_package_that_is_missing_is_named_with_the_remedy() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no_such_package.*pip install"):
        corpora.package_folder("no_such_package")


def test_the_installed_packages_contain_enough_text_of_every_domain(tmp_path: Path) -> None:
    pytest.importorskip("sympy")
    stages: list[tuple[str, int, int]] = []
    folders = corpora.write_corpora(tmp_path, on_domain=lambda *stage: stages.append(stage))
    assert list(folders) == list(DOMAINS) == [name for name, _, _ in stages]
    seen: set[str] = set()
    for folder in folders.values():
        for part, least in (("train", 700_000), ("test", 30_000)):
            content = (folder / f"{part}.jsonl").read_bytes()
            assert least < len(content) < 1_200_000
            texts = [json.loads(line)["text"] for line in content.split(b"\n") if line]
            assert seen.isdisjoint(texts)
            seen.update(texts)


def test_the_same_packages_give_the_same_documents() -> None:
    first, second = sample_domain(DOMAINS["cpp"]), sample_domain(DOMAINS["cpp"])
    assert first == second
