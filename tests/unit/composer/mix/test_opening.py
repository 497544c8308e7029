"""Models are built around weights that exist: none is drawn at random first."""

import json

import pico
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from composer.mix.opening import build_dense
from composer.tensors.weights import stored


@pytest.mark.parametrize("tied", [False, True])
def test_opening_a_model_draws_no_random_weights_and_leaves_torch_as_it_was(tmp_path, monkeypatch, tied):
    folder = pico.write_pico(tmp_path / "seed", tie_word_embeddings=tied)
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: drawn.append(tensor))
        patch.setattr(PreTrainedModel, "initialize_weights", lambda model: drawn.append(model))
        model = build_dense(config, stored(tensors), torch.float32)
        assert not drawn
        torch.nn.Linear(4, 4)
        assert len(drawn) == 1
    assert all(
        torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items() if name in tensors
    )
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
