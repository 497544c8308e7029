"""Byte streams of text files: compressed ones, their encodings by a byte order mark, and binary files."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

_PROBE_BYTES = 8192

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decoded(stream: IO[bytes]) -> io.TextIOWrapper:
    """Return a stream of text in the encoding of its byte order mark, else in UTF-8."""
    beginning = stream.peek(4)[:4]  # type: ignore[attr-defined]
    return io.TextIOWrapper(stream, encoding=encoding_of(beginning), newline="")


def encoding_of(beginning: bytes) -> str:
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if beginning.startswith(mark)), "utf-8")


def plain(file: Path) -> IO[bytes]:
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


def is_binary(file: Path) -> bool:
    with file.open("rb") as stream:
        beginning = stream.read(_PROBE_BYTES)
    return b"\0" in beginning and encoding_of(beginning[:4]) == "utf-8"
