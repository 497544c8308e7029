"""Text of a domain: hold some documents out for evaluation, and sample them for the store.

reading.py reads the documents. Whether a document is held out depends only on its text. So no document is training text
of one expert and held-out text of another.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.errors import IntegrityError
from registry.records import Digest

if TYPE_CHECKING:
    from registry.blobs import BlobStore

HELD_OUT_ONE_IN = 20
MAX_SAMPLE_BYTES = 4 << 20
MAX_HELD_OUT_BYTES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Documents of a domain that the registry stores: training documents and held-out documents."""

    train: list[str]
    held_out: list[str]


def is_held_out(text: str) -> bool:
    """Return whether a document is for evaluation only: about one in twenty, chosen by sha256."""
    return _rank(text) % HELD_OUT_ONE_IN == 0


def is_for_choices(text: str) -> bool:
    """Whether this document decides between settings and trains nothing: true of another one in twenty."""
    return _rank(text) % HELD_OUT_ONE_IN == 1


def split(
    documents: Iterable[str],
    *,
    max_bytes: int = MAX_SAMPLE_BYTES,
    max_held_out_bytes: int = MAX_HELD_OUT_BYTES,
) -> Sample:
    """Split documents into training and held-out text, each a sample limited in UTF-8 bytes.

    Documents are sampled in the order of their sha256. So the sample does not depend on their order or on the
    number of files. Repeated documents count once, and the limits bound the memory. The last document is cut at
    the limit.
    """
    train, held_out = _Bounded(max_bytes), _Bounded(max_held_out_bytes)
    for text in documents:
        rank = _rank(text)
        (train if rank % HELD_OUT_ONE_IN else held_out).add(rank, text)
    return Sample(train.texts(), held_out.texts())


def put_documents(blobs: BlobStore, documents: Iterable[str]) -> Digest:
    """Store documents as one .jsonl blob; equal documents in equal order give an equal digest."""
    with blobs.writer() as writer:
        for document in documents:
            writer.write(_encode(document))
    return writer.digest


def load_documents(blobs: BlobStore, digest: Digest) -> list[str]:
    """Read the documents of a .jsonl blob.

    Raises:
        NotFoundError: no such blob.
        IntegrityError: the blob is not a list of documents.
    """
    try:
        # Not splitlines(): U+2028 and similar characters are line breaks in Python but not in JSON.
        return [json.loads(line)["text"] for line in blobs.read_bytes(digest).split(b"\n") if line]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"blob {digest} is not a list of documents: {error}") from error


def documents_sha256(documents: Iterable[str]) -> str:
    """Return the hex sha256 of the blob that `put_documents` would write, without a store."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(_encode(document))
    return digest.hexdigest()


@dataclass
class _Bounded:
    """The lowest-ranked documents that together fill `limit` bytes; the last one is cut to fit."""

    limit: int
    size: int = 0
    ranks: set[int] = field(default_factory=set)
    heap: list[tuple[int, bytes]] = field(
        default_factory=list
    )  # (-rank, text): the highest rank is at the top

    def add(self, rank: int, text: str) -> None:
        if rank in self.ranks:
            return
        encoded = text.encode()
        self.ranks.add(rank)
        heapq.heappush(self.heap, (-rank, encoded))
        self.size += len(encoded)
        while self.size - len(self.heap[0][1]) >= self.limit:  # still full without the top document
            negative_rank, dropped = heapq.heappop(self.heap)
            self.ranks.discard(-negative_rank)
            self.size -= len(dropped)

    def texts(self) -> list[str]:
        ordered = [encoded for _, encoded in sorted(self.heap, reverse=True)]
        if self.size > self.limit:
            ordered[-1] = ordered[-1][: len(ordered[-1]) - (self.size - self.limit)]
        return [encoded.decode(errors="ignore") for encoded in ordered]


def _rank(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _encode(document: str) -> bytes:
    return json.dumps({"text": document}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
