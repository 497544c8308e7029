"""The recipe: what the user asks for."""

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
    ValidationError,
    field_validator,
    model_validator,
)

from composer.errors import RecipeError
from composer.mix.routing import RoutingOptions
from composer.trunks import TrunkMergeChoice
from composer.trunks.regmean import RegMean
from composer.trunks.weighted import Weighted
from composer.variants import ROUTERS

RouterName = Annotated[str, AfterValidator(lambda name: ROUTERS.find(name).name)]
DataMixName = Literal["uniform", "proportional", "regmix"]
TrainedPart = Literal["router", "trunk", "ffn", "all"]

Model = TypeVar("Model", bound=BaseModel)

GUIDANCE = 0.3


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
    """How a mix learns. Tokens are counted over all domains; 0 trains nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    warm_start: bool = True
    tokens: Annotated[int, Field(ge=0)] = 100_000
    train: TrainedPart = "all"
    # None: only a router that was not warm-started. A short fine-tune makes a warm-started one worse.
    # An extension solves the embeddings of all experts anew where it is true, else the new expert's alone.
    train_router: bool | None = None
    # How much of each domain: equal parts, as much as it has text, or what short runs found best (data_mix.py).
    data_mix: DataMixName = "uniform"
    regmix_runs: Annotated[int, Field(ge=2)] = 16
    regmix_tokens: Annotated[int, Field(ge=8)] = 4096
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-4
    # The losses of losses.py by their factors; `global_batch` balances a whole step, not each micro-batch.
    load_balance: Annotated[float, Field(ge=0)] = 0.01
    balance_over: Literal["micro_batch", "global_batch"] = "micro_batch"
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    entropy: Annotated[float, Field(ge=0)] = 0.0
    # The weight of a loss that asks each token to choose its own domain's expert; 0: the paper's fine-tune.
    # None: 0 without a warm start, else GUIDANCE.
    guidance: Annotated[float | None, Field(ge=0)] = None
    # The share of the fine-tune's steps in which routing goes from dense to what the mix does (selection.py).
    dense_to_sparse: Annotated[float, Field(ge=0, le=1)] = 0.0
    sequence_length: Annotated[int, Field(ge=8)] = 256
    batch_tokens: Annotated[int, Field(ge=8)] = 512
    # Both save memory: a step's batch in so many pieces, and activations computed again when they are needed.
    micro_batches: Annotated[int, Field(ge=1)] = 1
    gradient_checkpointing: bool = False
    random_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @property
    def guided(self) -> float:
        """The weight of the guidance loss."""
        if self.guidance is not None:
            return self.guidance
        return GUIDANCE if self.warm_start else 0.0

    @property
    def learns(self) -> bool:
        """Whether anything is trained or solved at all."""
        return self.warm_start or self.tokens > 0

    @property
    def batch_rows(self) -> int:
        """Rows of `sequence_length` tokens in a step."""
        return max(1, self.batch_tokens // self.sequence_length)

    def for_routed_trunk(self) -> Training:
        """The same with 0 tokens where none were asked for. Raises ValueError where some were."""
        if self.tokens and "tokens" in self.model_fields_set:
            raise ValueError(
                f"a mix with a routed trunk takes its experts as they are and has no fine-tune; got tokens "
                f"{self.tokens}, give 0 or leave it out"
            )
        return self.model_copy(update={"tokens": 0})

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Training:
        """Validated settings. Raises RecipeError naming every field that is wrong."""
        return _valid(cls, values, "training")

    @model_validator(mode="after")
    def _micro_batches_are_whole_rows(self) -> Training:
        if self.batch_rows % self.micro_batches:
            raise ValueError(
                f"{self.micro_batches} micro_batches cannot share the {self.batch_rows} rows of a step "
                "(batch_tokens / sequence_length) evenly"
            )
        return self


class Recipe(RoutingOptions):
    """What the user asks for. `experts` are names (the newest version is taken) or `name@version`.

    `trunk_merge` is a method's name, or a mapping with its parameters: {method: ties, density: 0.3}.
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

    @field_validator("experts")
    @classmethod
    def _no_expert_twice(cls, experts: list[str]) -> list[str]:
        twice = sorted({e for e in experts if experts.count(e) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice; an expert is routed to once")
        return experts

    @model_validator(mode="after")
    def _experts_are_chosen_in_one_way(self) -> Recipe:
        if self.top_p is not None and self.top_k != 1:
            raise ValueError(f"top_k {self.top_k} and top_p {self.top_p} exclude each other; give one")
        if self.null_experts and self.top_p is None and self.top_k == 1:
            raise ValueError(
                "null_experts need top_k of 2 or more, or top_p: the best expert always scores above the average, "
                "where null experts begin"
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
    def _something_trains(self) -> Recipe:
        if self.router == "random" and self.training.train == "router" and self.training.tokens:
            raise ValueError("the random router is fixed, so that train: router trains nothing")
        return self

    @model_validator(mode="after")
    def _a_weight_for_each_expert(self) -> Recipe:
        merge = self.trunk_merge
        if isinstance(merge, Weighted) and len(merge.weights) != len(self.experts):
            raise ValueError(
                f"trunk_merge has {len(merge.weights)} weights for {len(self.experts)} experts; "
                "give one for each, in their order"
            )
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Recipe:
        """A validated recipe. Raises RecipeError naming every field that is wrong."""
        return _valid(cls, values, "recipe")

    @classmethod
    def from_yaml(cls, path: Path, **overrides: Any) -> Recipe:
        """Read a recipe file; overrides replace its fields. Raises RecipeError."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"cannot read the recipe {path}: {error}") from error
        if not isinstance(values, dict):
            raise RecipeError(f"{path} must hold a mapping of recipe fields, got {type(values).__name__}")
        return cls.parse({**values, **overrides})

    def to_yaml(self) -> str:
        """The recipe as a file that `from_yaml` reads."""
        values = self.model_dump(exclude_none=True)
        first = {name: values[name] for name in ("name", "seed", "experts", "router")}
        return yaml.safe_dump({**first, **values}, sort_keys=False, allow_unicode=True)
