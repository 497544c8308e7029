"""The routing heat map as SVG: the share of each domain's tokens routed to each expert."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP = 92, 44, 150, 70
INK, PAPER, LOW, HIGH = "#1f2937", "#ffffff", (239, 244, 250), (23, 78, 166)


def routing_svg(routing: Mapping[str, Mapping[str, float]], title: str = "Share of tokens per expert") -> str:
    """Draw domains as rows and experts as columns; `routing` is {domain: {expert: share from 0 to 1}}."""
    experts = list(next(iter(routing.values())))
    width = LEFT + CELL_WIDTH * len(experts) + 20
    height = TOP + CELL_HEIGHT * len(routing) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        _text(LEFT, 24, title, weight="600", size=15),
    ]
    for column, expert in enumerate(experts):
        parts.append(_text(LEFT + CELL_WIDTH * (column + 0.5), TOP - 12, expert, anchor="middle"))
    for row, (domain, shares) in enumerate(routing.items()):
        y = TOP + CELL_HEIGHT * row
        parts.append(_text(LEFT - 12, y + CELL_HEIGHT / 2 + 5, domain, anchor="end"))
        for column, expert in enumerate(experts):
            parts += _cell(LEFT + CELL_WIDTH * column, y, shares[expert], f"{domain} → {expert}")
    caption = "rows: domain of the text · columns: expert · mean over blocks"
    parts += [_text(LEFT, height - 14, caption, size=12), "</svg>"]
    return "\n".join(parts)


def _cell(x: float, y: float, share: float, label: str) -> list[str]:
    colour = "rgb({},{},{})".format(
        *(round(low + (high - low) * share) for low, high in zip(LOW, HIGH, strict=True))
    )
    return [
        f'<rect x="{x + 1}" y="{y + 1}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" rx="4" fill="{colour}">'
        f"<title>{escape(label)}: {share:.1%}</title></rect>",
        _text(
            x + CELL_WIDTH / 2,
            y + CELL_HEIGHT / 2 + 5,
            f"{share:.0%}",
            anchor="middle",
            fill=PAPER if share > 0.5 else INK,
        ),
    ]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "400",
    size: int = 13,
    fill: str = INK,
) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" '
        f'fill="{fill}">{escape(text)}</text>'
    )
