"""The tokenizer of an export: the seed's files, spelt so that other readers find the same tokenizer in them."""

from __future__ import annotations

import json

from composer.mix.opening import Manifest, open_tokenizer
from registry.blobs import BlobStore

CONFIG_FILE = "tokenizer_config.json"
# A tokenizer that is its tokenizer.json, by its name in transformers 4 and in 5; both read the first.
ANY_FAST = ("PreTrainedTokenizerFast", "TokenizersBackend")


def portable_config(blobs: BlobStore, manifest: Manifest) -> bytes:
    """tokenizer_config.json that names the tokenizer's class, as transformers 4 and 5 both read it.

    Without the name a reader takes the usual tokenizer of the model type, which an export may have changed.
    """
    digest = manifest.seed.files.get(CONFIG_FILE)
    config = json.loads(blobs.read_bytes(digest)) if digest is not None else {}
    name = config.get("tokenizer_class")
    if name not in ANY_FAST:  # opening it imports transformers, which takes longer than an export of some GB
        name = type(open_tokenizer(blobs, manifest.seed.files)).__name__
    config["tokenizer_class"] = ANY_FAST[0] if name in ANY_FAST else name
    # transformers 5 writes a list under a name that in transformers 4 held a mapping.
    if isinstance(config.get("extra_special_tokens"), list):
        config.setdefault("additional_special_tokens", config.pop("extra_special_tokens"))
    return json.dumps(config, indent=2, ensure_ascii=False).encode()
