"""The names of the tensors in a router blob."""

from __future__ import annotations

import pytest
import torch

from composer.mix.domains import Standard
from composer.mix.router_blob import of_layer, of_layers, router_tensors, stored_standard


def test_routers_and_their_standardisation_come_back_from_their_blob() -> None:
    states = [
        {"w1": torch.tensor([float(layer)]), "gru.bias": torch.tensor([layer + 0.5])} for layer in range(11)
    ]
    standard = Standard(torch.tensor([1.0, 2.0]), torch.tensor(3.0))
    tensors = router_tensors(states, standard)
    assert {"layers.10.gru.bias", "standard.center", "standard.scale"} <= tensors.keys()
    for layer, state in enumerate(states):
        assert of_layer(tensors, layer) == state
    assert of_layers(tensors) == {
        (layer, name): tensor for layer, state in enumerate(states) for name, tensor in state.items()
    }
    again = stored_standard(tensors)
    assert torch.equal(again.center, standard.center) and again.scale.shape == ()
    assert again.scale.item() == pytest.approx(3.0)
