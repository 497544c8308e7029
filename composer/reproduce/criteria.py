"""Claims of the evaluation and their results: each claim is met, missed, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from composer.reproduce.plan import (
    ANCHORED,
    LINEAR,
    LOW_BALANCE,
    OURS,
    WITHOUT_GRADIENTS,
    composed,
    extended,
    short,
    thousands,
)
from composer.reproduce.statistics import compared

OWN_SHARE = 0.70
GAIN_RATIO = 1.3
KEPT = {
    OURS: (0.30, 0.45),
    ANCHORED: (0.60, 0.85),
}  # shares of the dense expert's gain: without any gradient step; after a router-only warm start
OLD_DOMAINS = 0.01
BALANCE_COST = 0.005

Results = Mapping[str, Any]


def bars(results: Results) -> list[dict[str, Any]]:
    """Return a row for each claim: {"bar": the claim, "found": the result, "met": True, False or None}.

    "met" is None if the claim was not measured.
    """
    low, main, high = results["settings"]["budgets"]
    return [
        _reaches_the_baseline(results, main, high, "our default reaches the loss of the linear baseline at"),
        _reaches_the_baseline(
            results, low, high, "stretch goal: it reaches the loss of the linear baseline at"
        ),
        *_own_shares(results, main),
        *_extension(results, main),
        *_without_gradients(results),
        _balance(results, main),
    ]


def _row(bar: str, cases: list[Any], find: Callable[..., tuple[str, bool]]) -> dict[str, Any]:
    """Return the row of one claim, over the random seeds that all its cases share.

    The claim counts as not measured if a case is missing, and as missed if a case was skipped.
    """
    missing = [case for case in cases if case is None or not case["figures"]]
    if missing:
        why = next((case["skipped"] for case in missing if case and case["skipped"]), "not measured")
        return {"bar": bar, "found": why, "met": None if why == "not measured" else False}
    figures, seeds = compared(cases)
    if not seeds:
        return {"bar": bar, "found": "not measured", "met": None}
    found, met = find(*figures)
    return {"bar": bar, "found": f"{found} (n = {len(seeds)})", "met": met}


def _case(results: Results, name: str) -> Any:
    return results["cases"].get(name)


def _reaches_the_baseline(results: Results, budget: int, high: int, words: str) -> dict[str, Any]:
    def find(ours: Any, linear: Any) -> tuple[str, bool]:
        found = (
            f"{_pm(ours['old'])} at {thousands(ours['spent']['mean'])}, baseline {_pm(linear['old'])} "
            f"at {thousands(linear['spent']['mean'])}"
        )
        within = ours["spent"]["mean"] <= budget * 1.005
        return found, within and ours["old"]["mean"] <= linear["old"]["mean"]

    cases = [_case(results, composed(OURS, budget).name), _case(results, composed(LINEAR, high).name)]
    return _row(f"{words} {short(high)} with ≤ {short(budget)}", cases, find)


def _own_shares(results: Results, main: int) -> list[dict[str, Any]]:
    def find(ours: Any) -> tuple[str, bool]:
        shares = {domain: share["mean"] for domain, share in ours["own"].items()}
        return ", ".join(f"{d} {s:.0%}" for d, s in shares.items()), min(shares.values()) >= OWN_SHARE

    base = composed(OURS, main)
    named = (("composed", base), ("extended", extended(base, main)))
    return [
        _row(f"own-domain share ≥ {OWN_SHARE:.0%} in every domain, {how}", [_case(results, case.name)], find)
        for how, case in named
    ]


def _extension(results: Results, main: int) -> list[dict[str, Any]]:
    low = results["settings"]["budgets"][0]
    new = results["settings"]["newcomer"]
    rows = []
    for budget in (low, main):
        cases = [_case(results, extended(composed(s, main), budget).name) for s in (OURS, LINEAR)]

        def gain(ours: Any, linear: Any) -> tuple[str, bool]:
            seed = results["baselines"]["seed"][new]
            gains = [seed - each["new"]["mean"] for each in (ours, linear)]
            spent = [thousands(each["spent"]["mean"]) for each in (ours, linear)]
            found = f"{gains[0]:.3f} at {spent[0]}, linear router {gains[1]:.3f} at {spent[1]}"
            return found, gains[0] >= GAIN_RATIO * gains[1]

        def old(ours: Any, linear: Any) -> tuple[str, bool]:
            found = f"{_pm(ours['old'])}, linear router {_pm(linear['old'])}"
            return found, ours["old"]["mean"] <= linear["old"]["mean"]

        at = f"at {short(budget)}"
        rows.append(
            _row(
                f"extension {at}: gain on {new} over the seed ≥ {GAIN_RATIO} × the linear router's",
                cases,
                gain,
            )
        )
        rows.append(_row(f"extension {at}: old domains no worse than with the linear router", cases, old))
    return rows


def _without_gradients(results: Results) -> list[dict[str, Any]]:
    new = results["settings"]["newcomer"]
    rows = []
    for system, kind, baselines in (
        (OURS, "free", "baselines"),
        (ANCHORED, "anchored", "baselines_anchored"),
    ):
        parent = composed(system, 0)
        kept_and_solved = zip(WITHOUT_GRADIENTS[system], KEPT[system], strict=True)
        for how, (variant, share) in zip(
            ("no gradient step", "router-only warm start"), kept_and_solved, strict=True
        ):
            cases = [_case(results, extended(parent, 0, variant).name), _case(results, parent.name)]

            def kept(after: Any, before: Any, baselines: str = baselines, share: float = share) -> Any:
                dense = results[baselines]
                gains = [
                    (dense["seed"][new] - bits) / (dense["seed"][new] - dense["expert"][new])
                    for bits in after["new"]["values"]
                ]
                return f"{sum(gains) / len(gains):.0%}", sum(gains) / len(gains) >= share

            def unchanged(after: Any, before: Any) -> tuple[str, bool]:
                change = after["old"]["mean"] / before["old"]["mean"] - 1
                return f"{change:+.2%}", change <= OLD_DOMAINS

            rows.append(
                _row(
                    f"{kind} experts, {how}: ≥ {share:.0%} of the {kind} dense expert's gain on {new}",
                    cases,
                    kept,
                )
            )
            if system == ANCHORED:
                rows.append(
                    _row(
                        f"{kind} experts, {how}: loss on old domains rises ≤ {OLD_DOMAINS:.0%}",
                        cases,
                        unchanged,
                    )
                )
    return rows


def _balance(results: Results, main: int) -> dict[str, Any]:
    def find(usual: Any, low: Any) -> tuple[str, bool]:
        change = low["old"]["mean"] / usual["old"]["mean"] - 1
        return f"{change:+.2%}", change < BALANCE_COST

    cases = [_case(results, composed(OURS, main, v).name) for v in ("", LOW_BALANCE)]
    return _row(f"load balance / 100 raises the loss of our default by < {BALANCE_COST:.1%}", cases, find)


def _pm(stat: Mapping[str, float]) -> str:
    return f"{stat['mean']:.3f} ± {stat['deviation']:.3f}"
