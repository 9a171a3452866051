"""Metrics that go into records as JSON and come out equal."""

import json

import numpy as np
import pytest

from cascade_jax.task_metrics import corpus, quality
from cascade_jax.task_metrics.overlap import Rouge
from cascade_jax.task_metrics.translation import Bleu, Chrf

METRICS = [Bleu(), Bleu("zh"), Bleu("13a", lowercase=True), Chrf(), Chrf(word_order=2)]


@pytest.mark.parametrize("metric", METRICS)
def test_a_description_gives_the_metric_back(metric):
    text = json.dumps(corpus.describe(metric))
    assert corpus.build(json.loads(text)) == metric
    # Its figures bear the name under which records have them, and its rows have its length.
    assert list(metric(["a b"], ["a c"])) == [corpus.describe(metric)["name"]]
    assert metric.statistics(["a b"], ["a c"]).shape == (1, metric.num_statistics)


def test_the_description_is_that_of_the_docstring():
    assert corpus.describe(Bleu("zh")) == {
        "name": "bleu",
        "class": "Bleu",
        "options": {"tokenize": "zh", "lowercase": False},
    }
    assert corpus.build({"name": "corpus_chrf", "class": "Chrf"}) == Chrf()


def test_the_first_that_can_be_described_is_found_among_others():
    metric_fns = [quality.token_f1, Rouge(), Chrf(), Bleu()]
    assert corpus.first_of(metric_fns) == Chrf()
    assert corpus.first_of(metric_fns[:2]) is None and corpus.first_of([]) is None


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("bleu", "'bleu'; must be an object with name, class, options"),
        ({"name": "bleu"}, "must be an object with name, class, options"),
        (
            {"name": "bleu", "class": "BLEU"},
            r"class is 'BLEU'; must be one of Bleu, Chrf",
        ),
        ({"name": "m", "class": "Meteor"}, "class is 'Meteor'; must be one of Bleu, Chrf"),
        (
            {"name": "bleu", "class": "Bleu", "options": {"tokenizer": "zh"}},
            "Bleu has no option 'tokenizer'; it has tokenize, lowercase; did you mean 'tokenize'",
        ),
        ({"name": "bleu", "class": "Bleu", "options": ["zh"]}, r"options \['zh'\]; must be an"),
        (
            {"name": "bleu", "class": "Bleu", "options": {"tokenize": "zz"}},
            "tokenize is 'zz'; must",
        ),
        ({"name": "chrf", "class": "Chrf"}, "name 'chrf'; that of Chrf.* is 'corpus_chrf'"),
    ],
)
def test_descriptions_that_are_refused(description, message):
    with pytest.raises(ValueError, match=message):
        corpus.build(description)


def test_statistics_of_some_rows():
    counts = Bleu().statistics(["a b", "c", "d e f"], ["a b", "x", "d e"])
    actual = corpus.Statistics(Bleu(), counts, 2 * counts).take(np.array([2, 0]))
    assert actual.metric == Bleu()
    np.testing.assert_array_equal(actual.student, counts[[2, 0]])
    np.testing.assert_array_equal(actual.teacher, 2 * counts[[2, 0]])
