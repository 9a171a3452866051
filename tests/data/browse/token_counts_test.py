"""Percentiles by counting, and what a length cuts off against rows that were cut."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import tasks.demo  # noqa: F401
from cascade_jax.data.browse import rows as row_view
from cascade_jax.data.browse import token_counts
from cascade_jax.data.browse.token_counts import TokenCounts

COUNTS = strategies.lists(strategies.integers(0, 30), min_size=1, max_size=200)


@hypothesis.given(COUNTS, strategies.sampled_from([0, 1, 50, 90, 95, 99, 100]))
def test_a_percentile_is_the_least_length_that_holds_that_part(tokens, percent):
    length = TokenCounts(np.array(tokens)).percentile(percent)
    enough = [n for n in tokens if 100 * sum(m <= n for m in tokens) >= percent * len(tokens)]
    assert length == min(enough)


@hypothesis.given(COUNTS, strategies.integers(1, 30))
def test_what_a_limit_leaves(tokens, limit):
    counts = TokenCounts(np.array(tokens), limit)
    kept = [min(n, limit) for n in tokens]
    assert counts.rows_cut == sum(n != k for n, k in zip(tokens, kept, strict=True))
    assert counts.tokens_lost == pytest.approx(1 - sum(kept) / sum(tokens) if sum(tokens) else 0)
    assert counts.only_eos == sum(k <= 1 for k in kept)
    assert counts.kept.tolist() == kept


def test_without_a_limit_nothing_is_cut():
    counts = TokenCounts(np.array([1, 5, 1000]))
    assert (counts.rows_cut, counts.tokens_lost, counts.only_eos) == (0, 0.0, 1)


def test_the_figures_are_those_of_rows_that_were_cut():
    (opened,) = row_view.open_tasks("demo_reverse_v1", input_length=12, target_length=7)
    inputs, targets = token_counts.count_tokens(opened, 100)
    for name, counts in (("inputs", inputs), ("targets", targets)):
        whole, cut = (
            [len(row[name]) for row in itertools.islice(opened.rows(cut=cut), 100)]
            for cut in (False, True)
        )
        assert counts.tokens.tolist() == whole
        assert counts.rows_cut == sum(a > b for a, b in zip(whole, cut, strict=True)) > 0
        assert counts.tokens_lost == pytest.approx(1 - sum(cut) / sum(whole))


def test_every_row_is_counted_and_shown_to_the_progress_bar():
    (opened,) = row_view.open_tasks("demo_lookup_v1", split="validation")
    seen = []

    def progress(rows):
        for row in rows:
            seen.append(row)
            yield row

    inputs, targets = token_counts.count_tokens(opened, None, progress)
    rows = opened.task.num_input_examples("validation")
    assert len(inputs.tokens) == len(targets.tokens) == len(seen) == rows


def test_lengths_that_leave_no_target_whole_are_refused_with_the_fix():
    token_counts.check_targets_fit({"a": TokenCounts(np.array([9, 4]), 4)})
    bad = {"a": TokenCounts(np.array([3]), 4), "b": TokenCounts(np.array([9, 5, 7]), 4)}
    message = r"target_length 4 cuts off every target of b: .* shortest has 5 .* and 9 hold 99 %"
    with pytest.raises(ValueError, match=message):
        token_counts.check_targets_fit(bad)
    with pytest.raises(ValueError, match=r"of b \(and of 1 more\)"):
        token_counts.check_targets_fit(bad | {"c": bad["b"]})
