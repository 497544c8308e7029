"""Reading of documents: text, JSON, CSV and Parquet files, also compressed, and folders of them.

A document is one string: a row of a table, or the whole of a text file. Memory is bounded by one row, or one text file
of at most MAX_FILE_BYTES, for any number of rows and files.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from registry.checkpoints.safe_files import printable, refuse_system_path
from registry.errors import InvalidInputError, NotFoundError
from registry.paths import Paths, as_paths

MAX_FILE_BYTES = 256 << 20  # of a text file or a JSON array, which are read whole
MAX_ROW_CHARS = 64 << 20
# A longer document is cut into pieces, so that a single book has training text and held-out text.
LONG_CHARS, PIECE_CHARS = 16_000, 4_000
_PROBE_BYTES = 8192

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Columns with a row's text. In the others, the texts are joined: turns of a conversation, or a question and its answer.
TEXT_COLUMNS = ("text", "content")
TURN_COLUMNS = ("messages", "conversations", "conversation")
PAIR_COLUMNS = (
    ("instruction", "input", "output"),
    ("instruction", "input", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
JOINT = "\n\n"
DATA_SETS = (".jsonl", ".ndjson", ".parquet")
ABOUT = ("readme", "license", "licence", "changelog", "citation")  # files about a data set, in its folder


def read_documents(paths: Paths, *, column: str | None = None) -> Iterator[str]:
    """Yield the documents of files and folders in a reproducible order; empty documents are skipped.

    `column` is the column of a table's text; without it, the usual names are tried. Folders are walked recursively in
    the order of sorted names. Hidden entries and binary files in them are skipped, and so is a README of a data set.
    A table without text is read as a text file. A file that is given explicitly must have text.

    Raises:
        NotFoundError: a path does not exist.
        InvalidInputError: text in an unknown encoding, a damaged file, a row without text, a row or file that is too
            large, or a link, pipe or device inside a folder.
        UnsafeFileError: a path in /proc, /sys or /dev.
    """
    for path in as_paths(paths):
        refuse_system_path(path)
        if not path.exists():
            raise NotFoundError(f"no such file or folder: {path}")
        files = list(_walk(path))
        if any(_kind(file)[0] in DATA_SETS for file in files if path.is_dir()):
            files = [file for file in files if file.stem.lower() not in ABOUT]
        for file in files:
            for document in _documents(file, column, explicit=file == path):
                yield from (piece for piece in _pieces(document) if piece.strip())


def _documents(file: Path, column: str | None, *, explicit: bool) -> Iterator[str]:
    kind, unpack = _kind(file)
    if kind not in _TABLES and not explicit and unpack is None and _is_binary(file):
        return
    try:
        with (unpack or _plain)(file) as stream:
            if kind not in _TABLES:
                yield _whole(stream, file)
                return
            try:
                yield from _texts(_TABLES[kind](stream, file), file, column)
                return
            except _NoTextError as error:
                if explicit or column is not None or kind not in _ALSO_TEXT or error.row > 1:
                    raise
        with (unpack or _plain)(file) as stream:
            yield _whole(stream, file)
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{file} is not UTF-8 text ({error}), and has no byte order mark of UTF-16: convert it with `iconv -t "
            "UTF-8`, or remove it from the data"
        ) from error
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise InvalidInputError(f"{file} cannot be read ({printable(error)}): is it complete?") from error


def is_table(file: Path) -> bool:
    """Return whether the file's name is that of a table, whose text is in a column."""
    return _kind(file)[0] in _TABLES


def _kind(file: Path) -> tuple[str, Callable[[Path], IO[bytes]] | None]:
    """Return the suffix of the format, and the function that opens a compressed file."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    unpack = COMPRESSED.get(suffixes[-1]) if suffixes else None
    return "".join(suffixes[-2:-1] if unpack else suffixes[-1:]), unpack


class _NoTextError(InvalidInputError):
    """A row without text; `row` counts from 1."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def _texts(rows: Iterable[tuple[str, Any]], file: Path, column: str | None) -> Iterator[str]:
    for number, (place, row) in enumerate(rows, start=1):
        text = row_text(row, column)
        if text is None:
            columns = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            wanted = f"a string in {column!r}" if column is not None else 'a string "text"'
            raise _NoTextError(
                f"{file}, {place}: expected an object with {wanted}, got {printable(columns)[:200]}: "
                "name its text with --text-column",
                number,
            )
        try:
            text.encode()  # JSON can encode lone surrogates, which are not valid text
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"{file}, {place}: its text is not valid Unicode ({error})") from error
        yield text


def row_text(row: Any, column: str | None = None) -> str | None:
    """Return the text of a table's row, or None if it has none."""
    if not isinstance(row, dict):
        return None
    if column is not None:
        return _turns(row.get(column)) if isinstance(row.get(column), list) else _string(row.get(column))
    for name in TEXT_COLUMNS:
        if (text := _string(row.get(name))) is not None:
            return text
    for name in TURN_COLUMNS:
        if (text := _turns(row.get(name))) is not None:
            return text
    for names in PAIR_COLUMNS:
        parts = [_string(row.get(name)) for name in names]
        if parts[0] is not None and parts[-1] is not None:
            return JOINT.join(part for part in parts if part)
    return None


def _turns(turns: Any) -> str | None:
    """Return the texts of a conversation: of objects with `content`, or `value` as ShareGPT has it."""
    if not isinstance(turns, list) or not turns:
        return None
    parts = [
        _string(turn.get("content", turn.get("value"))) if isinstance(turn, dict) else None for turn in turns
    ]
    return JOINT.join(part for part in parts if part) if None not in parts else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _pieces(text: str) -> Iterator[str]:
    """Cut a long document at paragraphs, lines or words, in this order of preference."""
    if len(text) <= LONG_CHARS:
        yield text
        return
    start = 0
    while start < len(text):
        stop = start + PIECE_CHARS
        if stop < len(text):
            least = start + PIECE_CHARS // 2
            cuts = (text.rfind(mark, least, stop) + len(mark) for mark in ("\n\n", "\n", " "))
            stop = next((cut for cut in cuts if cut > least), stop)
        yield text[start:stop]
        start = stop


def _lines(stream: IO[bytes], file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of JSON lines with their places."""
    text = _decoded(stream)
    for number in itertools.count(1):
        line = text.readline(MAX_ROW_CHARS + 1)
        if len(line) > MAX_ROW_CHARS:
            raise InvalidInputError(
                f"{file}, line {number}: more than {MAX_ROW_CHARS:,} characters in one line"
            )
        if not line:
            return
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidInputError(
                    f"{file}, line {number}: expected a JSON object on each line ({printable(error)})"
                ) from error


def _json(stream: IO[bytes], file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows with their places: of a JSON array, of the one array in an object, or of JSON lines."""
    text = _whole(stream, file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        yield from _lines(io.BufferedReader(io.BytesIO(text.encode())), file)
        return
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 and row_text(content) is None else [content]
    yield from _numbered(content if isinstance(content, list) else [content])


def _numbered(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


def _separated(delimiter: str) -> Callable[[IO[bytes], Path], Iterator[tuple[str, Any]]]:
    def rows(stream: IO[bytes], file: Path) -> Iterator[tuple[str, Any]]:
        csv.field_size_limit(MAX_ROW_CHARS)
        try:
            yield from _numbered(csv.DictReader(_decoded(stream), delimiter=delimiter))
        except csv.Error as error:
            raise InvalidInputError(
                f"{file} is not a table of separated values: {printable(error)}"
            ) from error

    return rows


def _parquet(stream: IO[bytes], file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=64)
        yield from _numbered(row for batch in batches for row in batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise InvalidInputError(
            f"{file} is not a Parquet file that can be read: {printable(error)}"
        ) from error


_TABLES: Mapping[str, Callable[[IO[bytes], Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
_ALSO_TEXT = (".json", ".csv", ".tsv")  # a folder of code has such files too


def _decoded(stream: IO[bytes]) -> io.TextIOWrapper:
    """Return a stream of text in the encoding of its byte order mark, else in UTF-8."""
    beginning = stream.peek(4)[:4]  # type: ignore[attr-defined]
    return io.TextIOWrapper(stream, encoding=_encoding(beginning), newline="")


def _encoding(beginning: bytes) -> str:
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if beginning.startswith(mark)), "utf-8")


def _whole(stream: IO[bytes], file: Path) -> str:
    """Read a whole text file. Raises InvalidInputError."""
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(
            f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB: split it, or use JSON lines"
        )
    return content.decode(_encoding(content[:4]))


def _plain(file: Path) -> IO[bytes]:
    return file.open("rb")


def _zstandard(file: Path) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(file), compression="zstd"))


COMPRESSED: Mapping[str, Callable[[Path], IO[bytes]]] = {
    ".gz": lambda path: io.BufferedReader(gzip.GzipFile(path)),
    ".bz2": lambda path: io.BufferedReader(bz2.BZ2File(path)),
    ".xz": lambda path: io.BufferedReader(lzma.LZMAFile(path)),  # noqa: SIM115 (the caller closes it)
    ".zst": _zstandard,
}


def _is_binary(file: Path) -> bool:
    with file.open("rb") as stream:
        beginning = stream.read(_PROBE_BYTES)
    return b"\0" in beginning and _encoding(beginning[:4]) == "utf-8"


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        refuse_system_path(path)
        for entry in sorted(path.iterdir(), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                raise InvalidInputError(
                    f"{entry} is a symbolic link; give its target, or copy the target into the folder"
                )
            yield from _walk(entry)
    else:
        raise InvalidInputError(f"{path} is neither a file nor a folder; remove it from the data")
