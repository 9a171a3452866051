"""One rule everywhere: the curve, the page, evaluate, both pools and live decoding defer alike."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_jax import records
from cascade_jax.calibration import answer_store, token_pool
from cascade_jax.calibration.answer_pool import RecordsPool, RecordsSource
from cascade_jax.calibration.pool import CascadeAnswers
from cascade_jax.collection.live_answers import LiveAnswers
from cascade_jax.deferral.scores import Average
from cascade_jax.evaluation import curves, policy_points
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.costs import Parameters
from cascade_jax.inference.cascade.decode import make_cascade_decode_fn
from cascade_jax.inference.cascade.rules import ThresholdRule
from cascade_jax.report import examples
from tests.support import certificates
from tests.support.deferral import VALUES, above
from tests.support.scripted import Scripted

N = 6
SCORES = st.lists(st.sampled_from(VALUES), min_size=N, max_size=N).map(np.array)
THRESHOLDS = st.sampled_from([*VALUES, math.inf, -math.inf])


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A deferral score that gives drawn numbers."""

    values: np.ndarray
    name: str = "average"

    def __call__(self, answers):
        return self.values


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """N examples; the quality of all answers tells which of them are the teacher's."""
    path = tmp_path_factory.mktemp("everywhere") / "table.parquet"
    texts = [f"text {i}" for i in range(N)]
    same = {"mixture": "demo", "task": "add", "split": "test", "metric": "exact_match"}
    columns = {
        **{name: [value] * N for name, value in same.items()},
        **{n: texts for n in ("example_id", "inputs", "target")},
        **{f"{model}_answer": texts for model in ("student", "teacher")},
        "student_log_probs": [[-0.5]] * N,
        **{f"student_{kind}": [[]] * N for kind in ("tokens", "entropies")},
        **{f"teacher_{kind}": [[]] * N for kind in ("tokens", "log_probs", "entropies")},
        "student_quality": np.zeros(N),
        "teacher_quality": 0.5 ** np.arange(N),
        "student_flops_per_token": np.full(N, 2e6),
        "teacher_flops_per_token": np.full(N, 1e7),
    }
    records.write(path, columns, {"name": "small", "mixture": "demo", "split": "test"})
    return records.read(path)


def set_of(mean_quality):
    """Which examples are deferred, from the mean quality."""
    bits = round(mean_quality * N * 2 ** (N - 1))
    return np.array([bool(bits >> (N - 1 - i) & 1) for i in range(N)])


@pytest.fixture(scope="module")
def jitted_rule():
    """The decoder's rule, compiled; rows of one position."""
    return jax.jit(lambda rule, uncertainty: rule.defers(uncertainty, jnp.zeros(N, jnp.int32)))


@pytest.mark.medium
@settings(max_examples=60, deadline=None)
@given(scores=SCORES, threshold=THRESHOLDS, other=THRESHOLDS)
def test_all_of_them_defer_the_same_examples(
    table, jitted_rule, tmp_path_factory, scores, threshold, other
):
    expected = above(scores, threshold)
    k = int(expected.sum())
    same = np.testing.assert_array_equal

    curve = curves.deferral_curve(scores, table.student_quality, table.teacher_quality, 1.0, 5.0)
    assert curve.is_realised[k]
    same(set_of(curve.quality[k]), expected)
    same(above(scores, curve.thresholds[k]), expected)
    order, _ = curves.deferral_order(scores)
    assert set(order[:k]) == set(np.flatnonzero(expected))

    ranks = examples.num_deferred(scores, scores)
    same(ranks < examples.num_deferred(scores, np.array([threshold]))[0], expected)

    folder = tmp_path_factory.getbasetemp()
    cascade = Cascade(scores, table.student_quality, table.teacher_quality, 1.0, 5.0)
    path = certificates.write(folder, threshold)
    (point,) = policy_points.points(
        path, {"a": table}, {"a": cascade}, Average(), Parameters()
    ).values()
    same(set_of(point.quality), expected)
    assert point.rate == k / N

    pool = RecordsPool(RecordsSource(score=Drawn(scores)), [table])
    evaluation = pool.evaluate((threshold,), np.arange(N))
    same(evaluation.cost, expected)
    # What is known of one threshold is taken for another exactly where both decide alike.
    same(evaluation.holds_at(np.array([other])), above(scores, other) == expected)

    rule = ThresholdRule(jnp.full((N, 1), threshold, jnp.float32), np.int32(0))
    same(jitted_rule(rule, jnp.asarray(scores, jnp.float32)), expected)


ROWS, LENGTH, BLOCKS, EOS = 8, 5, 2, 2
DECODERS = {
    kind: make_cascade_decode_fn(
        Scripted(), Scripted(), LENGTH, EOS, uncertainty=kind, is_packed=False
    )
    for kind in ("log_prob", "entropy")
}


def decoded(kind, gaps, thresholds):
    """Answers where the large model writes 1, and the small one 0 by a margin in its logits."""
    student = jnp.stack([jnp.zeros_like(gaps), -gaps, jnp.full_like(gaps, -jnp.inf)], axis=-1)
    teacher = jnp.zeros((ROWS, LENGTH, 3)).at[..., 1].set(1.0)
    inputs = jnp.ones((ROWS, 2), jnp.int32)
    return jax.device_get(DECODERS[kind](student, teacher, inputs, thresholds))


def answers_of(made):
    return LiveAnswers(
        tokens=made.tokens,
        lengths=made.lengths,
        is_deferred=made.is_deferred,
        uncertainties=made.uncertainties,
        flops=np.zeros(ROWS),
        texts=[""] * ROWS,
    )


@pytest.mark.parametrize("kind", DECODERS)
def test_live_decoding_and_the_token_pool_defer_the_same_tokens(kind, tmp_path):
    rng = np.random.default_rng(0)
    # Ties, -log 1 = -0, a chance of e^-87 that is still normal and one of e^-88 that is subnormal.
    values = jnp.array([0.0, 1e-4, 1.0, 1.0 + 1e-6, 20.0, 86.0, 87.0, 88.0, 95.0, 200.0])
    gaps = values[rng.integers(len(values), size=(ROWS, LENGTH))]
    uncertainties = decoded(kind, gaps, np.inf).uncertainties
    assert np.isfinite(uncertainties).all() and len(np.unique(uncertainties)) > 4
    seen = np.unique(uncertainties.astype(np.float64))
    near = [np.nextafter(seen.astype(np.float32), np.float32(side)) for side in (-1, 9)]
    choices = np.concatenate([seen, *near, seen * (1 + 1e-9), VALUES[:8], [np.inf, -np.inf]])
    block_of = np.arange(LENGTH) * BLOCKS // LENGTH
    drawn = [rng.choice(choices, BLOCKS) for _ in range(12)]
    expected = [
        np.array(
            [
                above(column, at[block])
                for column, block in zip(uncertainties.T, block_of, strict=True)
            ]
        ).T
        for at in drawn
    ]
    assert 0 < np.mean(expected) < 1
    for i, (at, deferred) in enumerate(zip(drawn, expected, strict=True)):
        made = decoded(kind, gaps, at)
        np.testing.assert_array_equal(made.is_deferred, deferred)
        np.testing.assert_array_equal(made.tokens, deferred.astype(int))
        holds_from, holds_below = token_pool.holding_range(answers_of(made), BLOCKS)
        evaluation = CascadeAnswers(
            cost=deferred.mean(axis=1), quality={}, holds_from=holds_from, holds_below=holds_below
        )
        store = answer_store.AnswerStore(tmp_path / str(i), {}, ROWS)
        store.add(np.arange(ROWS), evaluation)
        for other, theirs in zip(drawn, expected, strict=True):
            known = store.find(np.tile(other, (ROWS, 1)), np.arange(ROWS)) >= 0
            np.testing.assert_array_equal(known, (theirs == deferred).all(axis=1))
