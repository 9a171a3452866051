"""Scores of what probes measure: against lm-polygraph, NumPy answer by answer, and at the edges."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given

from cascade_jax.deferral import scores
from cascade_jax.deferral.scores import AnswerTokens, segments
from tests.support import polygraph
from tests.support.ragged import LISTS, answers_of, probed, rows_of

RNG = np.random.default_rng(0)
LENGTHS = (1, 2, 3, 7, 40, 1000)
every_score = pytest.mark.parametrize("score", scores.FROM_PROBES, ids=lambda score: score.name)


def some_answers() -> AnswerTokens:
    return probed([-RNG.exponential(size=n) for n in LENGTHS])


def rauq(logs, attention, alpha):
    """The paper's recurrence of one answer, in probabilities."""
    by_layer = []
    for weights in attention.T:
        confidence = [np.exp(logs[0])]
        for log, weight in zip(logs[1:], weights[1:], strict=True):
            confidence.append(alpha * np.exp(log) + (1 - alpha) * weight * confidence[-1])
        by_layer.append(-np.mean(np.log(confidence)))
    return max(by_layer)


def by_hand(score, answers) -> list[float]:
    """Values answer by answer, in float64."""
    rows = {name: rows_of(answers, values) for name, values in answers.per_token.items()}
    logs, entropies = (rows_of(answers, v) for v in (answers.log_probs, answers.entropies))
    size, values = int(answers.per_example["vocab_size"][0]), []
    for row, own in enumerate(logs):
        column = {name: of_rows[row] for name, of_rows in rows.items()}
        weights = column["relevances"] / column["relevances"].sum()
        distance = np.log(np.log(size) - entropies[row] + 1e-10)
        attention = column["previous_attention"]
        values.append(
            {
                "self-certainty": np.log(size) + column["mean_log_probs"].mean(),
                "RAUQ": rauq(own, attention, 0.2),
                "RAUQ (entropy)": rauq(distance, attention, 0.8),
                "attention score": -column["self_attention_logs"][1:].sum(),
                "TokenSAR": -np.sum(weights * own),
                "surface-form CCP": -np.exp(column["surface_log_probs"].sum()),
            }[score.name]
        )
    return values


@every_score
def test_values_are_those_of_each_answer_by_hand(score, monkeypatch):
    answers = some_answers()
    whole = score(answers)
    np.testing.assert_allclose(whole, by_hand(score, answers), rtol=1e-6, atol=1e-12)
    assert np.isfinite(whole).all()
    monkeypatch.setattr(segments.blocks, "__defaults__", (16,))
    np.testing.assert_allclose(score(answers), whole, rtol=1e-12)
    order = RNG.permutation(len(LENGTHS))
    np.testing.assert_allclose(score(answers.take(order)), whole[order], rtol=1e-12)


# ---- lm-polygraph on the same arrays

VOCAB_SIZE, LAYERS, HEADS = 12, 6, 3


@dataclasses.dataclass(frozen=True)
class Random:
    """Distributions and attention maps, and the columns that probes make of them."""

    answers: AnswerTokens
    statistics: dict


@pytest.fixture(scope="module")
def drawn() -> Random:
    log_probs, attention, entropies, means, maps, chosen, own, tokens = ([] for _ in range(8))
    for length in LENGTHS[1:5]:  # of one token its code gives NaN
        logits = 3 * RNG.normal(size=(length, VOCAB_SIZE))
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        tokens.append(np.argmax(log_p, axis=1))
        log_probs.append(log_p)
        means.append(log_p.mean(axis=1))
        entropies.append(-np.sum(np.exp(log_p) * log_p, axis=1))
        # Row j holds the weights of the step that wrote token j, as lm-polygraph keeps them.
        written = np.tril(RNG.random((LAYERS, HEADS, length, length)), -1)
        maps.append(written.reshape(LAYERS * HEADS, length, length))
        before = np.diagonal(written, -1, axis1=2, axis2=3)
        heads = before.mean(axis=-1).argmax(axis=1)
        picked = before[np.arange(LAYERS), heads][2:5].T  # of the middle third
        chosen.append(np.concatenate([np.ones((1, 3)), picked]))
        attention.append(RNG.random((LAYERS, HEADS, length + 4, length + 4)))
        diagonal = np.diagonal(attention[-1][3], axis1=1, axis2=2)[:, -length - 1 : -1]
        own.append(np.log(diagonal + 1e-12).mean(axis=0))
    likelihoods = [p[np.arange(len(t)), t] for p, t in zip(log_probs, tokens, strict=True)]
    relevances = [RNG.random(len(row)) for row in likelihoods]
    answers = AnswerTokens(
        np.concatenate(likelihoods),
        np.concatenate(entropies),
        np.cumsum([0, *map(len, likelihoods)]),
        per_token={
            "mean_log_probs": np.concatenate(means),
            "previous_attention": np.concatenate(chosen),
            "self_attention_logs": np.concatenate(own),
            "relevances": np.concatenate(relevances),
        },
        per_example={"vocab_size": np.full(len(tokens), VOCAB_SIZE)},
    )
    statistics = {
        "greedy_log_probs": log_probs,
        "greedy_log_likelihoods": likelihoods,
        "greedy_tokens": [row.tolist() for row in tokens],
        "entropy": entropies,
        "attention_all": maps,
        "forwardpass_attention_weights": attention,
        "token_similarity": [1 - row for row in relevances],
    }
    return Random(answers, statistics)


@polygraph.needs_polygraph
@pytest.mark.parametrize(
    "score, file, name, settings, constant",
    [
        (scores.SelfCertainty(), "self_certainty", "SelfCertainty", {}, 0),
        (scores.Rauq(), "rauq", "RAUQ", {}, 1),
        (scores.Rauq(alpha=0.5), "rauq", "RAUQ", {"instruct": True}, 1),
        (scores.RauqEntropy(), "rauq", "RAUQ", {"use_entropy": True}, 1),
        (scores.AttentionScore(), "attention_score", "AttentionScore", {"gen_only": True}, 0),
        (scores.TokenSar(), "token_sar", "TokenSAR", {}, 0),
    ],
    ids=lambda value: str(value)[:24],
)
def test_lm_polygraph_gives_the_same(drawn, score, file, name, settings, constant):
    """RAUQ there is one more."""
    if name == "RAUQ":
        settings = {"n_layers": LAYERS, "n_heads": HEADS, **settings}
    elif name == "AttentionScore":
        settings = {"layer": LAYERS // 2, **settings}
    expected = polygraph.estimator(file, name, **settings)(drawn.statistics)
    np.testing.assert_allclose(score(drawn.answers) + constant, expected, rtol=1e-6, atol=1e-9)


# ---- examples, edges, refusals


def with_columns(log_probs, entropies=None, vocab_size=2, **per_token):
    answers = answers_of([log_probs], dtype=np.float64)
    entropies = None if entropies is None else np.array(entropies)
    per_token = {name: np.array(values, np.float64) for name, values in per_token.items()}
    return dataclasses.replace(
        answers,
        entropies=entropies,
        per_token=per_token,
        per_example={"vocab_size": np.array([vocab_size])},
    )


def test_the_worked_examples_of_the_docstrings():
    one = with_columns([np.log(0.9)], mean_log_probs=[np.mean(np.log([0.9, 0.1]))])
    assert scores.SelfCertainty()(one) == pytest.approx([-0.5108], abs=1e-4)
    two = with_columns(np.log([0.5, 0.9]), previous_attention=[[0.0], [0.6]])
    assert scores.Rauq()(two) == pytest.approx([0.7803], abs=1e-4)
    three = with_columns([-0.1, -2.0, -0.3], relevances=[0.1, 0.3, 0.0])
    assert scores.TokenSar()(three) == pytest.approx([1.525])
    place = with_columns([np.log(0.5)], surface_log_probs=[np.log(0.7 / 0.8)])
    assert scores.SurfaceFormCcp()(place) == pytest.approx([-0.875])


def test_where_no_token_is_relevant_all_weigh_the_same():
    """Where lm-polygraph gives NaN."""
    answers = with_columns([-0.1, -0.5, -0.3], relevances=[0.0, 0.0, 0.0])
    assert scores.TokenSar()(answers) == pytest.approx([0.3])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_confidence_too_small_for_a_number_stays_finite(alpha):
    """Where probabilities are 0 in lm-polygraph, and the score infinite."""
    answers = with_columns([-900.0, -800.0, -0.5], previous_attention=[[0.0]] * 3)
    expected = (900 + 800 - 2 * np.log(alpha) + 0.5) / 3
    assert scores.Rauq(alpha)(answers) == pytest.approx([expected], rel=1e-12)


def test_an_entropy_above_the_largest_by_rounding_counts_as_the_largest():
    """Where lm-polygraph gives NaN."""
    answers = with_columns(
        [-0.7], entropies=[np.log(2) + 1e-6], previous_attention=[[0.5]], vocab_size=2
    )
    assert scores.RauqEntropy()(answers) == pytest.approx([-np.log(1e-10)])


def test_one_token():
    answers = probed([[-0.5]])
    assert scores.Rauq()(answers) == pytest.approx([0.5])
    assert scores.TokenSar()(answers) == pytest.approx([0.5])
    assert scores.AttentionScore()(answers) == [0.0]


@given(lists=LISTS)
def test_bounds(lists):
    answers = probed(lists)
    assert np.all(scores.SelfCertainty()(answers) <= 1e-6)
    assert np.all(scores.AttentionScore()(answers) >= 0)
    assert np.all(np.abs(scores.SurfaceFormCcp()(answers) + 0.5) <= 0.5)
    # Weights are at most 1, so confidence is at most the mixture of 1 and 1.
    assert np.all(scores.Rauq()(answers) >= -1e-12)
    smallest, largest = -scores.Maximum()(answers), -scores.Minimum()(answers)
    sar = -scores.TokenSar()(answers)
    assert np.all((largest - 1e-4 <= sar) & (sar <= smallest + 1e-4))


def test_more_attention_to_the_token_before_is_surer():
    answers = probed([[-0.5] * 6])
    values = []
    for weight in (0.1, 0.5, 1.0):
        answers.per_token["previous_attention"][:] = weight
        values.append(scores.Rauq()(answers)[0])
    assert np.all(np.diff(values) < 0)


@every_score
def test_no_examples_give_no_scores(score):
    assert score(probed([])).shape == (0,)


@every_score
def test_an_answer_without_tokens_is_named(score):
    with pytest.raises(ValueError, match=r"row 1 has an answer without tokens"):
        score(probed([[-1.0], []]))


@every_score
def test_a_missing_column_is_named_with_what_adds_it(score):
    needed = list(score.measured)[0]
    message = f"score {score.name!r} needs the column student_{needed}, which is not there; `cas"
    with pytest.raises(ValueError) as refused:
        score(answers_of([[-1.0]], k=2))
    assert str(refused.value).startswith(message)
    assert str(refused.value).endswith(f"with {score.measured[needed]} adds it")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@every_score
def test_a_value_that_is_not_finite_is_named(score, bad):
    answers, name = probed([[-1.0], [-1.0, -2.0]]), next(iter(score.measured))
    answers.per_token[name][2] = bad
    shown = name.replace("_", " ")
    with pytest.raises(ValueError, match=f"row 1 has the {shown} {bad} at token 1"):
        score(answers)


@pytest.mark.parametrize("alpha", [0.0, 1.5, math.nan])
def test_a_weight_outside_of_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha is .*must be a number above 0 and at most 1"):
        scores.Rauq(alpha)


def test_what_can_be_had_of_which_answers():
    assert scores.available(probed([[-1.0]]))[-len(scores.FROM_PROBES) :] == [*scores.FROM_PROBES]
    assert not set(scores.FROM_PROBES) & set(scores.available(answers_of([[-1.0]], k=10)))
