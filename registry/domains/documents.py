"""Text of a domain: hold some documents out for evaluation, and sample them for the store.

reading.py reads the documents. Whether a document is held out depends only on its text. So no document is training text
of one expert and held-out text of another.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.domains import near_duplicates
from registry.domains.rows import Document, Spans
from registry.domains.skipped import Skipped
from registry.errors import IntegrityError
from registry.records import Digest

if TYPE_CHECKING:
    from registry.blobs import BlobStore

HELD_OUT_ONE_IN = 20
MAX_SAMPLE_BYTES = 4 << 20
MAX_HELD_OUT_BYTES = 1 << 20
_MOST_SEEN = 1_000_000  # documents among which repeated ones are counted


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
    skipped: Skipped | None = None,
) -> Sample:
    """Split documents into training and held-out text, each a sample limited in UTF-8 bytes.

    Documents are sampled in the order of their sha256. So the sample does not depend on their order or on the
    number of files. Repeated documents count once, which `skipped` counts. The limits bound the memory. The last
    document is cut at the limit.
    """
    train, held_out = Reservoir(max_bytes), Reservoir(max_held_out_bytes)
    seen: set[int] = set()
    for text in documents:
        rank = _rank(text)
        if skipped is not None and _is_repeated(rank, seen):
            skipped.duplicates += 1
        (train if rank % HELD_OUT_ONE_IN else held_out).add(Document(text), rank)
    return Sample(
        [document.text for document in train.documents()],
        [document.text for document in held_out.documents()],
    )


def without_near_duplicates(
    held_out: list[str], training: Iterable[str], plain: Callable[[str], str] | None = None
) -> list[str]:
    """Return the held-out documents that are not nearly equal to a training document (near_duplicates.py).

    `training` may also contain the held-out documents themselves; these are passed over. `plain` is applied to both.
    """
    if not held_out:
        return held_out
    clean = plain or (lambda text: text)
    index = near_duplicates.Index([clean(text) for text in held_out])
    for text in training:
        if not is_held_out(text):
            index.compare(clean(text))
    return [text for place, text in enumerate(held_out) if place not in index.found]


def _is_repeated(rank: int, seen: set[int]) -> bool:
    """Return whether a rank is in the set, and add it; from a size on, the set does not grow."""
    short = rank & (2**60 - 1)
    if short in seen:
        return True
    if len(seen) < _MOST_SEEN:
        seen.add(short)
    return False


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
    content = blobs.read_bytes(digest)
    try:
        return parse_documents(content)
    except IntegrityError as error:
        raise IntegrityError(f"blob {digest} is {error}") from error


def parse_documents(content: bytes) -> list[str]:
    """Return the documents of a .jsonl blob's bytes. Raises IntegrityError."""
    try:
        # Not splitlines(): U+2028 and similar characters are line breaks in Python but not in JSON.
        return [json.loads(line)["text"] for line in content.split(b"\n") if line]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"not a list of documents: {error}") from error


def documents_sha256(documents: Iterable[str]) -> str:
    """Return the hex sha256 of the blob that `put_documents` would write, without a store."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(_encode(document))
    return digest.hexdigest()


@dataclass
class Reservoir:
    """The documents of the lowest sha256 that together fill `limit` bytes; the last one is cut to fit."""

    limit: int
    size: int = 0
    ranks: set[int] = field(default_factory=set)
    # (-rank, place in the order of reading, text, answers): the highest rank is at the top
    heap: list[tuple[int, int, bytes, Spans | None]] = field(default_factory=list)
    read: int = 0

    def add(self, document: Document, rank: int | None = None) -> None:
        """Add a document, and drop those that do not fit any more; a repeated one is ignored."""
        rank = _rank(document.text) if rank is None else rank
        if rank in self.ranks:
            return
        encoded = document.text.encode()
        self.ranks.add(rank)
        heapq.heappush(self.heap, (-rank, self.read, encoded, document.answers))
        self.read += 1
        self.size += len(encoded)
        while self.size - len(self.heap[0][2]) >= self.limit:  # still full without the top document
            negative_rank, _, dropped, _ = heapq.heappop(self.heap)
            self.ranks.discard(-negative_rank)
            self.size -= len(dropped)

    def documents(self, *, as_read: bool = False) -> list[Document]:
        """Return the documents in the order of their sha256, or in that of reading."""
        ordered = sorted(self.heap, key=lambda entry: -entry[0])
        kept = [(place, encoded, answers) for _, place, encoded, answers in ordered]
        if self.size > self.limit:
            place, last, answers = kept[-1]
            kept[-1] = place, last[: len(last) - (self.size - self.limit)], answers
        if as_read:
            kept.sort(key=lambda entry: entry[0])
        return [Document(encoded.decode(errors="ignore"), answers) for _, encoded, answers in kept]


def _rank(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _encode(document: str) -> bytes:
    return json.dumps({"text": document}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
