"""Figures of the report, drawn by matplotlib from the results; they correspond to the paper's figures 3 to 9.

Each function returns a figure, or None if its data was not measured.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from composer.reproduce.plan import ANCHORED, LINEAR, NEXUS, OURS, SYSTEMS, composed, extended
from composer.reproduce.statistics import compared

Results = Mapping[str, Any]
COLOURS = {OURS: "#174ea6", ANCHORED: "#0f766e", NEXUS: "#b45309", LINEAR: "#6b7280"}
MARKS = {OURS: "o", ANCHORED: "D", NEXUS: "s", LINEAR: "^"}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "svg.fonttype": "none",
    "svg.hashsalt": "nexusmix",
}


def pictures(results: Results) -> dict[str, tuple[str, str]]:
    """Draw every figure that has data. Returns {name: (caption, SVG)}."""
    with rc_context(STYLE):
        drawn = {name: (caption, draw(results)) for name, (caption, draw) in PICTURES.items()}
        return {name: (caption, _svg(figure)) for name, (caption, figure) in drawn.items() if figure}


def budgets(results: Results) -> Figure | None:
    """Plot the mean bits per byte of the members' domains against the cost, with one line per system."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    lines = 0
    for system in SYSTEMS:
        found = [
            case["figures"]
            for case in results["cases"].values()
            if case["system"] == system and case["figures"] and not case["parent"] and not case["variant"]
        ]
        lines += _line(axes, system, found, "old")
    if not lines:
        return None
    members = results["settings"]["members"]
    for key, title, style in (("dense_merging", "dense merging", ":"), ("expert", "own dense experts", "--")):
        bits = results["baselines"][key]
        level = sum(bits[m] for m in members) / len(members)
        axes.axhline(level, linestyle=style, color="#111827", linewidth=1, label=title)
    axes.set(xlabel="cost in token equivalents (thousands)", ylabel="bits per byte, mean over domains")
    axes.set_xlim(left=0)
    axes.legend(fontsize=8)
    return figure


def extension(results: Results) -> Figure | None:
    """Plot the bits per byte of the new domain and of the old domains against the cost of the extension."""
    main = results["settings"]["budgets"][1]
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    lines = 0
    for system in SYSTEMS:
        parent = composed(system, 0 if SYSTEMS[system].anchored else main)
        found = [
            case["figures"]
            for case in results["cases"].values()
            if case["parent"] == parent.name and case["figures"] and not case["variant"]
        ]
        for axes, key in zip(panels, ("new", "old"), strict=True):
            lines += _line(axes, system, found, key)
    if not lines:
        return None
    new = results["settings"]["newcomer"]
    for key, title, style in (("seed", "seed", ":"), ("expert", "dense expert", "--")):
        panels[0].axhline(
            results["baselines"][key][new], linestyle=style, color="#111827", linewidth=1, label=title
        )
    for axes, title in zip(panels, (f"the new domain, {new}", "the old domains, mean"), strict=True):
        axes.set(
            xlabel="cost of the extension in token equivalents (thousands)",
            ylabel="bits per byte",
            title=title,
        )
        axes.set_xlim(left=0)
    panels[0].legend(fontsize=7)
    return figure


def routing(results: Results) -> Figure | None:
    """Draw the share of each domain's tokens per expert, composed at the main budget."""
    main = results["settings"]["budgets"][1]
    found = _measured(results, [composed(system, main).name for system in (OURS, NEXUS, LINEAR)])
    return _heat_maps([(c["title"], c["figures"]["routing"]) for c in found], results["settings"]["members"])


def routing_extended(results: Results) -> Figure | None:
    """Draw the share of each domain's tokens per expert, extended at the main budget, with the new expert."""
    main = results["settings"]["budgets"][1]
    names = [extended(composed(system, main), main).name for system in (OURS, NEXUS, LINEAR)]
    domains = [*results["settings"]["members"], results["settings"]["newcomer"]]
    found = _measured(results, names)
    return _heat_maps([(c["title"], c["figures"]["routing"]) for c in found], domains)


def layers(results: Results) -> Figure | None:
    """Plot the share of each domain's tokens routed to its own expert, per block."""
    main = results["settings"]["budgets"][1]
    found = _measured(results, [composed(system, main).name for system in (OURS, NEXUS, LINEAR)])
    if not found:
        return None
    figure = Figure(figsize=(3.2 * len(found) + 1.2, 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, case in zip(panels, found, strict=True):
        for domain, by_layer in case["figures"]["own_by_layer"].items():
            shares = [share["mean"] for share in by_layer]
            axes.plot(range(1, len(shares) + 1), shares, marker="o", markersize=3, label=domain)
        axes.set(title=case["title"], xlabel="block", ylim=(0, 1), xticks=range(1, len(shares) + 1))
    panels[0].set_ylabel("share of tokens to the domain's own expert")
    panels[-1].legend(fontsize=7)
    return figure


def new_expert(results: Results) -> Figure | None:
    """Plot the share of each domain's tokens routed to the new expert, per system."""
    main, new = results["settings"]["budgets"][1], results["settings"]["newcomer"]
    named = [extended(composed(s, main), main).name for s in (OURS, NEXUS, LINEAR)]
    named += [extended(composed(s, 0), 0).name for s in (OURS, ANCHORED)]
    found = _measured(results, named)
    if not found:
        return None
    domains = [*results["settings"]["members"], new]
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(found)
    for place, case in enumerate(found):
        stats = [case["figures"]["routing"][domain][new] for domain in domains]
        title = case["title"] + ("" if case["budget"] else ", no gradient step")
        axes.bar(
            [i + width * (place - (len(found) - 1) / 2) for i in range(len(domains))],
            [stat["mean"] for stat in stats],
            width,
            yerr=[stat["deviation"] for stat in stats],
            error_kw={"linewidth": 0.7},
            color=COLOURS[case["system"]],
            alpha=1 if case["budget"] else 0.45,
            label=title,
        )
    axes.set(ylabel=f"share of tokens to the {new} expert", ylim=(0, 1))
    axes.set_xticks(range(len(domains)), domains)
    axes.legend(fontsize=7)
    return figure


def ablations(results: Results) -> Figure | None:
    """Plot the effect of each variant, in percent of the same system's loss without it."""
    cases, bars = results["cases"], []
    for case in cases.values():
        usual = cases[composed(case["system"], case["budget"]).name] if case["variant"] else None
        if case["parent"] is None and usual and compared([usual, case])[1]:
            without, varied = (each["old"]["values"] for each in compared([usual, case])[0])
            changes = [100 * (after / before - 1) for before, after in zip(without, varied, strict=True)]
            bars.append((case, changes))
    if not bars:
        return None
    figure = Figure(figsize=(6.8, 0.5 * len(bars) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (case, changes) in enumerate(bars):
        axes.barh(place, sum(changes) / len(changes), color=COLOURS[case["system"]], alpha=0.6)
        axes.plot(changes, [place] * len(changes), "k.", markersize=5)
    axes.set_yticks(range(len(bars)), [case["title"] for case, _ in bars])
    axes.axvline(0, color="#111827", linewidth=0.8)
    axes.set_xlabel("change of the mean bits per byte in percent; each dot is a random seed")
    axes.invert_yaxis()
    return figure


def cosines(results: Results) -> Figure | None:
    """Draw the cosine similarities of the domain embeddings before and after P_r of the last block."""
    main = results["settings"]["budgets"][1]
    named = [extended(composed(s, main), main).name for s in (OURS, NEXUS)]
    found = _measured(results, named)
    if not found:
        return None
    domains = [*results["settings"]["members"], results["settings"]["newcomer"]]
    matrices = [("domain embeddings", found[0]["figures"]["cosines"]["before"])]
    matrices += [(f"after P_r: {case['title']}", case["figures"]["cosines"]["after"]) for case in found]
    figure = Figure(figsize=(3.4 * len(matrices), 3.6), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (title, matrix) in zip(panels, matrices, strict=True):
        values = [[cell["mean"] for cell in row] for row in matrix]
        _matrix(axes, values, domains, domains, title, (-1, 1), "RdBu_r", "{:.2f}")
    return figure


PICTURES: dict[str, tuple[str, Callable[[Results], Figure | None]]] = {
    "budgets": ("Composed mixes: mean bits per byte against cost (figure 3 of the paper)", budgets),
    "extension": ("Extension: the new domain and the old domains (figure 4)", extension),
    "routing": ("Composed: share of each domain's tokens (rows) per expert (columns) (figure 5)", routing),
    "new-expert": ("Share of each domain's tokens routed to the new expert (figure 6)", new_expert),
    "ablations": ("Ablations: load balance and data mix (figure 7)", ablations),
    "cosines": ("Cosine similarities of the domains before and after P_r, last block (figure 8)", cosines),
    "layers": ("Share of each domain's tokens routed to its own expert, per block (figure 9)", layers),
    "routing-extended": (
        "Extended: share of each domain's tokens (rows) per expert (columns)",
        routing_extended,
    ),
}


def _line(axes: Axes, system: str, found: Sequence[Any], key: str) -> int:
    """Draw a system's line with its standard deviations. Returns the number of lines drawn, 0 or 1."""
    points = sorted(
        (f["spent"]["mean"] / 1000, f[key]["mean"], f[key]["deviation"]) for f in found if key in f
    )
    if not points:
        return 0
    spent, means, deviations = zip(*points, strict=True)
    axes.errorbar(
        spent,
        means,
        yerr=deviations,
        marker=MARKS[system],
        markersize=4,
        capsize=2,
        linewidth=1.4,
        color=COLOURS[system],
        label=SYSTEMS[system].title,
    )
    return 1


def _measured(results: Results, names: Sequence[str]) -> list[Any]:
    found = [results["cases"].get(name) for name in names]
    return [case for case in found if case and case["figures"]]


def _heat_maps(maps: Sequence[tuple[str, Any]], domains: Sequence[str]) -> Figure | None:
    if not maps:
        return None
    figure = Figure(figsize=(3.5 * len(maps), 3.7), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, shares) in zip(panels, maps, strict=True):
        values = [[shares[domain][expert]["mean"] for expert in domains] for domain in domains]
        _matrix(axes, values, domains, domains, title, (0, 1), "Blues", "{:.0%}")
    return figure


def _matrix(
    axes: Axes,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    limits: tuple[float, float],
    colours: str,
    form: str,
) -> None:
    """Draw a matrix with its numbers in the cells."""
    axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    axes.grid(visible=False)
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    strong = 0.6 * max(abs(limits[0]), abs(limits[1]))
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            ink = "white" if abs(value) > strong else "black"
            axes.text(x, y, form.format(value), ha="center", va="center", fontsize=7, color=ink)


def _svg(figure: Figure) -> str:
    """Return the figure as SVG without its creation time, so that equal results give equal files."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
