"""Reading of documents: text, JSON, CSV and Parquet files, also compressed, and folders of them.

A document is a row of a table (rows.py), or the whole of a text file. Memory is bounded by one row, or one text file
of at most MAX_FILE_BYTES, for any number of rows and files.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from registry.checkpoints.safe_files import is_cached_by_hub, printable, refuse_system_path
from registry.domains.hub_data import folder_of
from registry.domains.rows import ChatFormat, Document, PlainFormat, content_of, row_text
from registry.domains.skipped import Skipped
from registry.domains.streams import COMPRESSED, decoded, encoding_of, is_binary, plain
from registry.errors import InvalidInputError, NotFoundError
from registry.hub_errors import is_hub
from registry.paths import Paths, as_paths

MAX_FILE_BYTES = 256 << 20  # of a text file or a JSON array, which are read whole
MAX_ROW_CHARS = 64 << 20
# A longer document is cut into pieces, so that a single book has training text and held-out text.
LONG_CHARS, PIECE_CHARS = 16_000, 4_000
DATA_SETS = (".jsonl", ".ndjson", ".parquet")
TEXTS = (".txt", ".md", ".rst")  # of a data set on the hub
ABOUT = ("readme", "license", "licence", "changelog", "citation")  # files about a data set, in its folder


def read_documents(
    paths: Paths,
    *,
    column: str | None = None,
    chat: ChatFormat | None = None,
    skipped: Skipped | None = None,
) -> Iterator[str]:
    """Yield the texts of `read_marked`."""
    for document in read_marked(paths, column=column, chat=chat, skipped=skipped):
        yield document.text


def read_marked(
    paths: Paths,
    *,
    column: str | None = None,
    chat: ChatFormat | None = None,
    skipped: Skipped | None = None,
) -> Iterator[Document]:
    """Yield the documents of files and folders in a reproducible order, with the places of answers in them.

    A path may also be `hf:owner/name[@revision][:folder]`, a data set of the Hugging Face Hub (hub_data.py).
    `column` is the column of a table's text; without it, the usual names are tried. Conversations are rendered by
    `chat`; without it, their texts are joined. Folders are walked recursively in the order of sorted names. Hidden
    entries are skipped. So are empty documents, rows without text, binary files in folders and a README of a data set,
    which `skipped` counts. A table whose first row has no text is read as a text file, or refused if it is given
    explicitly.

    Raises:
        NotFoundError: a path does not exist.
        InvalidInputError: text in an unknown encoding, a damaged file, a table without text, a row or file that is too
            large, or a link, pipe or device inside a folder.
        UnsafeFileError: a path in /proc, /sys or /dev.
        ChatTemplateError: the template refuses a conversation.
    """
    reader = _Reader(column, chat or PlainFormat(), Skipped() if skipped is None else skipped)
    for path in as_paths(paths):
        if is_hub(str(path)):
            path = folder_of(str(path), _is_data)
        refuse_system_path(path)
        if not path.exists():
            raise NotFoundError(f"no such file or folder: {path}")
        files = list(_walk(path))
        if any(_kind(file)[0] in DATA_SETS for file in files if path.is_dir()):
            about = [file for file in files if file.stem.lower() in ABOUT]
            reader.skipped.about_files += len(about)
            files = [file for file in files if file not in about]
        for file in files:
            yield from reader.read(file, explicit=file == path)


@dataclass
class _Reader:
    """Reader of files with one set of options."""

    column: str | None
    chat: ChatFormat
    skipped: Skipped

    def read(self, file: Path, *, explicit: bool) -> Iterator[Document]:
        """Yield the documents of a file, the long ones in pieces."""
        for document in self._documents(file, explicit=explicit):
            if not document.text.strip():
                self.skipped.empty += 1
                continue
            yield from (piece for piece in _pieces(document) if piece.text.strip())

    def _documents(self, file: Path, *, explicit: bool) -> Iterator[Document]:
        kind, unpack = _kind(file)
        if kind not in _TABLES and not explicit and unpack is None and is_binary(file):
            self.skipped.binary_files += 1
            return
        try:
            with (unpack or plain)(file) as stream:
                if kind not in _TABLES:
                    yield Document(_whole(stream, file))
                    return
                try:
                    yield from self._rows(_TABLES[kind](stream, file), file)
                    return
                except _NoTextError:
                    if explicit or self.column is not None or kind not in _ALSO_TEXT:
                        raise
            with (unpack or plain)(file) as stream:
                yield Document(_whole(stream, file))
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"{file} is not UTF-8 text ({printable(str(error))}), and has no byte order mark of UTF-16: convert it "
                "with `iconv -f ENCODING -t UTF-8 FILE > NEW`, or remove it from the data"
            ) from error
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise InvalidInputError(f"{file} cannot be read ({printable(error)}): is it complete?") from error

    def _rows(self, rows: Iterable[tuple[str, Any]], file: Path) -> Iterator[Document]:
        """Yield the documents of a table's rows. Raises _NoTextError if the first row has none."""
        for number, (place, row) in enumerate(rows, start=1):
            content = content_of(row, self.column)
            if content is None and number == 1:
                columns = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
                wanted = f"a string in {self.column!r}" if self.column is not None else 'a string "text"'
                raise _NoTextError(
                    f"{file}, {place}: expected an object with {wanted}, got {printable(columns, 200)}: "
                    "name its text with --text-column"
                )
            if content is None:
                self.skipped.without_text += 1
                continue
            document = Document(content) if isinstance(content, str) else self.chat.render(content)
            if document is None:
                self.skipped.refused += 1
                continue
            try:
                document.text.encode()  # JSON can encode lone surrogates, which are not valid text
            except UnicodeEncodeError as error:
                raise InvalidInputError(
                    f"{file}, {place}: its text is not valid Unicode ({printable(str(error))}); remove the row"
                ) from error
            yield document


def is_table(file: Path) -> bool:
    """Return whether the file's name is that of a table, whose text is in a column."""
    return _kind(file)[0] in _TABLES


def _kind(file: Path) -> tuple[str, Callable[[Path], IO[bytes]] | None]:
    """Return the suffix of the format, and the function that opens a compressed file."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    unpack = COMPRESSED.get(suffixes[-1]) if suffixes else None
    return "".join(suffixes[-2:-1] if unpack else suffixes[-1:]), unpack


def _is_data(name: str) -> bool:
    """Return whether a file of a data set on the hub is data: a table or a text, and not about the data set."""
    path = Path(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.stem.lower() not in ABOUT and _kind(path)[0] in (*_TABLES, *TEXTS)


class _NoTextError(InvalidInputError):
    """A table whose first row has no text."""


def _pieces(document: Document) -> Iterator[Document]:
    """Cut a long document at paragraphs, lines or words, in this order of preference."""
    text = document.text
    if len(text) <= LONG_CHARS:
        yield document
        return
    start = 0
    while start < len(text):
        stop = start + PIECE_CHARS
        if stop < len(text):
            least = start + PIECE_CHARS // 2
            cuts = (text.rfind(mark, least, stop) + len(mark) for mark in ("\n\n", "\n", " "))
            stop = next((cut for cut in cuts if cut > least), stop)
        yield document.part(start, min(stop, len(text)))
        start = stop


def _lines(stream: IO[bytes], file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of JSON lines with their places."""
    text = decoded(stream)
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
            yield from _numbered(csv.DictReader(decoded(stream), delimiter=delimiter))
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


def _whole(stream: IO[bytes], file: Path) -> str:
    """Read a whole text file. Raises InvalidInputError."""
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(
            f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB: split it, or use JSON lines"
        )
    return content.decode(encoding_of(content[:4]))


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        refuse_system_path(path)
        for entry in sorted(path.iterdir(), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not is_cached_by_hub(entry):
                raise InvalidInputError(
                    f"{entry} is a symbolic link; give its target, or copy the target into the folder"
                )
            yield from _walk(entry)
    else:
        raise InvalidInputError(f"{path} is neither a file nor a folder; remove it from the data")
