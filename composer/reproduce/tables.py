"""Tables of the report as plain text cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composer.reproduce.lab import GENERAL
from composer.reproduce.plan import OURS, SYSTEMS, composed, thousands
from composer.reproduce.statistics import compared

Results = Mapping[str, Any]
ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """A table: its title, its column headings, and its rows; the first cell of a row is the row's name."""

    title: str
    head: list[str]
    rows: list[list[str]]


def tables(results: Results) -> list[Table]:
    """Return every table that has at least one row."""
    made = [
        bar_table(results),
        domain_table(results),
        extension_table(results),
        ablation_table(results),
        cost_table(results),
    ]
    return [table for table in made if table.rows]


def bar_table(results: Results) -> Table:
    """Return the table of the claims and their results."""
    words = {True: "met", False: "missed", None: "not measured"}
    rows = [[row["bar"], row["found"], words[row["met"]]] for row in results["bars"]]
    return Table("Claims", ["claim", "result", ""], rows)


def domain_table(results: Results) -> Table:
    """Return the paper's tables 2 and 3 in bits per byte: dense models, then each system at its budgets."""
    members = results["settings"]["members"]
    columns = [*members, *([GENERAL] if results["settings"]["general_text"] else [])]
    dense, rows = results["baselines"], []
    if dense is not None:
        named = (("seed", "seed"), ("dense experts, each on its own domain", "expert"))
        for title, key in (*named, ("dense merging", "dense_merging")):
            bits = dense[key]
            mean = sum(bits[m] for m in members) / len(members)
            rows.append([title, ABSENT, *(plain(bits.get(c)) for c in columns), plain(mean)])
    oracle = results["cases"][composed(OURS, 0).name]["figures"]
    if oracle:
        bits = oracle["oracle_bits"]
        shown = [pm(bits[c]) if c in bits else ABSENT for c in columns]
        rows.append(["our mix without fine-tuning, own expert forced", ABSENT, *shown, pm(oracle["oracle"])])
    cases = sorted(results["cases"].values(), key=lambda c: (list(SYSTEMS).index(c["system"]), c["budget"]))
    for case in cases:
        if case["figures"] and case["parent"] is None and not case["variant"]:
            shown = [pm(case["figures"]["bits"][c]) for c in columns]
            spent = thousands(case["figures"]["spent"]["mean"])
            rows.append([case["title"], spent, *shown, pm(case["figures"]["old"])])
    title = "Composed mixes: bits per byte on held-out text (tables 2 and 3 of the paper); lower is better"
    return Table(title, ["model", "cost in token equivalents", *columns, "mean over domains"], rows)


def extension_table(results: Results) -> Table:
    """Return the table of extensions: bits per byte of new and old domains, and the new expert's own share."""
    new, rows = results["settings"]["newcomer"], []
    cases = results["cases"]
    for case in sorted(cases.values(), key=lambda c: (list(SYSTEMS).index(c["system"]), c["budget"])):
        if not case["figures"] or case["parent"] is None or not cases[case["parent"]]["figures"]:
            continue
        figures, before = case["figures"], cases[case["parent"]]["figures"]
        dense = results["baselines_anchored" if SYSTEMS[case["system"]].anchored else "baselines"]
        gain = dense["seed"][new] - figures["new"]["mean"]
        rows.append(
            [
                case["title"],
                thousands(before["spent"]["mean"]),
                thousands(figures["spent"]["mean"]),
                pm(before["new"]),
                pm(figures["new"]),
                f"{gain / (dense['seed'][new] - dense['expert'][new]):.0%}",
                pm(before["old"]),
                pm(figures["old"]),
                f"{figures['own'][new]['mean']:.0%}",
            ]
        )
    head = ["mix", "cost of composing", "cost of extending", f"{new} before", f"{new} after"]
    head += ["share of the dense expert's gain", "old domains before", "old domains after"]
    head += [f"share of {new} tokens to its own expert"]
    return Table(f"Extension with {new}: bits per byte (figures 4 and 6 of the paper)", head, rows)


def ablation_table(results: Results) -> Table:
    """Return the table that compares each variant with the same system without it."""
    rows, cases = [], results["cases"]
    for case in cases.values():
        usual = cases[composed(case["system"], case["budget"]).name] if case["variant"] else None
        if case["parent"] is not None or usual is None or not compared([usual, case])[1]:
            continue
        (without, varied), seeds = compared([usual, case])
        change = varied["old"]["mean"] / without["old"]["mean"] - 1
        least = [min(s["mean"] for s in each["own"].values()) for each in (without, varied)]
        own = f"{least[0]:.0%} → {least[1]:.0%}"
        losses = [pm(each["old"]) for each in (without, varied)]
        rows.append([case["title"], str(len(seeds)), *losses, f"{change:+.2%}", own])
    head = ["variant", "random seeds", "without", "with", "change", "smallest own-domain share"]
    return Table("Ablations: bits per byte, mean over domains (figure 7 of the paper)", head, rows)


def cost_table(results: Results) -> Table:
    """Return the table of the cost of every measured case, in CPU seconds and token equivalents."""
    rows = [
        [
            name,
            str(len(case["random_seeds"])),
            f"{case['figures']['spent']['mean']:,.0f}",
            f"{case['figures']['cpu_seconds']['mean']:.0f}",
        ]
        for name, case in results["cases"].items()
        if case["figures"]
    ]
    return Table("Cost of each case", ["case", "random seeds", "token equivalents", "CPU seconds"], rows)


def pm(stat: Mapping[str, Any]) -> str:
    """Format a mean, with ± the standard deviation if there are several values."""
    several = len(stat["values"]) > 1
    return f"{stat['mean']:.3f}" + (f" ± {stat['deviation']:.3f}" if several else "")


def plain(value: float | None) -> str:
    """Format a number without deviation, or – for None."""
    return ABSENT if value is None else f"{value:.3f}"
