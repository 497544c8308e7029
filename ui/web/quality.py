"""A mix's quality on a page: one sentence, and a bar per domain between the seed and the domain's own expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.evaluation.comparison import domains_without_gain, gain_kept, gains_kept
from composer.evaluation.contenders import BTM, CHANGING, DENSE_MERGING
from ui.web.components import escaped
from ui.wording.display import share

MARKS = {BTM: "nearest expert", DENSE_MERGING: "dense merging"}
NO_GAIN = "its expert has no gain over the seed"
LEGEND = "0 % is the seed, 100 % is the domain's own expert."


def quality(evaluation: Mapping[str, Any]) -> str:
    """The mix's quality in words: "keeps 81 % of its experts' gain over the seed"; empty if it is not known."""
    kept = gain_kept(evaluation)
    return "" if kept is None else f"keeps {share(kept)} of its experts' gain over the seed"


def rival(evaluation: Mapping[str, Any]) -> str:
    """The quality of the simplest alternative: "Sending each request to its nearest expert keeps 75 %."."""
    kept = gain_kept(evaluation, BTM)
    return "" if kept is None else f"Sending each whole request to its nearest expert keeps {share(kept)}."


def short_quality(evaluation: Mapping[str, Any] | None) -> str:
    """The quality as a note in a list: "keeps 81 % of the gain", or "not evaluated"."""
    kept = gain_kept(evaluation) if evaluation else None
    return "not evaluated" if kept is None else f"keeps {share(kept)} of the gain"


def gain_bars(evaluation: Mapping[str, Any]) -> str:
    """Bars (HTML) of the gain kept by domain, with marks for the alternatives; empty if no gain is known."""
    kept = gains_kept(evaluation)
    marks = {column: gains_kept(evaluation, column) for column in MARKS}
    if "changing" in evaluation:
        changing = {"bits_per_byte": {CHANGING: evaluation["changing"]["bits_per_byte"]}}
        kept |= gains_kept(changing)
        marks = {column: found | gains_kept(changing, column) for column, found in marks.items()}
    without = domains_without_gain(evaluation)
    if not kept and not without:
        return ""
    top = max([1.0, *kept.values()])
    rows = "".join(
        _row(domain, part, {column: found[domain] for column, found in marks.items() if domain in found}, top)
        for domain, part in kept.items()
    )
    rows += "".join(
        f'<p class="domain">{escaped(domain)}<span class="nm-note">{NO_GAIN}</span></p>' for domain in without
    )
    shown = [column for column, found in marks.items() if found]
    keys = "".join(f'<span><i class="mark {column}"></i>{MARKS[column]}</span>' for column in shown)
    return f'<div class="nm-gains"><p class="legend"><span>{LEGEND}</span>{keys}</p>{rows}</div>'


def gain_bar(kept: float, title: str = "") -> str:
    """One bar (HTML) without a name, for a card."""
    return f'<div class="nm-gain-bar" title="{escaped(title)}">{track(kept, {}, max(1.0, kept))}</div>'


def _row(domain: str, kept: float, marks: Mapping[str, float], top: float) -> str:
    said = "; ".join(f"{MARKS[column]}: {share(part)}" for column, part in marks.items())
    figure = share(kept).replace("-", "−")
    lost = " lost" if kept < 0 else ""
    return (
        f'<div class="row" title="{escaped(said)}"><span class="name">{escaped(domain)}</span>'
        f'{track(kept, marks, top)}<span class="figure{lost}">{figure}</span></div>'
    )


def track(kept: float, marks: Mapping[str, float], top: float) -> str:
    """A bar with marks (HTML) on a track from 0 to `top`."""
    ticks = "".join(
        f'<i class="mark {column}" style="left:{_place(part, top):.1f}%"></i>'
        for column, part in marks.items()
    )
    return (
        f'<span class="track"><span class="bar" style="width:{_place(kept, top):.1f}%"></span>{ticks}</span>'
    )


def _place(part: float, top: float) -> float:
    """Return a place on the track in percent; a loss is at its start."""
    return 100 * min(max(part, 0.0), top) / top
