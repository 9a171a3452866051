"""SQuAD's and TriviaQA's metrics against the definitions, letter by letter."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.task_metrics import quality, short_answers


def close(value):
    return pytest.approx(value, abs=1e-9, rel=0)


ANSWERS = st.lists(
    st.sampled_from(
        ["the", "The", "a", "an", "theatre", "Nile", "nile", "U.S.", "x_y", "it's", "‘so’", "o´o",
         "—", "  ", "\t", "`b`", "Ångström", "42", "4,2", "!", "a-b"]
    ),
    max_size=6,
).map(" ".join)  # fmt: skip


def _plain(text: str, dropped: str, spaced: str) -> str:
    """Normalisation letter by letter and word by word, without the expressions of the product."""
    kept = "".join(
        " " if letter in spaced else "" if letter in dropped else letter for letter in text.lower()
    )
    # An article is one between any two characters that are no part of a word.
    pieces = re.findall(r"\w+|\W", kept)
    return " ".join("".join(" " if p in ("a", "an", "the") else p for p in pieces).split())


ASCII_MARKS = "".join(chr(i) for i in range(33, 127) if not chr(i).isalnum())


def _expected(metric, references, prediction):
    dropped, spaced = (ASCII_MARKS, "") if metric == "squad" else ("", ASCII_MARKS + "‘’´")
    p = _plain(prediction, dropped, spaced)
    em, f1 = 0.0, 0.0
    for reference in references:
        t = _plain(reference, dropped, spaced)
        em = max(em, float(p == t))
        rest, common = t.split(), 0
        for word in p.split():
            if word in rest:
                rest.remove(word)
                common += 1
        if common:
            precision, recall = common / len(p.split()), common / len(t.split())
            f1 = max(f1, 2 * precision * recall / (precision + recall))
        f1 = max(f1, float(not p and not t))
    return em, f1


@pytest.mark.parametrize("metric", ["squad", "trivia_qa"])
@given(rows=st.lists(st.tuples(st.lists(ANSWERS, min_size=1, max_size=3), ANSWERS), min_size=1))
def test_question_answering_is_as_written_down_by_itself(metric, rows):
    expected = np.mean([_expected(metric, *row) for row in rows], axis=0)
    got = getattr(short_answers, metric)(*map(list, zip(*rows, strict=True)))
    assert got == {"em": close(expected[0]), "f1": close(expected[1])}


def test_normalisation_by_example():
    assert short_answers.normalize_squad("The  U.S. Army") == "us army"
    assert short_answers.normalize_trivia_qa("The U.S._Army’s") == "u s army s"
    nile = short_answers.squad([["The Nile", "Nile river"]], ["river Nile"])
    assert nile == {"em": 0.0, "f1": 1.0}
    jaws = short_answers.trivia_qa([["Jaws_(film)", "jaws"]], ["The Jaws!"])
    assert jaws == {"em": 1.0, "f1": 1.0}
    # SQuAD joins what stood around a mark, TriviaQA parts it.
    assert short_answers.squad(["ab"], ["a-b"])["em"] == 1.0
    assert short_answers.trivia_qa(["ab"], ["a-b"])["em"] == 0.0
    for mark in "‘’´`_-":
        assert short_answers.normalize_trivia_qa(f"x{mark}y") == "x y"


@pytest.mark.parametrize("metric", [short_answers.squad, short_answers.trivia_qa])
def test_question_answering_is_the_mean_of_its_examples(metric):
    targets, predictions = ["b c", ["d", "e"], "f"], ["c", "the e", "g"]
    name, values = quality.per_example_quality([metric], targets, predictions)
    assert name == "em" and values.tolist() == [0, 1, 0]
    assert values.mean() == close(metric(targets, predictions)["em"])


@pytest.mark.parametrize("metric", [short_answers.squad, short_answers.trivia_qa])
def test_lists_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no examples"):
        metric([], [])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: short_answers.squad(["a", 3], ["a", "b"]), r"target of example 1 is 3 \(int\)"),
        (lambda: short_answers.squad([[]], ["a"]), "no reference"),
        (lambda: short_answers.trivia_qa(["a"], [None]), "prediction of example 0 is None"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
