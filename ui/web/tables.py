"""Numbers as HTML tables in the theme's style: scores with the best marked, shares as a heat map."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from composer.evaluation.contenders import EXPERT, MEAN, ORACLE, TITLES, score_rows
from ui.web.components import escaped
from ui.web.mix_words import text_words
from ui.wording.display import share
from ui.wording.tasks import TaskRow


def score_table(evaluation: Mapping[str, Any]) -> str:
    """Table of bits per byte by domain and model (lower is better), with the best of each row marked."""
    columns, rows = score_rows(evaluation)
    if len(evaluation["bits_per_byte"]) == 1:
        del rows[MEAN]
    return figures(
        [TITLES.get(column, column) for column in columns],
        rows,
        corner="domain",
        caption=f"Bits per byte on {text_words(evaluation)}, held out from training; lower is better, the best of each "
        "row is marked. A domain's own expert is the ceiling, so it is never marked",
        ceilings=[place for place, column in enumerate(columns) if column in (EXPERT, ORACLE)],
    )


def figures(
    columns: Sequence[str],
    rows: Mapping[str, Sequence[float | None]],
    *,
    corner: str = "",
    caption: str = "",
    ceilings: Container[int] = (),
) -> str:
    """Table of numbers where lower is better; the best of each row is marked, also for screen readers.

    The columns with the indices `ceilings` are never marked.
    """
    body = "".join(
        f'<tr class="{"mean" if name == MEAN else ""}"><th scope="row">{escaped(name)}</th>{_cells(row, ceilings)}</tr>'
        for name, row in rows.items()
    )
    return _table("nm-figures", caption, [corner, *columns], body)


def task_table(rows: Sequence[TaskRow]) -> str:
    """Table with one row per task metric and one column per model; no best mark, because some metrics are losses."""
    models = list(dict.fromkeys(model for row in rows for model in row.values))
    body = "".join(
        f'<tr><th scope="row">{escaped(row.task)} · {escaped(row.metric)}</th>'
        f"{''.join(_measured(row.values.get(model), row.errors.get(model)) for model in models)}</tr>"
        for row in rows
    )
    caption = "Tasks of lm-evaluation-harness, ± standard error"
    limits = sorted({row.limit for row in rows if row.limit is not None})
    if limits:
        caption += f"; the first {' or '.join(map(str, limits))} examples only"
    head = ["task · metric", *(TITLES.get(model, model) for model in models)]
    return _table("nm-figures", caption, head, body)


def heat_map(routing: Mapping[str, Mapping[str, float]], caption: str) -> str:
    """Heat map with one row per text domain and one column per expert; a deeper colour means more tokens."""
    experts = list(dict.fromkeys(expert for row in routing.values() for expert in row))
    body = "".join(
        f'<tr><th scope="row">{escaped(domain)}</th>{"".join(_heat(row.get(e, 0.0)) for e in experts)}</tr>'
        for domain, row in routing.items()
    )
    return _table("nm-heat", caption, ["text ↓ · expert →", *experts], body)


def _table(kind: str, caption: str, columns: Sequence[str], body: str) -> str:
    """A themed table in its own scroll area; `body` contains its rows as HTML."""
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in columns)
    return (
        f'<div class="nm-scroll" tabindex="0"><table class="{kind}"><caption>{escaped(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[float | None], ceilings: Container[int]) -> str:
    known = [score for place, score in enumerate(row) if score is not None and place not in ceilings]
    best = min(known) if len(known) > 1 else None
    return "".join(
        "<td>–</td>"
        if score is None
        else f'<td class="best" title="best of this row"><span>{score:.3f}</span></td>'
        if score == best and place not in ceilings
        else f"<td>{score:.3f}</td>"
        for place, score in enumerate(row)
    )


def _measured(value: Any, error: Any) -> str:
    if not isinstance(value, float | int):
        return "<td>–</td>"
    spread = f" ± {error:.3f}" if isinstance(error, float | int) else ""
    return f"<td>{value:.3f}{spread}</td>"


def _heat(fraction: float) -> str:
    # 8 to 100 percent of the accent colour, so that a cell with no tokens is still visible.
    return (
        f'<td><div class="cell{" deep" if fraction > 0.8 else ""}" style="--share:{8 + 92 * fraction:.0f}%">'
        f"{share(fraction)}</div></td>"
    )
