"""The variants of a mix's parts, one row each: routers, trunk merges and export formats.

A row is all that a recipe, the command line's help, the web app's form and the README know of a variant. Its code is
loaded when it is used: this module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar


@dataclass(frozen=True)
class Variant:
    """One row. `target` is the "package.module:name" of the class or function; `reference` the paper, if any."""

    name: str
    title: str
    summary: str
    target: str
    reference: str = ""

    def load(self) -> Any:
        """Import the class or function."""
        return load(self.target)


@dataclass(frozen=True)
class RouterVariant(Variant):
    """A subclass of composer.model.routers.base.Router.

    `initial` and `gate` name functions that do without torch, and so without the seconds of its import:
    the initial distributions of the parameters, and the linear gate of given parameters. Without them, the class's own
    are used. `not_linear` says why no linear gate computes its scores.
    """

    initial: str = ""
    gate: str = ""
    not_linear: str = ""


@dataclass(frozen=True)
class MergeVariant(Variant):
    """A subclass of composer.trunks.base.NamedMerge. `needs_parameters`: its name alone does not choose it."""

    needs_parameters: bool = False


@dataclass(frozen=True)
class FormatVariant(Variant):
    """A composer.formats.plan.Format, which plans the files of a mix."""


Row = TypeVar("Row", bound=Variant)


class Table(dict[str, Row], Generic[Row]):
    """Rows by name, of one kind."""

    def __init__(self, kind: str, *rows: Row) -> None:
        super().__init__({row.name: row for row in rows})
        self.kind = kind

    def find(self, name: str) -> Row:
        """The row of that name. Raises ValueError listing those that exist."""
        if name not in self:
            raise ValueError(f"no {self.kind} {name!r}; expected one of {', '.join(self)}")
        return self[name]

    def words(self) -> Mapping[str, tuple[str, str]]:
        """Title and summary by name, of the variants that a name alone chooses."""
        return {row.name: (row.title, row.summary) for row in self.values() if chosen_by_name(row)}

    def choices(self) -> str:
        """The names that a command line takes: "nexus, linear or random"."""
        *most, last = self.words()
        return f"{', '.join(most)} or {last}" if most else last


def load(target: str) -> Any:
    """What a "package.module:name" means."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def chosen_by_name(row: Variant) -> bool:
    """Whether a variant needs no parameters."""
    return not (isinstance(row, MergeVariant) and row.needs_parameters)


ROUTERS = Table(
    "router",
    RouterVariant(
        name="nexus",
        title="Nexus",
        summary="Knows experts by the embedding of their domain, so that others can join later.",
        reference="Nexus, arXiv 2408.15901",
        target="composer.model.routers.nexus:NexusRouter",
        initial="composer.model.initial:fresh_nexus",
        gate="composer.formats.gates:nexus_gate",
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
        summary="Nexus with a memory of how the blocks below routed the token; needs training.",
        reference="RMoE, arXiv 2408.06793",
        target="composer.model.routers.recurrent:RecurrentRouter",
        initial="composer.model.initial:fresh_recurrent",
        not_linear="carries a state from block to block",
    ),
    RouterVariant(
        name="random",
        title="Random",
        summary="Fixed random directions: the floor that every other router must beat.",
        reference="after Hash Layers, arXiv 2106.04426",
        target="composer.model.routers.random:RandomRouter",
        initial="composer.model.initial:fresh_random",
        gate="composer.formats.gates:stored_gate",
    ),
)

TRUNK_MERGES = Table(
    "trunk merge",
    MergeVariant(
        name="regmean",
        title="Fitted to the experts' text",
        summary="Each layer as near as can be to what every expert's does, in closed form.",
        reference="RegMean, arXiv 2212.09849",
        target="composer.trunks.regmean:RegMean",
    ),
    MergeVariant(
        name="mean",
        title="Mean of the experts",
        summary="Each parameter's mean over the experts.",
        reference="Nexus, arXiv 2408.15901",
        target="composer.trunks.mean:Mean",
    ),
    MergeVariant(
        name="mean_with_seed",
        title="Mean of the experts and the seed",
        summary="The seed counts as one more expert.",
        reference="Nexus, arXiv 2408.15901 (dense merging)",
        target="composer.trunks.mean_with_seed:MeanWithSeed",
    ),
    MergeVariant(
        name="seed",
        title="The seed's own",
        summary="Costs no bytes; right where experts are anchored.",
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
        summary="Each expert with a weight of its own.",
        reference="Model soups, arXiv 2203.05482",
        target="composer.trunks.weighted:Weighted",
        needs_parameters=True,
    ),
    MergeVariant(
        name="task_arithmetic",
        title="Task arithmetic",
        summary="The experts' differences from the seed, added up with a factor.",
        reference="arXiv 2212.04089",
        target="composer.trunks.task_arithmetic:TaskArithmetic",
    ),
    MergeVariant(
        name="ties",
        title="TIES",
        summary="Small differences dropped, signs elected, the rest averaged.",
        reference="arXiv 2306.01708",
        target="composer.trunks.ties:Ties",
    ),
    MergeVariant(
        name="pcb",
        title="PCB",
        summary="Differences weighed by how they compete within and between experts.",
        reference="PCB-Merging, arXiv 2410.02396",
        target="composer.trunks.pcb:Pcb",
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
        name="gguf",
        title="GGUF (llama.cpp, Ollama …)",
        summary="`model.gguf` is a stock Qwen2-MoE model for llama.cpp and software built on it.",
        target="composer.formats.gguf:FORMAT",
    ),
)
