"""Reading of documents from every format that people keep text in."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from registry.domains import reading
from registry.domains.reading import read_documents
from registry.errors import InvalidInputError, RegistryError

ROWS = [{"text": "one\ntwo", "id": 1}, {"text": "größer", "id": 2}]
TEXTS = ["one\ntwo", "größer"]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(rows: list[Any]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def zstandard(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


FILES: dict[str, bytes] = {
    "a.jsonl": lines(ROWS),
    "a.NDJSON": lines(ROWS),
    "a.json": json.dumps(ROWS).encode(),
    "object.json": json.dumps({"version": "1", "data": ROWS}).encode(),
    "lines.json": lines(ROWS),
    "a.csv": 'id,text\n1,"one\ntwo"\n2,größer\n'.encode(),
    "a.TSV": 'text\tid\n"one\ntwo"\t1\ngrößer\t2\n'.encode(),
    "a.parquet": parquet(ROWS),
    "a.jsonl.gz": gzip.compress(lines(ROWS)),
    "a.jsonl.zst": zstandard(lines(ROWS)),
    "a.csv.bz2": bz2.compress('text\n"one\ntwo"\ngrößer\n'.encode()),
    "a.jsonl.xz": lzma.compress(lines(ROWS)),
    "marked.jsonl": b"\xef\xbb\xbf" + lines(ROWS),
    "wide.jsonl": lines(ROWS).decode().encode("utf-16"),
    "wider.csv": 'text\n"one\ntwo"\ngrößer\n'.encode("utf-32"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_table_gives_its_texts_given_alone_or_in_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert list(read_documents(tmp_path / name)) == TEXTS
    assert list(read_documents(tmp_path)) == TEXTS


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"content": "def f(): ..."}, "def f(): ..."),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
            "Hi\n\nHo",
        ),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, "Hi\n\nHo"),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2\n\n3"),
        ({"instruction": "Add.", "input": "", "output": "3"}, "Add.\n\n3"),
        ({"prompt": "Add.", "completion": "3"}, "Add.\n\n3"),
        ({"question": "Why?", "answer": "So."}, "Why?\n\nSo."),
    ],
)
def test_conversations_and_pairs_become_one_text(tmp_path: Path, row: dict[str, Any], text: str) -> None:
    (tmp_path / "chat.jsonl").write_bytes(lines([row]))
    (tmp_path / "chat.parquet").write_bytes(parquet([row]))
    assert list(read_documents(tmp_path)) == [text, text]


def test_a_named_column_is_read_and_its_absence_names_the_remedy_that_works(tmp_path: Path) -> None:
    (tmp_path / "laws.csv").write_text("id,body\n1,The lessee\n")
    with pytest.raises(InvalidInputError, match=r"row 1.*id, body.*--text-column"):
        list(read_documents(tmp_path / "laws.csv"))
    assert list(read_documents(tmp_path / "laws.csv", column="body")) == ["The lessee"]
    with pytest.raises(InvalidInputError, match="'title'"):
        list(read_documents(tmp_path, column="title"))


def test_the_readme_of_a_data_set_is_not_its_text(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A data set")
    (tmp_path / "LICENSE").write_text("MIT")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(FILES["a.parquet"])
    (tmp_path / "data" / "dev.jsonl").write_bytes(FILES["a.jsonl"])
    assert list(read_documents(tmp_path)) == TEXTS * 2
    assert list(read_documents(tmp_path / "README.md")) == ["# A data set"]


def test_tables_without_text_in_a_folder_of_code_are_text_themselves(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "points.csv").write_text("x,y\n1,2\n")
    assert list(read_documents(tmp_path)) == ['{"name": "x"}', "x,y\n1,2\n"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS * 999))[:60]),
        lambda folder: (folder / "a.jsonl.zst").write_bytes(zstandard(lines(ROWS * 999))[:40]),
        lambda folder: (folder / "a.xz").write_bytes(b"\xfd7zXZ\0no"),
        lambda folder: (folder / "a.parquet").write_bytes(b"PAR1 and no more"),
        lambda folder: (folder / "a.jsonl").write_bytes("größer".encode("latin-1")),
        lambda folder: (folder / "a.txt").write_bytes("größer".encode("utf-16-le")),
        lambda folder: (folder / "a.csv").write_bytes(b'text\n"' + b"a" * 200),
        lambda folder: (folder / "a.json").write_text("[" * 100_000),
    ],
)
def test_damaged_and_unreadable_files_are_refused_with_their_name(
    tmp_path: Path, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_ROW_CHARS", 100)
    damage(tmp_path)
    (file,) = tmp_path.iterdir()
    with pytest.raises(RegistryError, match=file.name):
        list(read_documents(file))


def test_a_book_is_cut_at_its_paragraphs_and_nothing_is_lost(tmp_path: Path) -> None:
    book = "\n\n".join(f"Paragraph {number} " + "word " * 150 for number in range(60))
    (tmp_path / "book.txt").write_text(book)
    pieces = list(read_documents(tmp_path))
    assert "".join(pieces) == book
    assert len(pieces) > 10 and max(map(len, pieces)) <= reading.PIECE_CHARS
    assert all(piece.startswith("Paragraph") for piece in pieces)


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        (tmp_path / "many.jsonl").write_bytes(lines([{"text": "word " * 200}]) * rows)
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_documents(tmp_path / "many.jsonl")) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(5000) < 2 * peak(500)
