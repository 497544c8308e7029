"""Sizes of context heads, and the way of each mean from its value to its channel."""

import numpy as np
import pytest

from composer.formats.context_heads import EPSILON, ContextHeads, context_heads
from composer.tensors.rows import Zeros


def heads(*, blocks=2, experts=3, hidden=32, head_dim=2, group=2):
    directions = [
        np.random.default_rng(k).standard_normal((experts, hidden), dtype=np.float32) for k in range(blocks)
    ]
    count = hidden // head_dim
    return ContextHeads(directions, hidden, head_dim, count, count // group, unpadded=hidden)


@pytest.mark.parametrize(
    ("sizes", "width"),
    [
        ({"blocks": 4, "experts": 4, "hidden": 192, "head_dim": 48, "group": 1}, 288),  # a multiple of 32
        ({"blocks": 30, "experts": 4, "hidden": 576, "head_dim": 64, "group": 3}, 768),  # SmolLM2-135M
        ({"blocks": 30, "experts": 7, "hidden": 576, "head_dim": 64, "group": 3}, 960),
        ({"blocks": 2, "experts": 3, "hidden": 32, "head_dim": 2, "group": 2}, 64),
        ({"blocks": 1, "experts": 1, "hidden": 36, "head_dim": 6, "group": 1}, 48),
    ],
)
def test_the_width_has_room_for_all_means_and_is_a_multiple_of_what_readers_need(sizes, width):
    found = heads(**sizes)
    assert found.width == width
    assert found.channels > len(found.directions) * len(found.directions[0])
    stock = found.config({"rms_norm_eps": 1e-5, "vocab_size": 7})
    assert stock["num_attention_heads"] * found.head_dim == stock["hidden_size"] == width
    assert stock["num_attention_heads"] == found.group * stock["num_key_value_heads"]
    assert stock["vocab_size"] == 7


def test_every_mean_reaches_its_channel_also_with_more_experts_than_a_head_has_values():
    found = heads(experts=5)
    name = "model.layers.1.self_attn.{}.weight"
    plain = {
        name.format("v_proj"): Zeros(found.kv_heads * 2, 32),
        name.format("o_proj"): Zeros(32, 32),
    }
    v, o = (t.rows(0, t.shape[0], "F32").astype(np.float32) for t in found.tensors(plain).values())
    u = np.random.default_rng(9).standard_normal(found.width).astype(np.float32)
    by_kv_head = (v @ u).reshape(-1, 2)
    channels = o @ np.repeat(by_kv_head, found.group, axis=0).flatten()
    expected = np.zeros(found.width, np.float32)
    expected[32 + 1 + 5 : 32 + 1 + 10] = EPSILON * found.directions[1] @ u[:32]
    np.testing.assert_allclose(channels, expected, atol=1e-6)


def test_a_gates_features_by_expert_become_channels_by_block():
    found = heads(experts=2)
    rows = np.arange(2 * (32 + 1 + 4), dtype=np.float32).reshape(2, -1)
    wide = found.gate(rows, block=1)
    assert wide.shape == (2, found.width)
    np.testing.assert_array_equal(wide[:, :33], rows[:, :33])
    np.testing.assert_array_equal(wide[:, 33:37], rows[:, 33:][:, [0, 2, 1, 3]])
    assert not wide[:, 37:].any()


def test_gates_without_context_need_no_heads():
    assert context_heads([], {}, 8) is None
