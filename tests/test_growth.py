"""The law of growth: that it finds the one the figures came from, and says how sure it is."""

import numpy as np
import pytest

from zhgpt import findings, growth, growth_table
from zhgpt.errors import InputError
from zhgpt.growth import Point

PLACES = [
    (48 * width**2 + 4352 * width, steps * 6752)
    for width in (32, 64, 128, 256, 512)
    for steps in (128, 512, 2048)
]
FAR = (3e8, 1e10)


TRUE = {
    "floor": lambda size, text: 0.8 + 40 * size**-0.35 + 60 * text**-0.28,
    "power": lambda size, text: (500 * size**-0.5 + 2e4 * text**-0.6) ** 0.18,
}
UNKNOWNS = {
    "floor": {"floor": 0.8, "power": 1, "alpha": 0.35, "beta": 0.28, "compute": 0.1556},
    "power": {"floor": 0, "power": 0.18, "alpha": 0.09, "beta": 0.108, "compute": 0.0491},
}
either = pytest.mark.parametrize("form", growth.FORMS)


def made(form, noise, seed=0):
    chance, true = np.random.default_rng(seed), TRUE[form]
    return [
        Point(*place, true(*place) * (1 + noise * chance.standard_normal())) for place in PLACES
    ]


@either
def test_the_law_of_figures_without_noise_is_found(form):
    law = growth.fit(made(form, noise=0), form)
    for name, expected in UNKNOWNS[form].items():
        found = law.unknowns()[name]
        assert found.best == pytest.approx(expected, rel=0.02) and found.low <= found.best
    assert law.bits(*FAR).best == pytest.approx(TRUE[form](*FAR), rel=0.005)
    assert law.error < 1e-4


@either
def test_its_range_holds_the_truth_nine_times_of_ten(form):
    """Of 95 %, in ten trials: fewer than eight would come about once in a hundred times."""
    fits = [growth.fit(made(form, noise=0.003, seed=seed), form) for seed in range(10)]
    ranges = [law.bits(*FAR) for law in fits]
    held = sum(one.low <= TRUE[form](*FAR) <= one.high for one in ranges)
    assert held >= 8
    assert all(one.high - one.low > 0.01 for one in ranges)  # it does not claim to know


@either
def test_noise_widens_the_range(form):
    quiet, loud = (growth.fit(made(form, noise), form).bits(*FAR) for noise in (0.001, 0.01))
    assert loud.high - loud.low > 3 * (quiet.high - quiet.low)


def test_the_form_the_figures_came_from_misses_them_least():
    for form in growth.FORMS:
        errors = {tried: growth.fit(made(form, 0.001), tried).error for tried in growth.FORMS}
        assert min(errors, key=errors.get) == form


@either
def test_compute_is_used_best_where_no_other_size_does_better(form):
    law = growth.fit(made(form, noise=0), form)
    best = law.shape(1e16, bytes_per_token=3.3)
    assert 6 * best.parameters * best.bytes / 3.3 == pytest.approx(1e16)
    for factor in (0.8, 1.25):
        assert law.bits(best.parameters * factor, best.bytes / factor).best > best.bits


def test_too_few_runs_are_refused():
    with pytest.raises(InputError, match="7 runs are too few"):
        growth.fit(made("floor", 0)[:7], "floor")


def test_the_quantile_is_students():
    # Abramowitz and Stegun 1964, table 26.10.
    for free, expected in {3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042}.items():
        assert growth.student(free) == pytest.approx(expected, rel=0.01)


def line(place, bits, rate=0.02, seed=1, steps=512):
    return {
        "plan": {"parameters": place[0], "tokens": place[1] / 4, "max_steps": steps},
        "train_bytes": 4000,
        "train_tokens": 1000,
        "recipe_file": "recipes/proxy/baseline.json",
        "overrides": {"training_arguments.learning_rate": rate, "training_arguments.seed": seed},
        "metrics": {"eval_bits_per_byte": bits},
    }


def test_a_size_counts_with_the_mean_of_its_best_rate():
    place = PLACES[0]
    lines = [line(place, 2.4), line(place, 2.6, seed=2), line(place, 2.3, rate=0.1)]
    lines += [line(place, 2.9, rate=0.1, seed=2), line(PLACES[1], 2.0)]
    lines += [line(PLACES[2], 2.0, steps=128)]
    assert growth_table.points(lines) == [Point(*place, 2.5), Point(*PLACES[1], 2.0)]


def test_a_page_has_the_law_of_the_runs_that_it_names():
    lines = [line(point[:2], point.bits) for point in made("power", noise=0.002)]
    lines += [line(PLACES[0], 1.0) | {"recipe_file": "other.json"}]
    mark = "<!-- growth of baseline: learning_rate=* -->"
    page = findings.page(f"before\n{mark}\n<!-- end of growth -->\nafter\n", lines)
    assert page.startswith("before\n") and page.endswith("\n<!-- end of growth -->\nafter\n")
    assert "15 runs:" in page and "| 300M | 10 | " in page
    assert "The 3 runs of the most compute, foretold from all others" in page
    assert len(findings.growing(page, lines)) == 15
    with pytest.raises(InputError, match="no law of growth"):
        findings.growing("", lines)
