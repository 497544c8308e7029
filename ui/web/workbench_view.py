"""The workbench's tables (HTML) and charts: facts, gains by domain, heat maps as small multiples, losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from composer.evaluation.comparison import Comparison
from ui.web.components import escaped
from ui.web.mix_words import settings_line
from ui.web.quality import LEGEND, NO_GAIN, track
from ui.web.token_view import PALETTE
from ui.web.workbench import Entry
from ui.wording.display import parameters, share

if TYPE_CHECKING:
    import altair as alt

CHART_HEIGHT = 280
INK = {False: "#1b1c26", True: "#e9e9f2"}  # the theme's text in light and in dark mode
MOST_POINTS = 120  # of one loss curve
MOST_BLOCKS = 48


def overview(found: Sequence[Entry]) -> str:
    """Table with one row per mix; values that differ from those of most mixes are highlighted."""
    rows = [_facts(entry) for entry in found]
    heads = "".join(f'<th scope="col">{escaped(name)}</th>' for name in ("mix", *rows[0]))
    usual = {name: Counter(row[name] for row in rows).most_common(1)[0] for name in rows[0]}
    body = "".join(
        f'<tr><th scope="row"><a href="mix?ref={_quoted(entry.mix.ref)}" target="_self">{escaped(entry.mix.ref)}</a>'
        "</th>"
        + "".join(
            f'<td class="{_mark(value, *usual[name])}"><span>{escaped(value)}</span></td>'
            for name, value in row.items()
        )
        + "</tr>"
        for entry, row in zip(found, rows, strict=True)
    )
    return (
        '<div class="nm-scroll" tabindex="0"><table class="nm-figures words">'
        "<caption>Values unlike those of most are highlighted</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _mark(value: str, usual: str, count: int) -> str:
    """Mark a value that is not the usual one; where all are different, none is usual."""
    return "differs" if count > 1 and value != usual else ""


def _quoted(ref: str) -> str:
    from urllib.parse import quote

    return quote(ref)


def _facts(entry: Entry) -> dict[str, str]:
    settings = settings_line(dict(entry.manifest))
    sizes = entry.sizes
    return {
        "gain kept": "not evaluated" if entry.kept is None else share(entry.kept),
        "router": settings["Router"],
        "trunk": settings.get("Trunk", "merged"),
        "experts": ", ".join(entry.mix.experts),
        "weights": parameters(sizes.total) if sizes else "–",
        "active": parameters(sizes.active) if sizes else "–",
        "fine-tune": f"{parameters(entry.tokens)} tokens" if entry.tokens else "none",
    }


def gains(refs: Sequence[str], scores: Comparison) -> str:
    """One group per domain with one bar per mix: the share of the own expert's gain that it keeps."""
    kept = {domain: {ref: row[ref].kept for ref in refs if ref in row} for domain, row in scores.rows.items()}
    without = {
        domain for domain, row in scores.rows.items() if any(score.without_gain for score in row.values())
    }
    top = max([1.0, *(each for row in kept.values() for each in row.values() if each is not None)])
    groups = "".join(
        f'<p class="domain">{escaped(domain)}<span class="nm-note">{NO_GAIN}</span></p>'
        if domain in without
        else f'<p class="domain">{escaped(domain)}</p>' + "".join(_gain(ref, row, top) for ref in refs)
        for domain, row in kept.items()
    )
    return f'<div class="nm-gains"><p class="legend"><span>{LEGEND}</span></p>{groups}</div>'


def _gain(ref: str, row: Mapping[str, float | None], top: float) -> str:
    kept = row.get(ref)
    figure = "–" if kept is None else share(kept).replace("-", "−")
    lost = " lost" if kept is not None and kept < 0 else ""
    return (
        f'<div class="row"><span class="name">{escaped(ref)}</span>{track(kept or 0.0, {}, top)}'
        f'<span class="figure{lost}">{figure}</span></div>'
    )


def small_multiples(found: Sequence[Entry]) -> str:
    """Heat maps: a row per mix, a column per block; in each, text domains are rows and experts are columns."""
    most = max(_blocks(entry) for entry in found)
    heads = "".join(f'<th scope="col">{block + 1}</th>' for block in range(most))
    body = "".join(
        f'<tr><th scope="row">{escaped(entry.mix.ref)}</th>'
        + "".join(f"<td>{_small(entry, block)}</td>" for block in range(_blocks(entry)))
        + "</tr>"
        for entry in found
    )
    order = "; ".join(
        f"{entry.mix.ref}: {', '.join(next(iter((entry.evaluation or {})['routing'].values())))}"
        for entry in found
    )
    caption = (
        "Share of each domain's tokens (rows) that each block routes to each expert (columns). "
        f"Experts from left to right – {order}"
    )
    return (
        f'<p class="nm-bars">{escaped(caption)}</p><div class="nm-scroll" tabindex="0"><table class="nm-multiples">'
        f'<thead><tr><th scope="col">block</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _blocks(entry: Entry) -> int:
    by_layer = (entry.evaluation or {}).get("routing_by_layer")
    return min(MOST_BLOCKS, len(next(iter(next(iter(by_layer.values())).values())))) if by_layer else 1


def _small(entry: Entry, block: int) -> str:
    measured = entry.evaluation or {}
    by_layer = measured.get("routing_by_layer")
    rows = by_layer or {
        domain: {ref: [part] for ref, part in row.items()} for domain, row in measured["routing"].items()
    }
    columns = len(next(iter(rows.values())))
    cells = "".join(
        _small_cell(f"{domain} → {ref}", parts[block])
        for domain, row in rows.items()
        for ref, parts in row.items()
    )
    return f'<div class="small" style="grid-template-columns:repeat({columns},1fr)">{cells}</div>'


def _small_cell(said: str, part: float) -> str:
    return f'<i style="--share:{6 + 94 * part:.0f}%" title="{escaped(said)}: {share(part)}"></i>'


def trade_off(found: Sequence[Entry], *, dark: bool) -> alt.LayerChart | alt.FacetChart | None:
    """Scatter plot of the gain kept by active weights; None for fewer than two known mixes."""
    import altair as alt

    points = [
        {"mix": entry.mix.ref, "active": entry.sizes.active, "kept": entry.kept}
        for entry in found
        if entry.sizes and entry.kept is not None
    ]
    if len(points) < 2:
        return None
    chart = alt.Chart(alt.Data(values=points), height=CHART_HEIGHT).encode(
        x=alt.X(
            "active:Q",
            title="active weights per token",
            scale=alt.Scale(zero=False, padding=30),
            axis=alt.Axis(format="~s"),
        ),
        y=alt.Y(
            "kept:Q", title="gain kept", scale=alt.Scale(zero=False, padding=20), axis=alt.Axis(format="%")
        ),
        tooltip=[
            alt.Tooltip("mix:N"),
            alt.Tooltip("active:Q", format=","),
            alt.Tooltip("kept:Q", format=".1%"),
        ],
    )
    names = chart.mark_text(dy=-14, color=INK[dark]).encode(text="mix:N")
    return alt.layer(chart.mark_circle(size=130, color=PALETTE[0], opacity=0.9), names)


def overlay(points: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Losses of several runs over each other, each as means of equal parts of its steps."""
    import altair as alt

    refs = list(dict.fromkeys(point["mix"] for point in points))
    means = [mean for ref in refs for mean in _means([point for point in points if point["mix"] == ref])]
    colours = alt.Scale(domain=refs, range=list(PALETTE))
    return (
        alt.Chart(alt.Data(values=means), height=CHART_HEIGHT)
        .mark_line(strokeWidth=2.2)
        .encode(
            x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickMinStep=1, grid=False)),
            y=alt.Y("loss:Q", title="loss (nats per token)", scale=alt.Scale(zero=False)),
            color=alt.Color("mix:N", title=None, scale=colours, legend=alt.Legend(orient="top")),
            tooltip=[alt.Tooltip("mix:N"), alt.Tooltip("step:Q"), alt.Tooltip("loss:Q", format=".3f")],
        )
    )


def _means(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    size = max(1, -(-len(points) // MOST_POINTS))
    parts = [points[at : at + size] for at in range(0, len(points), size)]
    return [{**part[-1], "loss": fmean(point["loss"] for point in part)} for part in parts]
