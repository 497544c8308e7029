"""Token profiles that an owner shares in place of text: file, checks, storage."""

import dataclasses
import json

import numpy as np
import pico
import pytest

from composer.model.initial import PAIR_BUCKETS
from composer.tensors.torch_blobs import map_tensors
from registry.domains import token_profile
from registry.domains.embedders import load_embedder
from registry.domains.embedding import embed_domain, load_embedding, save_embedding
from registry.errors import InvalidEmbeddingError
from registry.records import TokenProfile

TOKENIZER = "sha256:" + "1" * 64


@dataclasses.dataclass(frozen=True)
class Seed:
    """The fields of a seed that the check reads."""

    name = "base"
    files = {"tokenizer.json": TOKENIZER}  # noqa: RUF012
    config = {"vocab_size": 40}  # noqa: RUF012


def a_profile(**changes):
    tables = {
        "unigrams": np.full(40, -3.5, np.float16),
        "bigrams": np.full(token_profile.PAIRS, -11.0, np.float16),
    }
    return TokenProfile(**{"tokenizer": TOKENIZER, **tables, **changes})


def test_the_registry_and_the_model_agree_on_the_number_of_pairs():
    assert token_profile.PAIRS == PAIR_BUCKETS


def test_a_file_with_a_profile_comes_back_as_it_was_and_one_without_keeps_its_format(tmp_path):
    embedding, _ = embed_domain(load_embedder("hashing:16"), pico.domain_documents("law"))
    path = tmp_path / "law.json"
    save_embedding(path, embedding)
    assert json.loads(path.read_text())["format"] == "nexusmix-domain-embedding/1"
    assert load_embedding(path).profile is None
    save_embedding(path, dataclasses.replace(embedding, profile=a_profile()))
    assert json.loads(path.read_text())["format"] == "nexusmix-domain-embedding/2"
    found = load_embedding(path).profile
    assert found.tokenizer == TOKENIZER
    for name in token_profile.TABLES:
        assert np.array_equal(getattr(found, name), getattr(a_profile(), name))


@pytest.mark.parametrize("damage", [{"unigrams": "no base64!"}, {"bigrams": 7}, {"tokenizer": None, "x": 1}])
def test_a_damaged_profile_makes_the_file_invalid(damage, tmp_path):
    embedding, _ = embed_domain(load_embedder("hashing:16"), pico.domain_documents("law"))
    path = tmp_path / "law.json"
    save_embedding(path, dataclasses.replace(embedding, profile=a_profile()))
    content = json.loads(path.read_text())
    content["token_profile"] |= damage
    if "x" in damage:
        del content["token_profile"]["unigrams"]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidEmbeddingError, match="is not a domain embedding"):
        load_embedding(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokenizer": "sha256:" + "2" * 64}, "counted with tokenizer sha256:2+, but base has sha256:1+"),
        ({"unigrams": np.zeros(41, np.float16)}, r"have shapes .*\(41,\).* expected .*\(40,\)"),
        ({"bigrams": np.zeros((2, 2), np.float16)}, "have shapes"),
        ({"unigrams": np.full(40, np.nan, np.float16)}, "unigrams must be finite"),
        ({"bigrams": np.full(token_profile.PAIRS, 1.0, np.float16)}, "bigrams must be .* at most 0"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_with_the_reason(changes, reason):
    token_profile.check_profile(a_profile(), Seed())
    with pytest.raises(InvalidEmbeddingError, match=reason):
        token_profile.check_profile(a_profile(**changes), Seed())


def test_a_stored_profile_opens_as_tensors(registry):
    digest = token_profile.put_profile(registry.blobs, a_profile())
    stored = map_tensors(registry.blobs.path(digest))
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
        "unigrams": (40,),
        "bigrams": (token_profile.PAIRS,),
    }
    assert float(stored["unigrams"][0]) == -3.5
