"""Similarity by a tiny random model of transformers, against that model asked pair by pair."""

import numpy as np
import pytest

from cascade_jax.deferral import scores
from cascade_jax.deferral.scores.samples.cross_encoder import CrossEncoder
from tests.support.hf_models import torch, transformers
from tests.support.sampled import answers_of

pytestmark = pytest.mark.medium

NLI = ("contradiction", "neutral", "entailment")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "red", "dogs", "ran"]


def save(folder, labels):
    """A random model with these classes; one output for one."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=20)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=24, initializer_range=1.0,
        num_labels=len(labels), id2label=dict(enumerate(labels)),
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    return tokenizer, model


PAIRS = [("a", "b red"), ("dogs ran", "dogs"), ("", "a a a a"), ("red dogs ran", "b")]


def expected(tokenizer, model, to_similarity):
    """By the model itself, each order of each pair alone."""

    def one(first, second):
        inputs = tokenizer([first], [second], return_tensors="pt")  # lists: "" is a text then
        with torch.no_grad():
            return to_similarity(model(**inputs).logits[0])

    return [float(one(a, b) + one(b, a)) / 2 for a, b in PAIRS]


@pytest.mark.parametrize(
    ("form", "weights"),
    [("entailment", (0, 0, 1)), ("no contradiction", (0, 1, 1)), ("graded", (0, 0.5, 1))],
)
def test_models_of_entailment(tmp_path, form, weights):
    tokenizer, model = save(tmp_path / "nli", NLI)
    similarity = CrossEncoder(str(tmp_path / "nli"), form, temperature=3.0, batch_size=3)
    weights = torch.tensor(weights, dtype=torch.float32)
    values = expected(tokenizer, model, lambda logits: weights @ torch.softmax(logits / 3, -1))
    np.testing.assert_allclose(similarity.many(PAIRS), values, atol=1e-5)
    assert similarity("a", "b red") == pytest.approx(values[0], abs=1e-5)
    assert len(set(np.round(values, 4))) == len(PAIRS)
    answers = answers_of([["a", "b red", "a"]])
    w = np.array([[1, values[0], 1], [values[0], 1, values[0]], [1, values[0], 1]])
    assert scores.Deg(similarity)(answers)[0] == pytest.approx(1 - w.mean(), abs=1e-5)
    assert scores.Deg(similarity).name == f"Deg {form} by nli"


def test_a_model_of_one_output(tmp_path):
    similarity = CrossEncoder(str(tmp_path / "one"))
    values = expected(*save(tmp_path / "one", ["LABEL_0"]), lambda logits: torch.sigmoid(logits[0]))
    np.testing.assert_allclose(similarity.many(PAIRS), values, atol=1e-5)


def test_what_can_not_be(tmp_path):
    save(tmp_path / "two", ["entailment", "not_entailment"])
    assert 0 < CrossEncoder(str(tmp_path / "two"))("a", "b") < 1
    with pytest.raises(ValueError, match=r"classes \['entailment', 'not_ent.* needs 'neutral'"):
        CrossEncoder(str(tmp_path / "two"), "graded")("a", "b")
    long = " ".join(["red"] * 30)
    with pytest.raises(ValueError, match="reads 20 tokens, and two answers have 34 together; give"):
        CrossEncoder(str(tmp_path / "two"))(long, "a")
    assert 0 < CrossEncoder(str(tmp_path / "two"), truncate=True)(long, "a") < 1
    with pytest.raises(FileNotFoundError, match="nothing: no folder of transformers"):
        CrossEncoder(str(tmp_path / "nothing"))("a", "b")
    with pytest.raises(ValueError, match="form is 'entails'; must be one of entailment"):
        CrossEncoder("a", form="entails")
    with pytest.raises(ValueError, match="path is ''; must be a folder"):
        CrossEncoder("")
