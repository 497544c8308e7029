"""Tables of variants, one row each: routers, trunk merges, data mixes and export formats.

The recipe, the help of the command line, the form of the web app and the README read these rows. The code of a
variant is imported only when it is used: this module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar


@dataclass(frozen=True)
class Variant:
    """One row. `target` is the "package.module:name" of the class or function; `reference` the paper, if any.

    A research variant has a `verdict`: the result of its measurement, a phrase without a full stop. Its figures are
    in bench/RESULTS.md. Proven variants and baselines have none.
    """

    name: str
    title: str
    summary: str
    target: str
    reference: str = ""
    verdict: str = ""

    @property
    def research(self) -> bool:
        """Whether the variant showed no clear gain when measured, or was never measured."""
        return bool(self.verdict)

    def load(self) -> Any:
        """Import the class or function."""
        return load(self.target)


@dataclass(frozen=True)
class RouterVariant(Variant):
    """A subclass of composer.model.routers.base.Router.

    `initial` and `gate` name functions that need no torch, which takes seconds to import. `initial` returns the initial
    distributions of the parameters, `gate` the linear gate of given parameters. By default, the class's own methods
    are used. `not_linear` is the reason why no linear gate computes the scores. `trainable` is False if no training
    changes the gates, `needs_training` True if some parameters can only be learned by gradients.
    """

    initial: str = ""
    gate: str = ""
    not_linear: str = ""
    trainable: bool = True
    needs_training: bool = False


@dataclass(frozen=True)
class MergeVariant(Variant):
    """A subclass of composer.trunks.base.NamedMerge. `needs_parameters`: a recipe must give its parameters too."""

    needs_parameters: bool = False


@dataclass(frozen=True)
class FormatVariant(Variant):
    """A composer.formats.plan.Format, which plans the files of an exported mix."""


Row = TypeVar("Row", bound=Variant)

NOT_MEASURED = "not measured"


class Table(dict[str, Row], Generic[Row]):
    """Rows of one kind by name."""

    def __init__(self, kind: str, *rows: Row) -> None:
        super().__init__({row.name: row for row in rows})
        self.kind = kind

    def find(self, name: str) -> Row:
        """Return the row of that name. Raises ValueError with the list of names if there is none."""
        if name not in self:
            raise ValueError(f"no {self.kind} {name!r}; expected one of {', '.join(self)}")
        return self[name]

    def rows(self, *, research: bool) -> list[Row]:
        """The research rows, or the proven ones."""
        return [row for row in self.values() if row.research is research]

    def words(self, *, research: bool = False) -> Mapping[str, tuple[str, str]]:
        """Title and summary by name, of the proven or research variants that need no parameters."""
        rows = self.rows(research=research)
        return {row.name: (row.title, row.summary) for row in rows if chosen_by_name(row)}

    def choices(self) -> str:
        """Names of the proven variants for a help text: "nexus or linear"."""
        *most, last = self.words()
        return f"{', '.join(most)} or {last}" if most else last


def load(target: str) -> Any:
    """Import the object that "package.module:name" names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def chosen_by_name(row: Variant) -> bool:
    """Whether the name of a variant suffices, without parameters."""
    return not (isinstance(row, MergeVariant) and row.needs_parameters)


ROUTERS = Table(
    "router",
    RouterVariant(
        name="nexus",
        title="Nexus",
        summary="Computes each expert's gate from its domain embedding, so that experts can be added later.",
        reference="Nexus, arXiv 2408.15901",
        target="composer.model.routers.nexus:NexusRouter",
        initial="composer.model.initial:fresh_nexus",
        gate="composer.formats.gates:nexus_gate",
    ),
    RouterVariant(
        name="nexus_context",
        title="Nexus with context",
        summary="Nexus whose gates also read running means over the text before the token.",
        reference="Nexus, arXiv 2408.15901",
        target="composer.model.routers.nexus_context:NexusContextRouter",
        initial="composer.model.initial:fresh_nexus_context",
        gate="composer.formats.gates:nexus_context_gate",
    ),
    RouterVariant(
        name="linear",
        title="Linear",
        summary="One gate per expert, as in most mixtures; the gate of a new expert must be trained.",
        reference="BTX, arXiv 2403.07816",
        target="composer.model.routers.linear:LinearRouter",
        initial="composer.model.initial:fresh_linear",
        gate="composer.formats.gates:stored_gate",
    ),
    RouterVariant(
        name="recurrent",
        title="Recurrent",
        summary="Nexus with a recurrent state of the routing in earlier blocks; needs training.",
        reference="RMoE, arXiv 2408.06793",
        target="composer.model.routers.recurrent:RecurrentRouter",
        initial="composer.model.initial:fresh_recurrent",
        not_linear="carries a state from block to block",
        needs_training=True,
        verdict="trained, 0.037 bits per byte worse than the default in 3 random seeds",
    ),
    RouterVariant(
        name="random",
        title="Random",
        summary="Fixed random directions: the baseline that every other router must beat.",
        reference="after Hash Layers, arXiv 2106.04426",
        target="composer.model.routers.random:RandomRouter",
        initial="composer.model.initial:fresh_random",
        gate="composer.formats.gates:stored_gate",
        trainable=False,
        verdict="0.154 bits per byte worse than the default in 3 random seeds",
    ),
)

TRUNK_MERGES = Table(
    "trunk merge",
    MergeVariant(
        name="regmean",
        title="Fitted to the experts' text",
        summary="Linear layers whose outputs are closest to those of every expert on its text, in closed form.",
        reference="RegMean, arXiv 2212.09849",
        target="composer.trunks.regmean:RegMean",
    ),
    MergeVariant(
        name="mean",
        title="Mean of the experts",
        summary="Mean of each parameter over the experts.",
        reference="Nexus, arXiv 2408.15901",
        target="composer.trunks.mean:Mean",
    ),
    MergeVariant(
        name="mean_with_seed",
        title="Mean of the experts and the seed",
        summary="Mean of each parameter over the experts and the seed.",
        reference="Nexus, arXiv 2408.15901 (dense merging)",
        target="composer.trunks.mean_with_seed:MeanWithSeed",
    ),
    MergeVariant(
        name="seed",
        title="The seed's trunk",
        summary="The seed's trunk, unchanged: needs no new bytes, and is exact for anchored experts.",
        target="composer.trunks.seed:Seed",
    ),
    MergeVariant(
        name="routed",
        title="None: every expert stays whole",
        summary="Each token passes through one whole expert, chosen from the text before it; costs no bytes.",
        target="composer.trunks.routed:Routed",
    ),
    MergeVariant(
        name="weighted",
        title="Weighted mean of the experts",
        summary="Mean with one given weight per expert.",
        reference="Model soups, arXiv 2203.05482",
        target="composer.trunks.weighted:Weighted",
        needs_parameters=True,
        verdict=NOT_MEASURED,
    ),
    MergeVariant(
        name="task_arithmetic",
        title="Task arithmetic",
        summary="The seed plus the scaled sum of the experts' differences from it.",
        reference="arXiv 2212.04089",
        target="composer.trunks.task_arithmetic:TaskArithmetic",
        verdict=NOT_MEASURED,
    ),
    MergeVariant(
        name="ties",
        title="TIES",
        summary="Trims small differences, elects a sign per element, and averages the differences of that sign.",
        reference="arXiv 2306.01708",
        target="composer.trunks.ties:Ties",
        verdict=NOT_MEASURED,
    ),
    MergeVariant(
        name="pcb",
        title="PCB",
        summary="Weights differences by their balance within and between experts.",
        reference="PCB-Merging, arXiv 2410.02396",
        target="composer.trunks.pcb:Pcb",
        verdict=NOT_MEASURED,
    ),
)

DATA_MIXES = Table(
    "data mix",
    Variant(
        name="uniform",
        title="Equal parts",
        summary="The same number of tokens from each domain.",
        target="composer.training.data_mix:choose_shares",
    ),
    Variant(
        name="proportional",
        title="Proportional",
        summary="Tokens in proportion to the text of each domain.",
        target="composer.training.data_mix:choose_shares",
    ),
    Variant(
        name="regmix",
        title="RegMix",
        summary="Shares predicted by a regression over short proxy runs.",
        reference="RegMix, arXiv 2407.01492",
        target="composer.training.data_mix:choose_shares",
        verdict="0.079 bits per byte worse than the default in 3 random seeds, with 12 runs of 2,048 tokens",
    ),
)

EXPORT_FORMATS = Table(
    "export format",
    FormatVariant(
        name="nexus",
        title="Nexus (transformers, its own code)",
        summary="The folder carries its own modeling code (`modeling_nexus.py`), which needs torch and transformers 5.",
        reference="Nexus, arXiv 2408.15901",
        target="composer.formats.nexus:FORMAT",
    ),
    FormatVariant(
        name="qwen2_moe",
        title="Qwen2-MoE (stock transformers, vLLM …)",
        summary="The weights are those of a stock Qwen2-MoE model and compute the same function as the mix.",
        target="composer.formats.qwen2_moe:FORMAT",
    ),
    FormatVariant(
        name="qwen3_next",
        title="Qwen3-Next (the same, for Qwen3 seeds)",
        summary="The weights are those of a stock Qwen3-Next model and compute the same function as a mix of Qwen3.",
        target="composer.formats.qwen3_next:FORMAT",
    ),
    FormatVariant(
        name="gguf",
        title="GGUF (llama.cpp, Ollama …)",
        summary="`model.gguf` is a stock model for llama.cpp and software built on it.",
        target="composer.formats.gguf:FORMAT",
    ),
)
