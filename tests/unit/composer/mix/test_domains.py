"""The text of a domain belongs to the vectors of its chunks."""

import torch

from composer.mix.domains import Domain
from registry.domains.embedding import MAX_CHUNKS


def test_the_text_has_one_chunk_per_vector_for_earlier_experts_with_more_chunks_too() -> None:
    documents = [f"Document {i} is a sentence about the number {i}." for i in range(4 * MAX_CHUNKS)]
    for count in (MAX_CHUNKS, 2 * MAX_CHUNKS):
        domain = Domain("numbers@1", torch.zeros(4), torch.zeros(count, 4), documents)
        assert domain.chunks() == documents[:: len(documents) // count]
