"""Metrics of classes, groups and numbers against scikit-learn, SciPy and the definitions."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from cascade_jax.task_metrics import classes, quality

CLASSES = ("entailment", "contradiction", "neutral")
SEEDS = pytest.mark.parametrize("seed", range(5))


def close(value):
    return pytest.approx(value, abs=1e-9, rel=0)


def drawn(seed, labels, size=60):
    return np.random.default_rng(seed).choice(np.array(labels, object), size).tolist()


# ------------------------------------------------------------------ classes


@SEEDS
def test_mean_class_f1_is_scikit_learns_macro_average(seed):
    targets = drawn(seed, CLASSES)
    predictions = drawn(seed + 100, [*CLASSES, "maybe", ""])
    expected = sklearn.metrics.f1_score(
        targets, predictions, labels=list(CLASSES), average="macro", zero_division=0
    )
    got = classes.MeanClassF1(CLASSES)(targets, predictions)
    assert got == {"mean_3class_f1": close(expected)}
    as_numbers = classes.MeanClassF1(range(3))
    ids = [[CLASSES.index(x) if x in CLASSES else -1 for x in xs] for xs in (targets, predictions)]
    assert as_numbers(*ids) == got


def test_a_class_that_never_occurs_has_f1_of_0():
    expected = sklearn.metrics.f1_score(
        [0, 0, 1], [0, 1, 1], labels=[0, 1, 2], average="macro", zero_division=0
    )
    metric = classes.MeanClassF1(("a", "b", "c"))
    assert metric(["a", "a", "b"], ["a", "b", "b"])["mean_3class_f1"] == close(expected)
    assert expected == close(4 / 9)  # the docstring's


@SEEDS
def test_binary_f1_is_scikit_learns_after_invalid_answers_were_made_wrong(seed):
    targets = drawn(seed, ["True", "False"])
    predictions = drawn(seed + 100, ["True", "False", "?"])
    opposite = {"True": "False", "False": "True"}
    made_wrong = [opposite[t] if p == "?" else p for t, p in zip(targets, predictions, strict=True)]
    expected = sklearn.metrics.f1_score(targets, made_wrong, pos_label="True")
    assert classes.BinaryF1()(targets, predictions) == {"f1": close(expected)}
    by_group = [{"group": i // 3, "value": target} for i, target in enumerate(targets)]
    assert classes.BinaryF1()(by_group, predictions) == {"f1": close(expected)}
    flipped = sklearn.metrics.f1_score(targets, made_wrong, pos_label="False")
    assert classes.BinaryF1("False", "True")(targets, predictions)["f1"] == close(flipped)


@SEEDS
@pytest.mark.parametrize("labels", [[0, 1], ["a", "b", "c", "d"]])
def test_matthews_correlation_is_scikit_learns(seed, labels):
    targets = drawn(seed, labels)
    some_right = drawn(seed + 50, [True, False])
    predictions = [
        t if is_right else p
        for t, is_right, p in zip(targets, some_right, drawn(seed + 100, labels), strict=True)
    ]
    expected = sklearn.metrics.matthews_corrcoef(targets, predictions)
    assert 0.2 < expected < 0.9
    assert classes.matthews_corrcoef(targets, predictions) == {"matthews_corrcoef": close(expected)}


def test_matthews_correlation_at_its_ends():
    def value(targets, predictions):
        return classes.matthews_corrcoef(targets, predictions)["matthews_corrcoef"]

    assert value([0, 1, 1], [0, 1, 1]) == close(1)
    assert value([0, 1, 1], [1, 0, 0]) == close(-1)
    assert value([0, 1], [1, 1]) == value([1, 1], [0, 1]) == 0


# ------------------------------------------------------------------ groups


@SEEDS
def test_group_exact_match_is_the_share_of_groups_without_an_error(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 25, 60)
    reference, answers = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    expected = np.mean([(reference == answers)[groups == g].all() for g in np.unique(groups)])
    targets = [{"group": f"q{g}", "value": "FT"[v]} for g, v in zip(groups, reference, strict=True)]
    got = classes.group_exact_match(targets, ["FT"[v] for v in answers])
    assert got == {"exact_match": close(expected)} and 0 < expected < 1
    as_mappings = [{"group": "-", "value": "FT"[v]} for v in answers]
    assert classes.group_exact_match(targets, as_mappings) == got


# ------------------------------------------------------------------ numbers


@SEEDS
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_correlations_are_scipys(seed, scale):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 26, 80) / 5  # STS-B's steps of 0.2: many ties
    predictions = scale * (targets + np.round(rng.normal(size=80), 1))
    pair = targets.tolist(), predictions.tolist()
    pearson, spearman = scipy.stats.pearsonr(*pair)[0], scipy.stats.spearmanr(*pair)[0]
    assert classes.pearson_corrcoef(*pair) == {"pearson_corrcoef": close(pearson)}
    assert classes.spearman_corrcoef(*pair) == {"spearman_corrcoef": close(spearman)}
    assert abs(pearson - spearman) > 1e-6


def test_correlations_of_what_does_not_vary_are_0():
    for metric in (classes.pearson_corrcoef, classes.spearman_corrcoef):
        (value,) = metric([1.0, 2.0, 4.0], [0.1, 0.1, 0.1]).values()
        assert value == 0
        assert list(metric([3.0], [2.0]).values()) == [0]


# ------------------------------------------------------------------ per example, and bad input


@pytest.mark.parametrize(
    "metric, targets, predictions",
    [
        (classes.MeanClassF1(CLASSES), ["neutral", "entailment"], ["neutral", "x"]),
        (classes.BinaryF1(1, 0), [0, 1], [0, 0]),
        (classes.matthews_corrcoef, ["yes", "no"], ["yes", "yes"]),
        (classes.pearson_corrcoef, [3.8, 2.0], [3.8, 2.2]),
        (classes.spearman_corrcoef, [3.8, 2.0], [3.8, 2.2]),
        (
            classes.group_exact_match,
            [{"group": 1, "value": "a"}, {"group": 1, "value": "b"}],
            ["a", "a"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_example_of_a_corpus_metric_is_right_or_wrong(metric, targets, predictions):
    name, values = quality.per_example_quality([metric], targets, predictions)
    assert name == "accuracy" and values.tolist() == [1.0, 0.0]


ALL = [
    classes.MeanClassF1(("a", "b")), classes.BinaryF1("a", "b"),
    classes.matthews_corrcoef, classes.group_exact_match,
    classes.pearson_corrcoef, classes.spearman_corrcoef,
]  # fmt: skip


@pytest.mark.parametrize("metric", ALL)
def test_lists_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no examples"):
        metric([], [])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: classes.MeanClassF1(("a", "a")), "must be two or more different"),
        (lambda: classes.MeanClassF1("ab"), "must be two or more different"),
        (lambda: classes.BinaryF1("a", "a"), "both 'a'"),
        (
            lambda: classes.MeanClassF1(CLASSES)(["neutrall"], ["neutral"]),
            "target 0 is 'neutrall'; must be one of .*did you mean 'neutral'",
        ),
        (lambda: classes.BinaryF1()(["yes"], ["True"]), "must be one of .*'True', 'False'"),
        (lambda: classes.matthews_corrcoef([1], ["1"]), "one is text, the other is not"),
        (lambda: classes.matthews_corrcoef([[1]], [1]), "is a list"),
        (lambda: classes.group_exact_match(["a"], ["a"]), "'a' has no group"),
        (lambda: classes.group_exact_match([{"group": 1}], ["a"]), "has no 'value'"),
        (lambda: classes.pearson_corrcoef([1.0], ["1.0"]), "prediction 0 is '1.0'"),
        (lambda: classes.spearman_corrcoef([1.0, np.nan], [1.0, 2.0]), "target 1 is nan"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
