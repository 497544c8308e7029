"""Domains as points of a plane: the two directions in which their embeddings differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from registry.records import ExpertRecord
from ui.components import escaped
from ui.token_view import PALETTE

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARKER_SIZE = 15
NAMES_SHOWN = 60  # more names than this cover each other
HEIGHT = 560


@dataclass(frozen=True)
class Plane:
    """Points [n, 2] float64 in the order of the experts, and the share of all differences each axis shows."""

    points: np.ndarray
    shares: tuple[float, float]


def project(experts: Sequence[ExpertRecord]) -> Plane:
    """The first two principal components of the experts' directions; they must share one embedder."""
    means = np.stack([expert.embedding.mean for expert in experts]).astype(np.float64)
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    centred = directions - directions.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(experts), 2))
    kept = min(2, len(strengths))
    points[:, :kept] = left[:, :kept] * strengths[:kept]
    total = float((strengths**2).sum())
    shares = [float(s**2) / total if total > 0 else 0.0 for s in [*strengths[:2], 0.0][:2]]
    return Plane(points, (shares[0], shares[1]))


def figure(experts: Sequence[ExpertRecord], plane: Plane) -> go.Figure:
    """A scatter of the experts, coloured by seed; each point carries its expert's `name@version`."""
    import plotly.graph_objects as go

    chart = go.Figure()
    mode = "markers+text" if len(experts) <= NAMES_SHOWN else "markers"
    for place, seed in enumerate(dict.fromkeys(expert.seed for expert in experts)):
        chosen = [index for index, expert in enumerate(experts) if expert.seed == seed]
        chart.add_trace(
            go.Scatter(
                x=plane.points[chosen, 0],
                y=plane.points[chosen, 1],
                mode=mode,
                name=escaped(seed),
                # Plotly reads a little HTML in its texts: names are escaped as for any page.
                text=[escaped(experts[index].name) for index in chosen],
                textposition="top center",
                customdata=[[experts[index].ref, escaped(experts[index].description)] for index in chosen],
                hovertemplate="<b>%{text}</b><br>%{customdata[1]}<extra></extra>",
                marker={"size": MARKER_SIZE, "color": PALETTE[place % len(PALETTE)], "opacity": 0.85},
            )
        )
    titles = [
        f"{name} principal component ({share:.0%} of the differences)"
        for name, share in zip(("first", "second"), plane.shares, strict=True)
    ]
    chart.update_layout(
        height=HEIGHT,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        legend={"title": "seed", "orientation": "h", "y": 1.08},
        xaxis={"title": titles[0], "showticklabels": False, "zeroline": False},
        yaxis={"title": titles[1], "showticklabels": False, "zeroline": False},
        showlegend=len(chart.data) > 1,
    )
    return chart
