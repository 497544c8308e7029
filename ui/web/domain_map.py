"""Domains as points in a plane: the first two principal components of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from registry.records import Domain
from ui.web.components import escaped
from ui.web.token_view import PALETTE

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARKER, SMALL_MARKER, STAR = 15, 6, 18
STAR_COLOUR = "#d97706"
MANY = 1_000  # SVG is too slow for more points than this
NAMES_SHOWN = 60  # more names than this overlap
NAME_GRID = (7, 12)  # columns and rows; at most one name per cell
HEIGHT = 560


@dataclass(frozen=True)
class Plane:
    """Points [n, 2] float64 in the order of the domains, and each axis's share of the total variance.

    `centre` [m] and `axes` [m, 2] place other vectors.
    """

    points: np.ndarray
    shares: tuple[float, float]
    centre: np.ndarray
    axes: np.ndarray

    def place(self, vectors: np.ndarray) -> np.ndarray:
        """Return the points [k, 2] of unit vectors [k, m]."""
        placed: np.ndarray = (vectors - self.centre) @ self.axes
        return placed


def project(domains: Sequence[Domain]) -> Plane:
    """Project the domains' mean directions to their first two principal components; they must share one embedder."""
    means = np.stack([domain.mean for domain in domains]).astype(np.float64)
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    centre = directions.mean(axis=0)
    centred = directions - centre
    # An m × m matrix: its size does not grow with the number of domains. The largest eigenvalues come last.
    variances, axes = np.linalg.eigh(centred.T @ centred)
    first_two = axes[:, [-1, -2]]
    total = float(variances.sum())
    first, second = (float(max(0.0, v)) / total if total > 0 else 0.0 for v in variances[[-1, -2]])
    return Plane(centred @ first_two, (first, second), centre, first_two)


def figure(domains: Sequence[Domain], plane: Plane) -> go.Figure:
    """Scatter plot of the experts, coloured by seed; each point carries its expert's `name@version`.

    More than `MANY` points are drawn by WebGL: smaller, with only some of the names, and without descriptions.
    """
    import plotly.graph_objects as go

    many = len(domains) > MANY
    scatter = go.Scattergl if many else go.Scatter
    chart = go.Figure()
    for place, seed in enumerate(dict.fromkeys(domain.seed for domain in domains)):
        chosen = [index for index, domain in enumerate(domains) if domain.seed == seed]
        chart.add_trace(
            scatter(
                x=plane.points[chosen, 0].astype(np.float32),
                y=plane.points[chosen, 1].astype(np.float32),
                mode="markers",
                name=escaped(seed),
                # Plotly interprets some HTML in its texts, so text by contributors is escaped as on any page.
                customdata=[_said(domains[index], many) for index in chosen],
                hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
                marker={
                    "size": SMALL_MARKER if many else MARKER,
                    "color": PALETTE[place % len(PALETTE)],
                    "opacity": 0.55 if many else 0.85,
                },
            )
        )
    named = _apart(plane.points)
    chart.add_trace(
        go.Scatter(
            x=plane.points[named, 0],
            y=plane.points[named, 1],
            mode="text",
            # the empty line moves the name above its point
            text=[f"{escaped(domains[index].name)}<br> " for index in named],
            textposition="top center",
            hoverinfo="skip",
            showlegend=False,
        )
    )
    titles = [
        f"{name} principal component ({share:.0%} of the variance)"
        for name, share in zip(("first", "second"), plane.shares, strict=True)
    ]
    chart.update_layout(
        height=HEIGHT,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        legend={"title": "seed", "orientation": "h", "y": 1.08},
        xaxis={"title": titles[0], "showticklabels": False, "zeroline": False},
        yaxis={"title": titles[1], "showticklabels": False, "zeroline": False},
        showlegend=len(chart.data) > 2,
    )
    return chart


def with_needs(chart: go.Figure, points: np.ndarray, needs: Sequence[str]) -> go.Figure:
    """Return a copy of the map with each need as a star at its point [k, 2]."""
    import plotly.graph_objects as go

    drawn = go.Figure(chart)
    drawn.add_trace(
        go.Scatter(
            x=points[:, 0],
            y=points[:, 1],
            mode="markers+text",
            name="your needs",
            text=[f"<br>{escaped(need)}" for need in needs],
            textposition="bottom center",
            hoverinfo="skip",
            marker={"symbol": "star", "size": STAR, "color": STAR_COLOUR},
        )
    )
    return drawn


def _said(domain: Domain, many: bool) -> list[str]:
    return [escaped(domain.ref), "" if many else escaped(domain.description)]


def _apart(points: np.ndarray) -> list[int]:
    """Indices into points [n, 2] of the names to draw: all of them if few, else one per grid cell."""
    if len(points) <= NAMES_SHOWN:
        return list(range(len(points)))
    lowest, highest = points.min(axis=0), points.max(axis=0)
    cells = ((points - lowest) / np.maximum(highest - lowest, 1e-12) * (np.array(NAME_GRID) - 1e-6)).astype(
        int
    )
    _cells, first = np.unique(cells, axis=0, return_index=True)
    return sorted(first.tolist())
