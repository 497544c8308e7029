"""The tokenizer of an export: the seed's tokenizer_config.json, rewritten so that other readers load it equally."""

from __future__ import annotations

import json

from composer.mix.opening import Manifest, open_tokenizer
from registry.blobs import BlobStore

CONFIG_FILE = "tokenizer_config.json"
# The class that only reads tokenizer.json, by its names in transformers 4 and 5. Both versions accept the first.
ANY_FAST = ("PreTrainedTokenizerFast", "TokenizersBackend")


def portable_config(blobs: BlobStore, manifest: Manifest) -> bytes:
    """Return tokenizer_config.json with the tokenizer's class, in a form that transformers 4 and 5 can read.

    Without the class, a reader uses the default tokenizer of the model type, and an export may change that type.
    """
    digest = manifest.seed.files.get(CONFIG_FILE)
    config = json.loads(blobs.read_bytes(digest)) if digest is not None else {}
    name = config.get("tokenizer_class")
    if name not in ANY_FAST:  # opening it imports transformers, which takes longer than exporting a few GB
        name = type(open_tokenizer(blobs, manifest.seed.files)).__name__
    config["tokenizer_class"] = ANY_FAST[0] if name in ANY_FAST else name
    # transformers 5 writes a list under this key, which is a mapping in transformers 4.
    if isinstance(config.get("extra_special_tokens"), list):
        config.setdefault("additional_special_tokens", config.pop("extra_special_tokens"))
    return json.dumps(config, indent=2, ensure_ascii=False).encode()
