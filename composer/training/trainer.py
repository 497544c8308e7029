"""Short training runs with transformers.Trainer that can be killed, resumed and repeated.

A checkpoint contains only the trained parameters (state.py), and the digests of its files. An incomplete or damaged
checkpoint is skipped, and the one before it is used.

Several processes can share a run (sharding.py). Each has its own Trainer, which sees the same rows in the same order
and passes on only its process's share of them. The gradients are averaged, and the first process writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from composer import resources
from composer.errors import RecipeError, TrainingDivergedError
from composer.extras import require
from composer.mix.recipe import OptimizerName
from composer.processes import ALONE, Team
from composer.progress import Progress, measured, silent
from composer.training import state
from composer.training.sharding import Used, shard
from registry.errors import StorageError

# The Trainer's names of optimizers; adamw is its default.
OPTIMIZERS = {"adafactor": "adafactor", "adamw_8bit": "adamw_bnb_8bit"}
DIGESTS, SCHEDULER = "nexusmix-digests.json", "scheduler.pt"


@dataclass(frozen=True)
class Schedule:
    """The Nexus paper's schedule: linear warm-up over the first tenth, then cosine decay.

    The last learning rate is `final_rate` times `learning_rate`.
    """

    learning_rate: float
    batch_rows: int
    random_seed: int
    micro_batches: int = 1  # number of pieces into which the rows of a step are divided
    gradient_checkpointing: bool = False
    optimizer: OptimizerName = "adamw"
    final_rate: float = 0.3
    warm_up: float = 0.1
    checkpoints: int = 4


def fit(
    model: PreTrainedModel,
    dataset: Any,
    trained: Iterable[nn.Parameter],
    schedule: Schedule,
    folder: Path,
    *,
    stage: str,
    before_step: Callable[[int, int], None] = lambda step, steps: None,
    progress: Progress = silent,
    team: Team = ALONE,
    sharded: bool = False,
) -> list[float]:
    """Train the given parameters of a causal LM for one pass over `dataset` (rows of `input_ids`).

    Before each step, `before_step` is called with the number of finished steps and of all steps. Training resumes
    from the newest valid checkpoint in `folder`, if there is one. Returns the logged losses (nats per token). Raises
    TrainingDivergedError if the loss is NaN or infinite, StorageError if a checkpoint cannot be written. The earlier
    checkpoints are kept in both cases.

    Every process of `team` makes the same call. If the model is `sharded`, its parameters are so afterwards. Raises
    RecipeError if they cannot share the rows of a step equally, or the optimizer cannot be sharded.
    """
    model.requires_grad_(False)
    for parameter in trained:
        if not sharded:
            parameter.data = parameter.data.clone()  # the data may be memory-mapped from a blob
        parameter.requires_grad_(True)
    if schedule.optimizer == "adamw_8bit":
        require("bitsandbytes", "8bit")
    used = None
    if team.size > 1:
        _check(schedule, team, sharded)
        used = Used(model, team)
    if sharded:
        shard(model)
    set_seed(schedule.random_seed)
    steps = max(1, math.ceil(len(dataset) / schedule.batch_rows))
    if team.size > 1:  # each Trainer is meant to run as if alone, and transformers warns of it
        logging.getLogger("transformers.training_args").setLevel(logging.ERROR)
    # A short run saves twice within a second; transformers then orders checkpoints by number, and warns of it.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    watch = _Watch(stage, steps, before_step, progress, team.leads, used if sharded else None)
    trainer = _Trainer(
        team,
        sharded,
        used,
        model=model,
        args=_arguments(schedule, steps, folder),
        train_dataset=dataset,
        data_collator=lambda rows: _collate(team.own(rows)),
        callbacks=[watch],
    )
    if schedule.micro_batches > 1 or team.size > 1:
        # Makes the Trainer divide each micro-batch's mean loss by their number. With a sum over the step's tokens,
        # the routers' losses would be added once per micro-batch and process.
        trainer.model_accepts_loss_kwargs = False
    # Remove the Trainer's own printing, because `watch` reports the progress.
    for noise in list(trainer.callback_handler.callbacks):
        if type(noise).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(noise)
    checkpoint = team.agreed(newest_sound_checkpoint(folder) if team.leads else None)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if schedule.gradient_checkpointing:
        getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
    model.requires_grad_(False)
    model.eval()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def newest_sound_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files match their digests, or None."""
    for checkpoint in sorted(
        folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True
    ):
        try:
            expected = json.loads((checkpoint / DIGESTS).read_text())
            if state.METADATA in expected and all(
                _sha256(checkpoint / name) == digest for name, digest in expected.items()
            ):
                return checkpoint
        except (OSError, ValueError):
            continue
    return None


def _check(schedule: Schedule, team: Team, sharded: bool) -> None:
    if sharded and schedule.optimizer != "adamw":
        raise RecipeError(
            f"the optimizer {schedule.optimizer} needs whole weights, and {team.size} processes have shards: use adamw "
            "or one process, or on the CPU more memory"
        )
    rows = schedule.batch_rows // schedule.micro_batches
    if rows % team.size:
        raise RecipeError(
            f"{team.size} processes cannot share the {rows} rows of a micro-batch equally: use a number of processes "
            f"that divides {rows}, or a larger batch_tokens"
        )


class _Trainer(Trainer):
    """Trainer that saves the trained parameters only, and whose run may be shared by a team."""

    def __init__(self, team: Team, sharded: bool, used: Used | None, **arguments: Any) -> None:
        self.team, self.sharded, self.used = team, sharded, used
        super().__init__(**arguments)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self.sharded:  # else it is there already, and shards cannot be moved
            super()._move_model_to_device(model, device)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the mean loss of the team, which is logged. The step's last call averages the gradients."""
        loss = self.team.mean(super().training_step(*args, **kwargs))
        if self.used is not None and not self.sharded and self.accelerator.sync_gradients:
            self.used.average()
        return loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save nothing: `_save_checkpoint` does."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.lr_scheduler is not None
        torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load nothing: `_load_optimizer_and_scheduler` does, when there is an optimizer."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.model is not None and self.lr_scheduler is not None
        unlike = state.load(Path(checkpoint), self.model, self.optimizer, shared=self.sharded)
        if unlike:
            raise StorageError(
                f"the checkpoints in {self.args.output_dir} are of other parameters than this run trains, "
                f"{len(unlike)} of them such as {unlike[0]}: delete that folder, then run the same command again"
            )
        # The rates of the next step are the optimizer's; the scheduler sets those of later steps.
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER), weights_only=True))
        assert self.optimizer is not None
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
        assert self.model is not None
        try:
            if self.team.leads or self.sharded:
                state.save(folder, self.model, self.optimizer, shared=self.sharded)
            if self.team.leads:
                super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError) as error:
            # torch has no specific error for a full disk
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            raise StorageError(
                f"cannot write a checkpoint into {self.args.output_dir} ({error}); earlier checkpoints are kept: "
                "free some disk space, then run the same command again"
            ) from error


class _Watch(TrainerCallback):
    """Callback that reports progress, raises if the loss is not finite, and writes the digests of checkpoints."""

    def __init__(
        self,
        stage: str,
        steps: int,
        before_step: Callable[[int, int], None],
        progress: Progress,
        writes: bool,
        used: Used | None,
    ) -> None:
        self.stage, self.steps, self.before_step, self.progress = stage, steps, before_step, progress
        self.writes, self.used = writes, used

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A resumed run reports its earlier losses again: the last ones before the interruption may be missing.
        for entry in state.log_history:
            if "loss" in entry:
                measured("loss", entry["step"], entry["loss"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before_step(state.global_step, self.steps)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.used is not None:
            self.used.clear_unused()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(self.stage, state.global_step, self.steps)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss became {loss} at step {state.global_step} of {self.steps}: try a lower learning rate; "
                f"the last good checkpoint is kept in {args.output_dir}"
            )
        if loss is not None:
            measured("loss", state.global_step, loss)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.writes:
            return
        checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
        digests = {file.name: _sha256(file) for file in sorted(checkpoint.iterdir()) if file.is_file()}
        (checkpoint / DIGESTS).write_text(json.dumps(digests))


def _arguments(schedule: Schedule, steps: int, folder: Path) -> TrainingArguments:
    device, half = resources.device(), resources.training_dtype()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=schedule.batch_rows // schedule.micro_batches,
        gradient_accumulation_steps=schedule.micro_batches,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": schedule.final_rate},
        warmup_steps=schedule.warm_up,
        weight_decay=0.0,
        max_grad_norm=1.0,
        **_optimizer(schedule),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if schedule.checkpoints else "no",
        save_steps=max(1, math.ceil(steps / max(1, schedule.checkpoints))),
        save_total_limit=2,
        seed=schedule.random_seed,
        data_seed=schedule.random_seed,
        use_cpu=device.type == "cpu",
        bf16=half == torch.bfloat16,
        fp16=half == torch.float16,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
        **(_checkpointing() if schedule.gradient_checkpointing else {}),
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # more would wrap the model in DataParallel, which copies it
    return arguments


def _optimizer(schedule: Schedule) -> dict[str, Any]:
    """Return the arguments for another optimizer than the Trainer's default."""
    return {"optim": OPTIMIZERS[schedule.optimizer]} if schedule.optimizer in OPTIMIZERS else {}


def _checkpointing() -> dict[str, Any]:
    """Return the arguments for recomputing activations, which transformers 5.24 renamed from gradient_checkpointing."""
    new = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
    name = f"{'activation' if new else 'gradient'}_checkpointing"
    # Reentrant checkpointing first runs a block without gradients, so the auxiliary losses would not reach the routers.
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}


def _collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    columns = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return {"labels": columns["input_ids"], **columns}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
