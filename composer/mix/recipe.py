"""The recipe: a request for a mix, and the settings of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from composer.errors import RecipeError
from composer.mix import presets, research
from composer.mix.routing import RoutingOptions
from composer.trunks import TrunkMergeChoice
from composer.trunks.regmean import RegMean
from composer.trunks.weighted import Weighted
from composer.variants import ROUTERS

RouterName = Annotated[str, AfterValidator(lambda name: ROUTERS.find(name).name)]
DataMixName = Literal["uniform", "proportional", "regmix"]
TrainedPart = Literal["router", "trunk", "ffn", "all", "lora"]
OptimizerName = Literal["adamw", "adafactor", "adamw_8bit"]

Model = TypeVar("Model", bound=BaseModel)

GUIDANCE = 0.3
UNSOLVED_TOKENS = 100_000  # fine-tune by default, of a router that no warm start solves
LORA_LEARNING_RATE = 1e-3
# Of all other weights. A router that a warm start solved needs no training, and a real seed bears no higher rate.
LEARNING_RATE, SOLVED_LEARNING_RATE = 3e-4, 1e-4
# Options of the fine-tune alone.
OF_THE_FINE_TUNE = frozenset(
    {"train", "learning_rate", "lora_rank", "optimizer", "dense_to_sparse", "guidance"}
)
# Options of a training that a mix with a routed trunk has too.
FOR_ROUTED_TRUNKS = frozenset(
    {
        "warm_start",
        "tokens",
        "data_mix",
        "learning_rate",
        "lora_rank",
        "sequence_length",
        "batch_tokens",
        "micro_batches",
        "gradient_checkpointing",
        "optimizer",
        "random_seed",
    }
)


def _valid(cls: type[Model], values: Mapping[str, Any], what: str) -> Model:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or what}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise RecipeError(f"the {what} is not valid: {wrong}") from error


class Training(BaseModel):
    """Settings of the warm start and the fine-tune.

    `tokens` counts all domains together; 0 means no fine-tune. By default there is one only without a warm start:
    with it, a mix is composed in seconds, and a fine-tune is the user's choice (bench/RESULTS.md).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    warm_start: bool = True
    tokens: Annotated[int, Field(ge=0)] = 0
    train: TrainedPart = "all"
    # None trains only a router without a warm start, or one that needs training: a short fine-tune makes a
    # warm-started router worse.
    # If true, an extension solves the embeddings of all experts again, else only that of the new expert.
    train_router: bool | None = None
    # Shares of the domains: equal, proportional to their text, or found by short proxy runs (data_mix.py).
    data_mix: DataMixName = "uniform"
    regmix_runs: Annotated[int, Field(ge=2)] = 16
    regmix_tokens: Annotated[int, Field(ge=8)] = 4096
    # If it is not given, that of `usual_rate`.
    learning_rate: Annotated[float, Field(gt=0, le=1)] = SOLVED_LEARNING_RATE
    # Factors of the losses in losses.py. `global_batch` balances a whole step instead of each micro-batch.
    load_balance: Annotated[float, Field(ge=0)] = 0.01
    balance_over: Literal["micro_batch", "global_batch"] = "micro_batch"
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    entropy: Annotated[float, Field(ge=0)] = 0.0
    # Factor of the loss −log p of the expert of each token's domain. 0 gives the paper's fine-tune.
    # None means 0 without a warm start, else GUIDANCE.
    guidance: Annotated[float | None, Field(ge=0)] = None
    # Share of the fine-tune's steps in which routing changes from dense to the mix's own (selection.py).
    dense_to_sparse: Annotated[float, Field(ge=0, le=1)] = 0.0
    # Of the low-rank differences that train in whole experts, and with `train: lora` in a merged mix.
    lora_rank: Annotated[int, Field(ge=1, le=1024)] = 16
    sequence_length: Annotated[int, Field(ge=8)] = 256
    batch_tokens: Annotated[int, Field(ge=8)] = 512
    # Both save memory: the batch of a step is split into micro-batches; activations are recomputed.
    micro_batches: Annotated[int, Field(ge=1)] = 1
    gradient_checkpointing: bool = False
    # adafactor keeps row and column means in place of two moments; adamw_8bit, moments of one byte (bitsandbytes).
    optimizer: OptimizerName = "adamw"
    random_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit new fields at their default: locks from before them keep their digests."""
        fields: dict[str, Any] = dump(self)
        if self.optimizer == "adamw":
            fields.pop("optimizer", None)
        return fields

    @property
    def guided(self) -> float:
        """Factor of the guidance loss."""
        if self.guidance is not None:
            return self.guidance
        return GUIDANCE if self.warm_start else 0.0

    def usual_tokens(self, *, needs_training: bool = False) -> int:
        """Tokens where none are given; `needs_training`: no warm start solves all of the router."""
        return 0 if self.warm_start and not needs_training else UNSOLVED_TOKENS

    @property
    def learns(self) -> bool:
        """Whether anything is solved or trained."""
        return self.warm_start or self.tokens > 0

    @property
    def batch_rows(self) -> int:
        """Rows of `sequence_length` tokens per step."""
        return max(1, self.batch_tokens // self.sequence_length)

    def for_routed_trunk(self) -> Training:
        """The same with a routed trunk's defaults: no fine-tune, or a learning rate for low-rank differences.

        Raises ValueError for options that such a fine-tune does not have.
        """
        usual = Training()
        if self.train == "lora":  # it is what this fine-tune does
            self = self.model_copy(update={"train": usual.train})
        asked = [
            name
            for name in sorted(self.model_fields_set - FOR_ROUTED_TRUNKS)
            if getattr(self, name) != getattr(usual, name)
        ]
        if self.data_mix == "regmix":
            asked.append("data_mix regmix")
        if asked:
            raise ValueError(
                "the fine-tune of whole experts trains one low-rank difference per expert and no router: leave out "
                f"{', '.join(asked)}, or choose another trunk merge, for example regmean"
            )
        if not (self.tokens and "tokens" in self.model_fields_set):
            return self.model_copy(update={"tokens": 0})
        given = "learning_rate" in self.model_fields_set
        return self if given else self.model_copy(update={"learning_rate": LORA_LEARNING_RATE})

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Training:
        """Validate settings. Raises RecipeError that names every wrong field."""
        return _valid(cls, values, "training")

    @model_validator(mode="after")
    def _fresh_routers_train(self) -> Training:
        if "tokens" not in self.model_fields_set:
            object.__setattr__(self, "tokens", self.usual_tokens())
        return self

    @model_validator(mode="after")
    def _options_have_a_fine_tune(self) -> Training:
        asked = sorted(self.model_fields_set & OF_THE_FINE_TUNE)
        if asked and not self.tokens and "tokens" not in self.model_fields_set:
            raise ValueError(
                f"{', '.join(asked)}: without tokens there is no fine-tune; add tokens, for example 100000"
            )
        return self

    @property
    def usual_rate(self) -> float:
        """Learning rate where none is given."""
        if self.train == "lora":
            return LORA_LEARNING_RATE
        return SOLVED_LEARNING_RATE if self.warm_start else LEARNING_RATE

    @model_validator(mode="after")
    def _has_a_rate(self) -> Training:
        if "learning_rate" not in self.model_fields_set:
            object.__setattr__(self, "learning_rate", self.usual_rate)
        return self

    @model_validator(mode="after")
    def _micro_batches_are_whole_rows(self) -> Training:
        if self.batch_rows % self.micro_batches:
            raise ValueError(
                f"micro_batches is {self.micro_batches}, which does not divide the {self.batch_rows} rows of a step "
                "(batch_tokens / sequence_length); give a divisor"
            )
        return self


def routed_training(training: Training) -> Training:
    """Return the training of an extension of a routed trunk. Raises RecipeError for options that it does not have."""
    try:
        return training.for_routed_trunk()
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _needs_merged_trunk(recipe: Mapping[str, Any]) -> bool:
    """Return whether a recipe sets an option that a routed trunk does not have."""
    training = recipe.get("training")
    routing = {"router", *RoutingOptions.model_fields}
    asked = dict(training) if isinstance(training, Mapping) else {}
    if asked.get("train") == "lora":
        del asked["train"]
    other = asked.keys() - FOR_ROUTED_TRUNKS or asked.get("data_mix") == "regmix"
    return bool(other or any(recipe.get(name) is not None for name in routing))


class Recipe(RoutingOptions):
    """A request for a mix. `experts` are names, which mean the newest version, or `name@version`.

    `trunk_merge` is the name of a method, or a mapping with its parameters: {method: ties, density: 0.3}. By default
    it is routed, which measured best, also with a fine-tune. Options that only a merged trunk has choose regmean.
    The input may give research options in a block: {research: {top_p: 0.9}}; and `preset`, a name of presets.py.
    The fields stay flat.
    """

    name: str
    seed: str
    experts: Annotated[list[str], Field(min_length=1)]
    router: RouterName = "nexus"
    trunk_merge: TrunkMergeChoice = RegMean()
    training: Training = Training()
    license_override: str | None = Field(
        default=None, description="reason to combine licences that forbid it"
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Expand the preset and the research block, and choose the trunk where the input does not."""
        if not isinstance(values, Mapping):
            return values
        training = values.get("training")
        if isinstance(training, Training):
            values = {**values, "training": training.model_dump(exclude_unset=True)}
        values = presets.with_preset(research.flat(values))
        if "trunk_merge" in values or _needs_merged_trunk(values):
            return values
        return {**values, "trunk_merge": "routed"}

    @field_validator("experts")
    @classmethod
    def _no_expert_twice(cls, experts: list[str]) -> list[str]:
        twice = sorted({e for e in experts if experts.count(e) > 1})
        if twice:
            raise ValueError(f"experts listed more than once: {', '.join(twice)}")
        return experts

    @model_validator(mode="after")
    def _experts_are_chosen_in_one_way(self) -> Recipe:
        if self.top_p is not None and self.top_k != 1:
            raise ValueError(f"top_k is {self.top_k} and top_p is {self.top_p}; give only one of them")
        if self.null_experts and self.top_p is None and self.top_k == 1:
            raise ValueError(
                "null_experts need top_k of 2 or more, or top_p: their initial score is the average of the experts', "
                "so the best expert always scores higher"
            )
        return self

    @model_validator(mode="after")
    def _one_whole_expert_per_token(self) -> Recipe:
        if not self.trunk_merge.routed:
            return self
        asked = [name for name in ("top_p", "null_experts") if getattr(self, name)]
        if self.top_k != 1 or asked or self.router != "nexus":
            raise ValueError(
                "trunk_merge routed sends each token to one whole expert by a router of its own: "
                f"leave out router, top_k, top_p and null_experts; got router {self.router}, top_k {self.top_k}"
                + "".join(f", {name} {getattr(self, name)}" for name in asked)
            )
        object.__setattr__(self, "training", self.training.for_routed_trunk())
        return self

    @model_validator(mode="after")
    def _routers_that_need_training_train(self) -> Recipe:
        if "tokens" not in self.training.model_fields_set and self.training.tokens != self.usual_tokens:
            training = self.training.model_copy()
            object.__setattr__(training, "tokens", self.usual_tokens)
            object.__setattr__(self, "training", training)
        return self

    @model_validator(mode="after")
    def _something_trains(self) -> Recipe:
        fixed = not ROUTERS[self.router].trainable
        if fixed and self.training.train == "router" and self.training.tokens:
            raise ValueError(
                f"train is router, but no training changes the router {self.router}; "
                "train another part, or set tokens to 0"
            )
        return self

    @model_validator(mode="after")
    def _a_weight_for_each_expert(self) -> Recipe:
        merge = self.trunk_merge
        if isinstance(merge, Weighted) and len(merge.weights) != len(self.experts):
            raise ValueError(
                f"trunk_merge has {len(merge.weights)} weights for {len(self.experts)} experts; "
                "give one weight per expert, in the order of experts"
            )
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Recipe:
        """Validate a recipe. Raises RecipeError that names every wrong field."""
        return _valid(cls, values, "recipe")

    @classmethod
    def from_yaml(cls, path: Path, *, training: Mapping[str, Any] | None = None, **overrides: Any) -> Recipe:
        """Read a recipe file; `overrides` replace its fields, also those in its research block.

        `training` replaces single fields of its training.

        Raises RecipeError.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the recipe {path}: {error}") from error
        return cls.from_text(text, str(path), training=training, **overrides)

    @classmethod
    def from_text(
        cls, text: str, source: str, *, training: Mapping[str, Any] | None = None, **overrides: Any
    ) -> Recipe:
        """Read the text of a recipe file as `from_yaml` does; `source` names it in errors. Raises RecipeError."""
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"cannot read the recipe {source}: {error}") from error
        if not isinstance(values, dict):
            raise RecipeError(f"{source}: expected a mapping of recipe fields, got {type(values).__name__}")
        try:
            fields = presets.with_preset(research.flat(values))
        except ValueError as error:
            raise RecipeError(f"the recipe is not valid: {error}") from error
        if training and isinstance(fields.get("training", {}), Mapping):
            fields["training"] = {**fields.get("training", {}), **training}
        return cls.parse({**fields, **overrides})

    def written(self, **dump: Any) -> dict[str, Any]:
        """Fields for a reader, with the research options in their block. `dump` is passed to model_dump."""
        merge = self.trunk_merge.model_dump()
        # Always written: without it, a recipe with few options would be one for whole experts.
        values = {**self.model_dump(**dump), "trunk_merge": merge if len(merge) > 1 else merge["method"]}
        return research.with_block(values, self.usual().model_dump())

    def usual(self) -> Recipe:
        """Return the recipe of the same experts and the same kind of trunk whose other options have their defaults."""
        trunk = self.trunk_merge if self.trunk_merge.routed else RegMean()
        return type(self)(name=self.name, seed=self.seed, experts=self.experts, trunk_merge=trunk)

    @property
    def usual_tokens(self) -> int:
        """Tokens of a recipe with this router and warm start that gives none."""
        if self.trunk_merge.routed:
            return 0
        return self.training.usual_tokens(needs_training=ROUTERS[self.router].needs_training)

    def to_yaml(self) -> str:
        """Text of a file that `from_yaml` reads."""
        values = self.written(exclude_none=True)
        first = {name: values[name] for name in ("name", "seed", "experts")}
        return yaml.safe_dump({**first, **values}, sort_keys=False, allow_unicode=True)
