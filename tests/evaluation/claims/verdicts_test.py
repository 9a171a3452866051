"""Verdicts: a known effect is found, its opposite refuted, and what is lacking or thin is said."""

import dataclasses
import json
import math

import numpy as np
import pytest

from cascade_jax.evaluation.claims import figures, papers, tables, verdicts
from cascade_jax.evaluation.claims.claim import ANY, CLOSE, EASY, HARD, LESS, Arm, Claim, Comparison
from tests.support import study_tables, synthetic_budget

XENT, CAT, DIST = Arm("xent"), Arm("cat_xent"), Arm("dist")
AREA = Claim("area", "It is larger", "here", (Comparison("area", CAT, XENT, smallest=0.005),))


def judged(folder, *claims, samples=60):
    (study,) = tables.load([folder]).values()
    return verdicts.judge(study, claims, samples).verdicts


def runs(seeds=range(5), **skills):
    """Runs of each loss; seeds differ a little."""
    return {(loss, seed): skill for loss, skill in skills.items() for seed in seeds}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CAT-Xent is better than Xent; Dist is as good as Xent on the same draws."""
    path = tmp_path_factory.mktemp("study")
    study_tables.write(path, runs(xent=0.0, cat_xent=0.6, dist=0.0), examples=240)
    return path


def test_the_rule(folder):
    against = dataclasses.replace(AREA, id="less", comparisons=(Comparison("area", XENT, CAT),))
    close = Claim("close", "", "", (Comparison("area", DIST, XENT, expected=CLOSE, smallest=0.01),))
    far = Claim("far", "", "", (Comparison("area", CAT, XENT, expected=CLOSE, smallest=0.01),))
    less = Claim("less", "", "", (Comparison("area", XENT, CAT, expected=LESS, smallest=0.01),))
    both = Claim("both", "", "", (*AREA.comparisons, Comparison("area", DIST, XENT)))
    found = judged(folder, AREA, against, close, far, less, both)
    assert [v.verdict for v in found] == [
        "confirmed", "refuted", "confirmed", "refuted", "confirmed", "not shown",
    ]  # fmt: skip
    assert found[5].weakest.arms == "dist − xent" and len(found[5].outcomes) == 2
    effect = found[0].weakest.effect
    assert effect.seeds == 5 and 0.02 < effect.value < 0.2
    by_seed = found[0].weakest.by_seed
    assert effect.value == pytest.approx(np.mean(list(by_seed.values()))) and set(by_seed) == {
        *range(5)
    }


def test_a_real_effect_below_the_smallest_of_interest_is_refuted(folder):
    (comparison,) = AREA.comparisons
    large = dataclasses.replace(comparison, smallest=0.9)
    (verdict,) = judged(folder, dataclasses.replace(AREA, comparisons=(large,)))
    assert verdict.p_for < verdicts.LEVEL and verdict.verdict == "refuted"


def test_holm_counts_the_claims_that_have_tables(folder):
    lacking = Claim("lacking", "", "", (Comparison("area", Arm("cat_dist"), DIST),))
    one, more = judged(folder, AREA)[0], judged(folder, AREA, *[AREA] * 3, lacking)
    assert more[0].p_for == pytest.approx(4 * one.p_for)
    assert more[4].verdict == "no tables" and more[4].lacking == ("small: cat_dist",)
    assert math.isnan(more[4].p_for)


def test_seeds_that_one_side_lacks_are_left_out_and_named(tmp_path):
    study_tables.write(tmp_path, runs(range(4), xent=0.0) | runs((1, 2, 3, 7), cat_xent=0.6))
    (verdict,) = judged(tmp_path, AREA)
    assert set(verdict.weakest.by_seed) == {1, 2, 3}
    assert verdict.notes == (
        "small: cat_xent alone has seeds 7, left out",
        "small: xent alone has seeds 0, left out",
    )


def test_no_common_seed_is_no_table(tmp_path):
    study_tables.write(tmp_path, {("xent", 0): 0.0, ("cat_xent", 1): 0.5})
    (verdict,) = judged(tmp_path, AREA)
    assert verdict.lacking == ("small: a seed that cat_xent and xent both have",)


def test_one_seed_shows_nothing(tmp_path):
    study_tables.write(tmp_path, runs([0], xent=0.0, cat_xent=0.9))
    (verdict,) = judged(tmp_path, AREA)
    assert verdict.verdict == "not shown" and math.isnan(verdict.p_for)
    assert "one seed says nothing of other seeds" in verdict.notes[0]
    assert verdict.weakest.effect.interval[0] > 0


def test_sizes_are_averaged_seed_by_seed(tmp_path):
    study_tables.write(tmp_path, runs(range(3), xent=0.0, cat_xent=0.6))
    study_tables.write(tmp_path, runs(range(4), xent=0.1, cat_xent=0.4), size="tiny")
    (verdict,) = judged(tmp_path, AREA)
    outcome = verdict.weakest
    assert outcome.effect.value == pytest.approx(
        np.mean([outcome.by_size["small"].value, verdict_of(tmp_path, [0, 1, 2], "tiny")])
    )
    assert outcome.by_size["tiny"].seeds == 4 and outcome.effect.seeds == 3
    assert verdict.notes == ("over all sizes without seeds 3 of tiny",)


def verdict_of(folder, seeds, size):
    (study,) = tables.load([folder]).values()
    sampled = figures.Sampled(study, 2)
    of_loss = {"xent": [], "cat_xent": []}
    for run, entry in study.tables.items():
        if run.size == size and run.seed in seeds:
            of_loss[run.loss].append(sampled.value("area", entry, "average", "pool")[0])
    return np.mean(of_loss["cat_xent"]) - np.mean(of_loss["xent"])


def test_a_size_without_tables_is_noted(tmp_path):
    study_tables.write(tmp_path, runs(range(3), xent=0.0, cat_xent=0.6))
    study_tables.write(tmp_path, runs(range(3), xent=0.0), size="tiny")
    (verdict,) = judged(tmp_path, AREA)
    assert verdict.notes == ("without tiny: cat_xent",) and set(verdict.weakest.by_size) == {
        "small"
    }


def test_differences_of_places(folder):
    parts = [Comparison("area", CAT, XENT, on=place) for place in (EASY, HARD)]
    both = dataclasses.replace(parts[0], minus_on=HARD)
    easy, hard, minus = (
        o.effect.value for o in judged(folder, Claim("a", "", "", (*parts, both)))[0].outcomes
    )
    assert minus == pytest.approx(easy - hard)


def test_the_lowest_and_highest_weight_of_gatekeeper(tmp_path):
    claim = next(c for c in papers.CLAIMS if c.id == "gatekeeper_price")
    study_tables.write(tmp_path, runs(range(3), **{"xent": 0.3, "gatekeeper_0.1": 0.0}))
    (verdict,) = judged(tmp_path, claim)
    assert verdict.lacking == ("small: a second weight of gatekeeper beside gatekeeper_0.1",)
    study_tables.write(tmp_path, runs(range(3), **{"gatekeeper_0.9": 0.3, "gatekeeper_0.5": 0.2}))
    (verdict,) = judged(tmp_path, claim)
    arms = [outcome.arms for outcome in verdict.outcomes]
    assert arms == ["gatekeeper_0.1 − xent", "gatekeeper_0.1 − gatekeeper_0.9"]


def test_budgets_give_their_claims(tmp_path):
    study_tables.write(tmp_path, runs(range(3), xent=0.0))
    for seed in range(3):
        file = tmp_path / f"p.small.xent.{seed}.token.budget.json"
        file.write_text(json.dumps(synthetic_budget.make()))
    chosen = [c for c in papers.CLAIMS if c.comparisons[0].second == Arm(ANY)]
    found = judged(tmp_path, *chosen)
    assert len(found) == 3
    budget = tables.load([tmp_path / "p.small.xent.0.parquet"])["p"].tables
    (budget,) = next(iter(budget.values())).budgets
    certified = [run for run in budget.runs if run.certified]
    kept = np.mean([budget.is_within(run) for run in certified]) - (1 - budget.delta)
    over = np.mean([run.test.quality["rouge1"] - run.baselines["whole_answers"].quality["rouge1"]
                    for run in certified])  # fmt: skip
    assert found[2].weakest.effect.value == pytest.approx(kept)
    assert found[0].weakest.effect.value == pytest.approx(over)
    assert "seeds alone" in found[0].notes[0]


def test_an_undefined_figure_is_said(tmp_path):
    def equal(columns):
        columns["teacher_quality"] = np.zeros(120)

    study_tables.write(tmp_path, runs(range(3), xent=0.0, cat_xent=0.6), change=equal)
    (verdict,) = judged(tmp_path, Claim("a", "", "", (Comparison("s_d", CAT, XENT),)))
    assert verdict.verdict == "not shown" and "s_d is undefined" in verdict.notes[0]


def test_students_of_one_size_must_cost_the_same(tmp_path):
    study_tables.write(tmp_path, runs(range(2), xent=0.0))

    def larger(columns):
        columns["student_flops_per_token"] = [2e8] * 120

    study_tables.write(tmp_path, runs(range(2), cat_xent=0.0), change=larger)
    with pytest.raises(ValueError, match="FLOPs per token .* must cost the same"):
        judged(tmp_path, AREA)


def test_every_claim_of_the_papers_is_well_formed():
    ids = [claim.id for claim in papers.CLAIMS]
    assert len(set(ids)) == len(ids) == 25
    for claim in papers.CLAIMS:
        assert claim.sentence and claim.source.split(",")[0] in ("CAT", "Gatekeeper", "L2D")
        for comparison in claim.comparisons:
            assert comparison.figure in figures.FIGURES
    with pytest.raises(ValueError, match="smallest"):
        Comparison("area", CAT, XENT, expected=CLOSE)
    with pytest.raises(ValueError, match="expected"):
        Comparison("area", CAT, XENT, expected="more")
