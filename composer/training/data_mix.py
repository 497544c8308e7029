"""Shares of the domains in the training data: by rule, or from small proxy runs (RegMix, arXiv 2407.01492).

A few data mixtures are drawn from a flat Dirichlet distribution. For each, a proxy run starts from the mix's current
weights and trains the trunk for a few tokens, or the routers or the differences if the recipe trains only these. Then
its loss on held-out text is measured for every domain. Ridge regression of these losses on the shares predicts the
losses of any mixture. The result is the average of the mixtures with the best predictions.

RegMix uses boosted trees over hundreds of runs. About a dozen runs suffice only for a linear model. It also has the
square root of the domain's own share as a feature, because more of the same text helps less and less.

Shape suffixes: R runs, D domains, F features, C candidates.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from composer.mix.opening import OpenMix
from composer.mix.recipe import TrainedPart, Training
from composer.progress import Progress, silent
from composer.training.data import Documents, characters, mixed_rows, pack, shares
from composer.training.fine_tune import parameters
from composer.training.trainer import Schedule, fit

KEPT_APART = 8  # one document in 8 is held out from the proxy runs
MEASURED_ROWS = 8
CANDIDATES, BEST = 10_000, 100
RIDGE = 1e-3


@dataclass(frozen=True)
class DataMix:
    """Chosen shares of the domains.

    predicted, predicted_uniform: mean loss that the regression predicts for the best mixtures and for equal shares.
    tokens: number of tokens that the proxy runs trained on.
    """

    shares: dict[str, float]
    predicted: float
    predicted_uniform: float
    tokens: int


def choose_shares(
    mix: OpenMix,
    domains: Mapping[str, Documents],
    new: str | None,
    training: Training,
    folder: Path,
    progress: Progress = silent,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return each domain's share by the recipe's `data_mix` rule, and the report of a search (else empty).

    A `new` domain gets half of all tokens. Raises RecipeError, TrainingDivergedError.
    """
    if training.data_mix == "uniform":
        return shares(dict.fromkeys(domains, 1.0), new), {}
    rest = {name: documents for name, documents in domains.items() if name != new}
    if training.data_mix == "proportional" or len(rest) < 2:  # with one domain there is nothing to choose
        return shares(characters(domains), new), {}
    found = search(mix, rest, training, folder, progress)
    share = shares({**found.shares, **({} if new is None else {new: 1.0})}, new)
    return share, {"data_mix": {**asdict(found), "shares": share}}


def search(
    mix: OpenMix,
    domains: Mapping[str, Documents],
    training: Training,
    folder: Path,
    progress: Progress = silent,
) -> DataMix:
    """Search for the best shares with proxy runs. The mix is unchanged afterwards.

    The results of finished runs are stored in `folder`, so that an interrupted search resumes. Raises RecipeError,
    TrainingDivergedError.
    """
    names = list(domains)
    mixtures_RD = draw_mixtures(len(names), training.regmix_runs, training.random_seed)
    folder.mkdir(parents=True, exist_ok=True)
    done_path = folder / "regmix.json"
    losses: list[list[float]] = json.loads(done_path.read_text()) if done_path.exists() else []
    for run in range(len(losses), len(mixtures_RD)):
        progress("searching for a data mix", run, len(mixtures_RD))
        share = dict(zip(names, mixtures_RD[run].tolist(), strict=True))
        losses.append(_proxy(mix, domains, share, training, folder / "proxy"))
        temporary = done_path.with_suffix(".part")
        temporary.write_text(json.dumps(losses))
        temporary.replace(done_path)
    shares_D, predicted, uniform = best_mixture(mixtures_RD, np.array(losses), training.random_seed)
    return DataMix(
        shares=dict(zip(names, shares_D.tolist(), strict=True)),
        predicted=predicted,
        predicted_uniform=uniform,
        tokens=training.regmix_runs * training.regmix_tokens,
    )


def draw_mixtures(domains: int, runs: int, random_seed: int) -> np.ndarray:
    """Draw mixtures [R, D]: first equal shares, then samples of the flat Dirichlet distribution."""
    drawn = np.random.default_rng(random_seed).dirichlet(np.ones(domains), size=runs - 1)
    return np.concatenate([np.full((1, domains), 1 / domains), drawn])


def best_mixture(
    mixtures_RD: np.ndarray, losses_RD: np.ndarray, random_seed: int
) -> tuple[np.ndarray, float, float]:
    """Return the mean of the best mixtures, their mean predicted loss, and that of equal shares.

    The best mixtures are those with the lowest loss, as a mean over domains, that the regression predicts.
    """
    runs, domains = mixtures_RD.shape
    candidates_CD = np.random.default_rng([random_seed, 1]).dirichlet(np.ones(domains), size=CANDIDATES)
    uniform = np.full((1, domains), 1 / domains)
    asked_CD = np.concatenate([uniform, candidates_CD])
    predicted_C = np.zeros(len(asked_CD))
    for d in range(domains):
        features_RF, target_R = _features(mixtures_RD, d), losses_RD[:, d]
        center_F = features_RF.mean(axis=0)
        x = features_RF - center_F
        slope_F = np.linalg.solve(
            x.T @ x + RIDGE * runs * np.eye(x.shape[1]), x.T @ (target_R - target_R.mean())
        )
        predicted_C += (target_R.mean() + (_features(asked_CD, d) - center_F) @ slope_F) / domains
    best_CD = candidates_CD[np.argsort(predicted_C[1:], kind="stable")[:BEST]]
    return best_CD.mean(axis=0), float(np.sort(predicted_C[1:])[:BEST].mean()), float(predicted_C[0])


def _features(mixtures_RD: np.ndarray, domain: int) -> np.ndarray:
    """Return the features of the loss on a domain: all shares, and the square root of its own share."""
    return np.concatenate([mixtures_RD, np.sqrt(mixtures_RD[:, [domain]])], axis=1)


def _proxy(
    mix: OpenMix,
    domains: Mapping[str, Documents],
    share: Mapping[str, float],
    training: Training,
    folder: Path,
) -> list[float]:
    """Train on one mixture for a short time and return the loss on each domain, in nats per token."""
    seen = {
        name: [d for i, d in enumerate(texts) if i % KEPT_APART] or texts for name, texts in domains.items()
    }
    rows = mixed_rows(
        mix.tokenizer,
        seen,
        share,
        tokens=training.regmix_tokens,
        length=training.sequence_length,
        random_seed=training.random_seed,
    )
    schedule = Schedule(training.learning_rate, training.batch_rows, training.random_seed, checkpoints=0)
    part: TrainedPart = training.train if training.train in ("router", "lora") else "trunk"
    trained = [parameter for _, parameter in parameters(mix.model, part, router=part == "router")]
    before = [parameter.data for parameter in trained]  # `fit` trains copies
    try:
        fit(mix.model, rows, trained, schedule, folder, stage="proxy run")
        return [_loss(mix, texts[::KEPT_APART], training.sequence_length) for texts in domains.values()]
    finally:
        for parameter, data in zip(trained, before, strict=True):
            parameter.data = data
        shutil.rmtree(folder, ignore_errors=True)


@torch.inference_mode()
def _loss(mix: OpenMix, texts: Sequence[str], length: int) -> float:
    """Return the mean cross-entropy on the first rows of some documents."""
    rows = pack(mix.tokenizer, texts, length, MEASURED_ROWS).to(mix.model.device)
    logits = mix.model(input_ids=rows[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
