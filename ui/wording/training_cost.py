"""The training cost of a mix in tokens and, if measured, in seconds, for the shell and the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ui.wording.display import duration


def learning_facts(training: Mapping[str, Any], seconds: Mapping[str, float] | None = None) -> dict[str, str]:
    """Return the facts of a manifest's training report by name: warm-start tokens, trained tokens and the loss.

    `seconds` has the duration of each stage ("trunk", "router", "fine-tune"). Only the composing run has it.
    """
    seconds = seconds or {}
    facts = {}
    if "warm_start" in training:
        stages = [
            f"{stage} {duration(seconds[stage])}" for stage in ("trunk", "router") if seconds.get(stage)
        ]
        spent = f" ({', '.join(stages)})" if stages else ""
        facts["warm start"] = f"{training['warm_start']['tokens']:,} tokens, forward passes only{spent}"
    tuned = training.get("tokens", 0)
    spent = f" in {duration(seconds['fine-tune'])}" if seconds.get("fine-tune") else ""
    facts["fine-tune"] = f"{tuned:,} tokens trained{spent}" if tuned else "none"
    if "first_loss" in training:
        facts["loss"] = f"{training['first_loss']:.2f} → {training['last_loss']:.2f} nats per token"
    return facts
