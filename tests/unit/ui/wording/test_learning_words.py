"""The cost of training in words, and the sum of its seconds."""

from composer.progress import STAGE_SECONDS, added_up, measured, measuring, timed
from ui.wording.training_cost import learning_facts

TRAINING = {
    "warm_start": {"tokens": 55_123, "own_domain": 0.74},
    "tokens": 68_000,
    "first_loss": 4.321,
    "last_loss": 3.987,
}


def test_training_is_described_in_tokens_and_where_known_in_seconds():
    assert learning_facts(TRAINING, {"trunk": 3.14, "router": 75.0, "fine-tune": 50.0}) == {
        "warm start": "55,123 tokens, forward passes only (trunk 3.1 s, router 1 min 15 s)",
        "fine-tune": "68,000 tokens trained in 50.0 s",
        "loss": "4.32 → 3.99 nats per token",
    }
    assert learning_facts(TRAINING)["warm start"] == "55,123 tokens, forward passes only"


def test_a_mix_that_learned_nothing_says_so():
    assert learning_facts({}) == {"fine-tune": "none"}


def test_seconds_of_a_stage_add_up_and_an_outer_listener_receives_them_too():
    heard = []
    with measuring(lambda name, step, value: heard.append(name)), added_up(STAGE_SECONDS) as seconds:
        for stage in ("router", "trunk", "router"):
            with timed(stage):
                measured("loss", 1, 2.5)
    assert set(seconds) == {"router", "trunk"} and min(seconds.values()) >= 0
    assert heard == [
        "loss",
        "router stage seconds",
        "loss",
        "trunk stage seconds",
        "loss",
        "router stage seconds",
    ]
