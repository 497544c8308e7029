"""Reading, splitting and storing a domain's documents."""

import hashlib
import os
from pathlib import Path

import pytest

from registry.domains.documents import documents_sha256, is_held_out, split
from registry.domains.reading import read_documents
from registry.domains.skipped import Skipped
from registry.errors import InvalidInputError, NotFoundError


def numbered(count: int) -> list[str]:
    return [f"document number {i}" for i in range(count)]


def test_documents_come_from_jsonl_lines_and_whole_files_in_a_reproducible_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 2}\n')
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.md").write_text("whole\nfile\n")
    (tmp_path / "c.py").write_text("   \n")
    assert list(read_documents([tmp_path])) == ["whole\nfile\n", "one", "two"]


def test_hidden_and_binary_files_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "text.txt").write_text("kept")
    assert list(read_documents([tmp_path])) == ["kept"]


@pytest.mark.parametrize("line", ["not json", '{"text": "\\ud800"}'])
def test_a_bad_jsonl_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(InvalidInputError, match=r"data\.jsonl, line 2"):
        list(read_documents([tmp_path / "data.jsonl"]))


@pytest.mark.parametrize("line", ['{"body": "x"}', '{"text": 3}', '["text"]', "3", '{"text": null}'])
def test_a_row_without_text_is_refused_if_it_is_the_first_and_counted_if_not(
    tmp_path: Path, line: str
) -> None:
    skipped = Skipped()
    (tmp_path / "data.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    assert list(read_documents([tmp_path / "data.jsonl"], skipped=skipped)) == ["fine"]
    assert skipped.counts() == {"without_text": 1}
    (tmp_path / "data.jsonl").write_text(line + '\n{"text": "fine"}\n')
    with pytest.raises(InvalidInputError, match=r"data\.jsonl, line 1.*--text-column"):
        list(read_documents([tmp_path / "data.jsonl"]))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(InvalidInputError, match="UTF-8"):
        list(read_documents([tmp_path]))


def test_links_and_pipes_inside_a_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.txt").symlink_to(tmp_path)
    with pytest.raises(InvalidInputError, match="symbolic link"):
        list(read_documents([folder]))
    (folder / "link.txt").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidInputError, match="neither a file nor a folder"):
        list(read_documents([folder]))


def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        list(read_documents([tmp_path / "nowhere"]))


def test_held_out_is_decided_by_the_hash_of_the_text_alone() -> None:
    texts = numbered(400)
    expected = [int(hashlib.sha256(text.encode()).hexdigest(), 16) % 20 == 0 for text in texts]
    assert [is_held_out(text) for text in texts] == expected
    assert any(expected)


def test_a_split_parts_every_document_and_counts_repeated_ones_once() -> None:
    texts = numbered(200)
    sample = split(texts + texts)
    assert sorted(sample.train + sample.held_out) == sorted(texts)
    assert all(is_held_out(text) for text in sample.held_out)
    assert not any(is_held_out(text) for text in sample.train)


def test_a_bounded_sample_depends_neither_on_order_nor_on_repetition() -> None:
    texts = [f"{i} " * (1 + i % 7) for i in range(300)]
    samples = [
        split(order, max_bytes=500, max_held_out_bytes=60)
        for order in (texts, texts[::-1], texts[150:] + texts)
    ]
    assert samples[0] == samples[1] == samples[2]
    assert sum(len(text.encode()) for text in samples[0].train) == 500
    assert sum(len(text.encode()) for text in samples[0].held_out) == 60


def test_one_long_document_is_cut_at_a_character_boundary() -> None:
    text = next(t for t in ("é" * n for n in range(100, 200)) if not is_held_out(t))
    assert split([text], max_bytes=101).train == ["é" * 50]


def test_the_hash_of_documents_tells_their_boundaries_apart() -> None:
    assert documents_sha256(["ab", "c"]) != documents_sha256(["a", "bc"])
