"""BLEU and chrF from added statistics against sacrebleu's own corpus figures."""

import importlib.util
import math
import sys

import numpy as np
import pytest
import sacrebleu

from cascade_jax.task_metrics import quality
from cascade_jax.task_metrics.translation import Bleu, Chrf
from cascade_jax.task_metrics.words import LANGUAGE_TOKENIZERS, TOKENIZERS, tokenizer_of

HAS_MECAB = all(importlib.util.find_spec(name) for name in ("MeCab", "ipadic"))
needs_mecab = pytest.mark.skipif(not HAS_MECAB, reason="needs the extra cascade-jax[ja]")
WORDS = {
    "en": ["The", "cat", "sat,", "on", "it.", "U.S.", "3.5%", "(no)", "Cat"],
    "zh": ["我们", "今天", "不", "去。", "学校", "，", "BLEU", "吗?"],
    "ja": ["私は", "海で", "泳ぐ", "。", "東京", "歩く", "本を"],
}


def texts(rng, language, count):
    gap = " " if language == "en" else ""
    return [gap.join(rng.choice(WORDS[language], rng.integers(0, 9))) for _ in range(count)]


def changed(rng, targets):
    """Predictions that share long parts with the targets, so that 4-grams match."""
    answers = []
    for text in targets:
        start, end = sorted(rng.integers(0, len(text) + 1, 2))
        answers.append(text[:start] + text[end:] if rng.random() < 0.7 else text + " it")
    return answers


def close(value):
    return pytest.approx(value, abs=1e-9, rel=0)


def on_every_prefix(metric, corpus_fn, targets, predictions, order):
    """Adds the statistics along the order, as a deferral curve does."""
    summed = metric.statistics(targets, predictions)[order].cumsum(axis=0)
    targets = [[t] if isinstance(t, str) else t for t in targets]
    most = max(map(len, targets))
    for size in range(1, len(order) + 1):
        kept = order[:size]
        references = [
            [targets[i][k] if k < len(targets[i]) else None for i in kept] for k in range(most)
        ]
        expected = corpus_fn([predictions[i] for i in kept], references).score / 100
        assert metric.score(summed[size - 1]) == close(expected), size
        yield expected


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize(
    "language, tokenize",
    [("en", "13a"), ("zh", "zh"), pytest.param("ja", "ja-mecab", marks=needs_mecab), ("en", "intl"),
     ("zh", "char"), ("en", "none")],
)  # fmt: skip
def test_added_statistics_are_corpus_bleu_on_every_prefix(language, tokenize, lowercase):
    rng = np.random.default_rng(0)
    targets = texts(rng, language, 40)
    predictions = changed(rng, targets)
    targets = [t if i % 3 else [t, *texts(rng, language, i % 2 + 1)] for i, t in enumerate(targets)]
    predictions[3], predictions[5] = "", "unseen"
    metric = Bleu(tokenize, lowercase)

    def corpus_bleu(answers, references):
        return sacrebleu.corpus_bleu(
            answers, references, tokenize=tokenize, lowercase=lowercase, force=True
        )

    order = np.argsort(rng.normal(size=40))
    values = list(on_every_prefix(metric, corpus_bleu, targets, predictions, order))
    assert 0.05 < values[-1] < 0.98 and len(set(values)) > 30
    assert metric(targets, predictions) == {"bleu": close(values[-1])}


@pytest.mark.parametrize("word_order", [0, 1, 2])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_added_statistics_are_corpus_chrf_on_every_prefix(language, word_order):
    rng = np.random.default_rng(1)
    targets = texts(rng, language, 40)
    predictions = changed(rng, targets)
    targets = [t if i % 3 else [t, *texts(rng, language, i % 2 + 1)] for i, t in enumerate(targets)]
    predictions[3] = ""
    metric = Chrf(word_order)

    def corpus_chrf(answers, references):
        return sacrebleu.corpus_chrf(answers, references, word_order=word_order)

    order = np.argsort(rng.normal(size=40))
    values = list(on_every_prefix(metric, corpus_chrf, targets, predictions, order))
    assert 0.05 < values[-1] < 0.98 and len(set(values)) > 30
    name = "corpus_chrf" + "+" * word_order
    assert metric(targets, predictions) == {name: close(values[-1])}


def test_a_cascades_bleu_at_every_threshold_is_that_of_its_answers():
    rng = np.random.default_rng(2)
    targets = texts(rng, "en", 30)
    student, teacher = changed(rng, targets), changed(rng, targets)
    score, metric = rng.normal(size=30), Bleu()
    counts = [metric.statistics(targets, answers) for answers in (student, teacher)]
    for threshold in np.sort(score):
        deferred = score >= threshold
        answers = [t if d else s for s, t, d in zip(student, teacher, deferred, strict=True)]
        got = metric.score(np.where(deferred[:, None], counts[1], counts[0]).sum(axis=0))
        assert got == close(sacrebleu.corpus_bleu(answers, [targets]).score / 100)


def degenerate_rows(rng, metric):
    """Sums as they come, and with nothing given, wanted or right in some orders."""
    rows = rng.integers(0, 60, (400, metric.num_statistics))
    rows *= rng.random(rows.shape) < rng.choice([0.3, 0.8, 1.0], (400, 1))
    if isinstance(metric, Bleu):
        rows[:, 2:6] = np.minimum(rows[:, 2:6], rows[:, 6:])
    else:
        rows[:, 2::3] = np.minimum(rows[:, 2::3], np.minimum(rows[:, 0::3], rows[:, 1::3]))
    return rows


@pytest.mark.parametrize("metric", [Bleu(), Chrf(), Chrf(2)])
def test_scores_of_many_sums_are_sacrebleus_of_each(metric):
    rng = np.random.default_rng(4)
    targets = texts(rng, "en", 60)
    sums = metric.statistics(targets, changed(rng, targets)).cumsum(axis=0)
    sums = np.vstack([sums, degenerate_rows(rng, metric), np.zeros_like(sums[:1])])
    expected = np.array([metric.score(row) for row in sums])
    assert metric.scores(sums) == close(expected)
    assert len(set(expected.tolist())) > 200 and 0 in expected
    shaped = metric.scores(sums[:20].reshape(4, 5, -1).astype(float))
    assert shaped == close(expected[:20].reshape(4, 5))
    assert metric.scores(sums[19]) == close(expected[19])


@pytest.mark.parametrize("metric", [Bleu(), Chrf()])
def test_sums_that_scores_refuses(metric):
    # With run-time shape checks on, those speak first of a wrong number.
    with pytest.raises((ValueError, TypeError), match="must end in|Type-check error"):
        metric.scores(np.ones((3, 4)))
    with pytest.raises(ValueError, match="numbers of 0 or more"):
        metric.scores(-np.ones((3, metric.num_statistics)))
    with pytest.raises(ValueError, match="numbers of 0 or more"):
        metric.scores(np.full((3, metric.num_statistics), np.nan))


def test_the_docstrings_examples():
    counts = Bleu().statistics(["the cat sat on it"], ["the cat sat on"])
    assert counts.tolist() == [[4, 5, 4, 3, 2, 1, 4, 3, 2, 1]]
    assert Bleu().score(counts[0]) == close(math.exp(1 - 5 / 4))
    counts = Chrf().statistics(["abc"], ["abd"])
    assert counts.tolist() == [[3, 3, 2, 2, 2, 1, 1, 1, 0] + [0] * 9]
    assert Chrf().score(counts[0]) == close((2 / 3 + 1 / 2) / 3)


def test_each_example_has_its_sentence_figure():
    rng = np.random.default_rng(3)
    targets = texts(rng, "en", 20)
    predictions = changed(rng, targets)
    name, values = quality.per_example_quality([Bleu()], targets, predictions)
    expected = [
        sacrebleu.sentence_bleu(p, [t], use_effective_order=True).score / 100
        for t, p in zip(targets, predictions, strict=True)
    ]
    assert name == "sentence_bleu" and values == close(np.array(expected))
    assert abs(values.mean() - Bleu()(targets, predictions)["bleu"]) > 0.01
    name, values = quality.per_example_quality([Chrf()], targets, predictions)
    expected = [
        sacrebleu.sentence_chrf(p, [t]).score / 100
        for t, p in zip(targets, predictions, strict=True)
    ]
    assert name == "sentence_chrf" and values == close(np.array(expected))
    assert abs(values.mean() - Chrf()(targets, predictions)["corpus_chrf"]) > 0.001


def test_a_sum_without_a_matching_4_gram_is_smoothed_as_sacrebleu_does():
    targets, predictions = ["a b c d e", "f g h i"], ["a b x d e", "g f h i"]
    expected = sacrebleu.corpus_bleu(predictions, [targets])
    assert expected.counts[3] == 0 and expected.score > 0
    assert Bleu()(targets, predictions) == {"bleu": close(expected.score / 100)}


def test_a_perfect_answer_is_1_and_never_more():
    text = "the cat sat on it"
    assert Bleu()([text], [text]) == {"bleu": close(1)} and Bleu()([text], [text])["bleu"] <= 1
    assert Chrf()([text], [text])["corpus_chrf"] == close(1)


def test_every_language_has_the_tokenizer_that_sacrebleu_would_take():
    # Of the others sacrebleu would take 13a, for which a sentence is one word.
    without_spaces = {name for name, tokenize in LANGUAGE_TOKENIZERS.items() if tokenize == "char"}
    assert without_spaces == {"bo", "dz", "km", "lo", "my", "th"}
    # For Korean it needs a dictionary that no extra has, and it does not know Cantonese.
    for language in LANGUAGE_TOKENIZERS.keys() - without_spaces - {"ko", "yue"}:
        if tokenizer_of(language) != "ja-mecab" or HAS_MECAB:
            own = sacrebleu.BLEU(trg_lang=language).tokenizer
            ours = sacrebleu.BLEU(tokenize=tokenizer_of(language)).tokenizer
            assert type(own) is type(ours), language
    assert Bleu.for_language("ja") == Bleu("ja-mecab")
    assert Bleu.for_language("zh") == Bleu("zh") and Bleu.for_language("ru") == Bleu("13a")


def test_a_missing_extra_is_named_when_used_not_when_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)  # as if it were not installed
    metric = Bleu.for_language("ja")
    for use in (
        metric.check_installed,
        lambda: metric(["海"], ["海"]),
        lambda: metric.statistics(["海"], ["海"]),
        lambda: metric.per_example(["海"], ["海"]),
    ):
        with pytest.raises(ImportError, match=r"needs MeCab.*pip install 'cascade-jax\[ja\]'"):
            use()
    Bleu("13a").check_installed()


def test_bad_input_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"'ja-mekab'; must be one of .*did you mean 'ja-mecab'"):
        Bleu("ja-mekab")
    with pytest.raises(ValueError, match=r"language is 'xx'; must be one of .*zh"):
        Bleu.for_language("xx")
    with pytest.raises(ValueError, match="word_order is 3; must be 0"):
        Chrf(3)
    assert set(LANGUAGE_TOKENIZERS.values()) <= set(TOKENIZERS)


@pytest.mark.parametrize("metric", [Bleu(), Chrf()])
def test_bad_lists_and_sums_say_what_is_wrong(metric):
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no examples"):
        metric.statistics([], [])
    with pytest.raises(ValueError, match=r"target of example 0 is 3 \(int\); must be text"):
        metric([3], ["a"])
    with pytest.raises(ValueError, match="no reference"):
        metric([[]], ["a"])
    row = metric.statistics(["a b"], ["a c"])[0]
    for bad in (row[:-1], row.astype(float), row - 100):
        with pytest.raises(ValueError, match=rf"must be {len(row)} integers of 0 or more"):
            metric.score(bad)
