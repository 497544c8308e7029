"""The fine-tune of a mix of whole experts: one low-rank difference per expert (LoRA, arXiv 2106.09685).

Each row of training text passes through the expert of its own domain, as if each expert were trained on alone. All
weights that the mix refers to stay as they are; the differences of the experts are all that is stored.

A short fine-tune is noisy, as a short training of an expert is. So each expert keeps the share σ of its change that
predicts its domain best, θ_before + σ (θ_after − θ_before), found as strengths are (strengths.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from composer.bits_per_byte import bits_per_byte
from composer.mix.domains import Domain
from composer.mix.opening import Manifest, OpenMix, open_mix
from composer.mix.recipe import Training
from composer.mix.tensor_names import PREFIX
from composer.model.modeling import forced
from composer.model.routed import add_differences, differences
from composer.progress import Progress, measured, timed
from composer.routed_trunk.strengths import minimum, text_for_choices
from composer.tensors.torch_blobs import put_tensors
from composer.training.data import characters, shares
from composer.training.fine_tune import Job, rows_of, run
from registry.domains import documents
from registry.home import Registry
from registry.records import Digest
from registry.work_folders import occupied, work_folder


def fine_tune(
    registry: Registry, draft: Manifest, domains: Sequence[Domain], training: Training, progress: Progress
) -> Manifest:
    """Train the last experts of a draft, one for each of `domains`, and return the manifest with their differences.

    An expert without text is not trained. An interrupted run resumes from its last checkpoint when the same lock is
    composed again. Raises MissingTextError, RecipeError, TrainingDivergedError, StorageError.
    """
    first = len(draft.members) - len(domains)
    trained = {first + place: domain for place, domain in enumerate(domains) if domain.has_text}
    texts = {domain.name: _for_training(domain) for domain in trained.values()}
    folder = work_folder(registry, draft.lock.removeprefix("sha256:"))

    def on_wait() -> None:
        progress("waiting for another composition of the same lock", 0, 1)

    with occupied(registry, folder, keep=True, on_wait=on_wait) as work, timed("fine-tune"):
        # All others are frozen, so they are mapped or computed on demand.
        mix = open_mix(registry, draft, dtype=torch.float32, trained=trained)
        torch.manual_seed(training.random_seed)
        add_differences(mix.model, list(trained), training.lora_rank)
        weights = dict.fromkeys(texts, 1.0) if training.data_mix == "uniform" else characters(texts)
        rows = rows_of(mix, texts, shares(weights), training)
        before = {j: _copied(mix, j) for j in trained}
        losses = run(mix, Job(draft, training, rows, work, tuple(trained)), progress)
        mix.model.router.forced = None
        members, kept = list(draft.members), {}
        for done, (j, domain) in enumerate(trained.items()):
            progress("measuring the fine-tune", done, len(trained))
            kept[members[j].expert.ref] = keep_best_share(mix, j, before[j], domain.documents)
            members[j] = members[j].model_copy(update={"difference": _stored(registry, mix, j)})
        progress("measuring the fine-tune", len(trained), len(trained))
    # A step may contain rows of one domain only, so the report averages the losses over a tenth of the steps.
    tenth = max(1, len(losses) // 10)
    report: dict[str, Any] = {
        **draft.training,
        "tokens": training.tokens,
        "kept": kept,
        "first_loss": fmean(losses[:tenth]),
        "last_loss": fmean(losses[-tenth:]),
    }
    return draft.model_copy(update={"members": members, "training": report})


def keep_best_share(
    mix: OpenMix, choice: int, before: Mapping[str, torch.Tensor], sample: Sequence[str]
) -> float:
    """Set an expert's difference to its best share between `before` (0) and its present value (1); return the share.

    Three forward passes measure 0, a half and 1 on the text for choices of `sample`. Without such text it is 1.
    """
    text = text_for_choices(mix.tokenizer, sample)
    if text is None:
        return 1.0
    after = _copied(mix, choice)

    def keep(share: float) -> None:
        for name, parameter in differences(mix.model, choice).items():
            parameter.data = torch.lerp(before[name], after[name], share)

    def loss(share: float) -> float:
        keep(share)
        with forced(mix.model, choice):
            found = bits_per_byte(mix.model, text)
        measured(f"fine-tune of {mix.manifest.members[choice].expert.ref}", round(100 * share), found)
        return found

    losses = {share: loss(share) for share in (0.0, 0.5, 1.0)}
    best = minimum(list(losses.items()))
    if best not in losses and loss(best) > min(losses.values()):
        best = min(losses, key=lambda share: losses[share])
    keep(best)
    return best


def _copied(mix: OpenMix, choice: int) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in differences(mix.model, choice).items()}


def _for_training(domain: Domain) -> list[str]:
    """The domain's documents without those that chose its expert's strength, if others are left."""
    kept = [text for text in domain.documents if not documents.is_for_choices(text)]
    return kept or list(domain.documents)


def _stored(registry: Registry, mix: OpenMix, choice: int) -> Digest:
    """Store an expert's difference under the names of registry/checkpoints/low_rank.py."""
    base = mix.manifest.parts().base_of[choice]
    tensors = {}
    for name, parameter in differences(mix.model, choice).items():
        plain = name.replace(f".differences.{choice}.", ".").replace(f".choices.{base}.", ".", 1)
        tensors[plain.removeprefix(PREFIX)] = parameter.detach().float()
    return put_tensors(registry.blobs, tensors)
