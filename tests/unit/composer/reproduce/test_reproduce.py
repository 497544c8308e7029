"""The plan of a reproduction, and its report of measured cells."""

import json

import pytest

from composer.errors import MissingExtraError, RecipeError
from composer.reproduce.cells import Cells
from composer.reproduce.plan import ANCHORED, LINEAR, LOW_BALANCE, OURS, Settings, composed, plan
from composer.reproduce.statistics import aggregate
from composer.reproduce.summary import summarise
from composer.reproduce.tables import ablation_table, bar_table, domain_table

SETTINGS = Settings(members=("code", "math"), newcomer="law", random_seeds=(0, 1))
DOMAINS = SETTINGS.domains


def cell(case, random_seed, bits, *, trained=0, forwarded=0, own=0.8):
    """A measured cell: the same bits per byte and the same own share in every domain."""
    held = DOMAINS if case.parent else DOMAINS[:-1]
    other = (1 - own) / (len(held) - 1)
    routing = {d: {e: own if e == d else other for e in held} for d in DOMAINS}
    return {
        "case": case.name,
        "random_seed": random_seed,
        "cost": {
            "trained": trained,
            "forwarded": forwarded,
            "solving_seconds": 0.5,
            "cpu_seconds": trained / 1000 or 1.0,
        },
        "bits_per_byte": dict.fromkeys(DOMAINS, bits),
        "oracle": dict.fromkeys(held, bits - 0.1),
        "routing": routing,
        "routing_by_layer": {d: {e: [s, s] for e, s in row.items()} for d, row in routing.items()},
        "cosines": {"before": [[1.0] * len(held)] * len(held), "after": [[0.5] * len(held)] * len(held)},
    }


@pytest.fixture
def cells(tmp_path):
    """Measured cells of two cases: the linear baseline at 300k at 3.0 bits, ours at 100k at 2.9 and 2.7."""
    cells = Cells(tmp_path / "cells")
    dense = {
        "seed": dict.fromkeys(DOMAINS, 4.0),
        "expert": dict.fromkeys(DOMAINS, 2.0),
        "dense_merging": dict.fromkeys(DOMAINS, 3.5),
        "dense_merging_extended": dict.fromkeys(DOMAINS, 3.5),
    }
    cells.write("baselines", None, dense)
    linear, ours = composed(LINEAR, 300_000), composed(OURS, 100_000)
    for random_seed, bits in enumerate((2.9, 2.7)):
        cells.write(linear.name, random_seed, cell(linear, random_seed, 3.0, trained=300_000))
        cells.write(ours.name, random_seed, cell(ours, random_seed, bits, trained=60_000, forwarded=90_000))
    return cells


def test_every_case_comes_after_those_that_it_refers_to():
    seen = set()
    for case in plan(SETTINGS):
        assert {case.parent, case.like} - {None} <= seen
        assert case.name not in seen
        seen.add(case.name)


def test_the_low_balance_variant_divides_each_systems_own_factor_by_a_hundred():
    low = {case.system: case.training for case in plan(SETTINGS) if case.variant == LOW_BALANCE}
    assert low[LINEAR]["load_balance"] == pytest.approx(0.05 / 100)
    assert low[OURS]["load_balance"] == pytest.approx(0.01 / 100)


def test_a_budget_counts_a_forwarded_token_a_third_and_a_second_of_solving_as_what_is_trained_in_it(cells):
    results = summarise(cells, SETTINGS, plan(SETTINGS))
    assert results["rate"] == pytest.approx(1000)
    spent = results["cases"]["ours-100k"]["figures"]["spent"]["mean"]
    assert spent == pytest.approx(60_000 + 90_000 / 3 + 0.5 * 1000)


def test_figures_are_means_and_deviations_over_random_seeds(cells):
    figures = summarise(cells, SETTINGS, plan(SETTINGS))["cases"]["ours-100k"]["figures"]
    assert figures["old"]["values"] == pytest.approx([2.9, 2.7])
    assert figures["old"]["mean"] == pytest.approx(2.8)
    assert figures["old"]["deviation"] == pytest.approx(2**0.5 / 10)
    assert figures["own"]["math"]["mean"] == pytest.approx(0.8)
    assert aggregate([{"a": [1.0]}])["a"][0] == {"mean": 1.0, "deviation": 0.0, "values": [1.0]}


def test_a_bar_is_met_missed_or_not_measured(cells):
    bars = {row["bar"]: row for row in summarise(cells, SETTINGS, plan(SETTINGS))["bars"]}
    reached = bars["our default reaches the loss of the linear baseline at 300k with ≤ 100k"]
    assert reached["met"] is True
    assert reached["found"] == "2.800 ± 0.141 at 90k, baseline 3.000 ± 0.000 at 300k (n = 2)"
    assert bars["own-domain share ≥ 70% in every domain, composed"]["met"] is True
    stretch = bars["stretch goal: it reaches the loss of the linear baseline at 300k with ≤ 30k"]
    assert (stretch["met"], stretch["found"]) == (None, "not measured")


def test_cases_are_compared_over_the_random_seeds_that_both_have(cells):
    low = next(case for case in plan(SETTINGS) if case.system == OURS and case.variant == LOW_BALANCE)
    cells.write(low.name, 1, cell(low, 1, 2.7 * 1.004, trained=60_000))
    results = summarise(cells, SETTINGS, plan(SETTINGS))
    assert results["bars"][-1] == {
        "bar": "load balance / 100 raises the loss of our default by < 0.5%",
        "found": "+0.40% (n = 1)",
        "met": True,
    }
    assert ablation_table(results).rows[0][1:5] == ["1", "2.700", "2.711", "+0.40%"]


def test_a_budget_that_the_warm_start_uses_up_is_a_miss_that_says_why(cells):
    cells.write("ours-30k", 0, {"skipped": "the warm start alone takes 38,000 token equivalents"})
    results = summarise(cells, SETTINGS, plan(SETTINGS))
    stretch = results["bars"][1]
    assert (stretch["met"], stretch["found"]) == (
        False,
        "the warm start alone takes 38,000 token equivalents",
    )


def test_tables_show_what_was_measured_and_nothing_else(cells):
    results = summarise(cells, SETTINGS, plan(SETTINGS))
    rows = {(row[0], row[1]): row[2:] for row in domain_table(results).rows}
    assert rows["seed", "–"] == ["4.000", "4.000", "4.000"]
    assert rows["Nexus, our default", "90k"] == ["2.800 ± 0.141"] * 3
    assert rows["linear router (BTX)", "300k"] == ["3.000 ± 0.000"] * 3
    assert len(rows) == 5
    assert [row[2] for row in bar_table(results).rows].count("met") == 2


def test_a_report_of_all_cells_has_every_picture_and_the_cells_figures(cells):
    pytest.importorskip("matplotlib")
    from composer.reproduce.figures import PICTURES
    from composer.reproduce.run import write_report

    for case in plan(SETTINGS):
        for random_seed in SETTINGS.random_seeds:
            trained = case.budget if case.system == LINEAR else case.budget // 2
            cells.write(case.name, random_seed, cell(case, random_seed, 2.5, trained=trained))
    cells.write("baselines-anchored", None, cells.read("baselines"))
    out = cells.folder.parent
    results = write_report(out, cells, SETTINGS, plan(SETTINGS))
    assert json.loads((out / "results.json").read_text()) == results
    assert {path.stem for path in out.glob("*.svg")} == set(PICTURES)
    page = (out / "index.html").read_text()
    assert page.count("<svg") == len(PICTURES)
    assert all(row["met"] is not None for row in results["bars"])
    assert results["cases"][f"{ANCHORED}-0"]["figures"]["old"]["mean"] == pytest.approx(2.5)
    assert "2.500 ± 0.000" in page


def test_a_report_of_no_cells_says_that_nothing_was_measured(tmp_path):
    pytest.importorskip("matplotlib")
    from composer.reproduce.run import write_report

    results = write_report(tmp_path, Cells(tmp_path / "cells"), SETTINGS, plan(SETTINGS))
    assert all(row["met"] is None for row in results["bars"])
    assert "not measured" in (tmp_path / "index.html").read_text()


def test_a_damaged_cell_is_named_with_the_remedy(tmp_path):
    cells = Cells(tmp_path)
    cells.path("ours-0", 1).write_text("{")
    with pytest.raises(RecipeError, match=r"ours-0~1\.json is not a measured cell .* remove it"):
        cells.read("ours-0", 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": ("code",), "newcomer": "law"}, "two or more domains"),
        ({"members": ("code", "law"), "newcomer": "law"}, r"a different new domain \(--newcomer\)"),
        ({"members": ("code", "math"), "newcomer": "law", "budgets": (3, 2, 1)}, "rising"),
        (
            {"members": ("code", "math"), "newcomer": "law", "budgets": (1, 2)},
            "three budgets in rising order",
        ),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        Settings(**settings)


def test_without_matplotlib_nothing_is_measured_and_the_error_says_what_to_install(tmp_path, monkeypatch):
    from composer.reproduce.run import reproduce

    monkeypatch.setattr("composer.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nexusmix\[report\]'"):
        reproduce(None, "seed", tmp_path / "corpora", tmp_path / "out")
    assert not (tmp_path / "out").exists()
