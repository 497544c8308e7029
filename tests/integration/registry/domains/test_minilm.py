"""The numpy encoder of all-MiniLM-L6-v2, compared with sentence-transformers."""

import subprocess
import sys
from typing import Any

import numpy as np

from registry.domains.embedders import SentenceTransformerEmbedder, load_embedder

TEXTS = [
    "",
    "prove a theorem",
    "Émigré: 日本語のテキスト 🙂",
    "def add(first, second):\n    return first + second\n",
    "supercalifragilistic" * 60,
    "A sentence that is repeated until the text is longer than the encoder reads. " * 30,
    *(f"card number {number} about " + "apples and pears " * number for number in range(12)),
]


def test_the_numpy_encoder_gives_the_vectors_of_sentence_transformers() -> None:
    ours: Any = load_embedder("all-MiniLM-L6-v2")
    theirs = SentenceTransformerEmbedder(ours.id, ours.folder)
    vectors = ours.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, theirs.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(ours.encode(TEXTS[1:2]), vectors[1:2], atol=1e-6)


def test_no_texts_give_no_vectors_and_text_that_is_not_valid_unicode_gives_one() -> None:
    encode = load_embedder("all-MiniLM-L6-v2").encode
    assert encode([]).shape == (0, 384)
    assert np.isfinite(encode(["\ud800 half a character"])).all()


def test_a_query_is_embedded_with_no_deep_learning_framework() -> None:
    script = (
        "import sys; from registry.domains.embedders import load_embedder;"
        "load_embedder('all-MiniLM-L6-v2').encode(['a recipe']);"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
