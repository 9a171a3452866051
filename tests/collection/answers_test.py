"""Answers of a tiny model, written or ranked, against its own logits of each answer alone."""

import dataclasses
import functools
import time

import jax
import numpy as np
import pytest
import seqio
from flax import linen as nn

from cascade_jax.collection import answers, live_answers, measuring
from cascade_jax.collection import questions as questions_lib
from cascade_jax.collection.questions import GREEDY, RANK, Questions
from cascade_jax.data import pipeline
from cascade_jax.inference import engine
from cascade_jax.models import flops
from cascade_jax.models.families import parameter_shapes
from cascade_jax.models.t5 import T5
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs.saved_model import LoadedModel
from cascade_jax.task_metrics import quality
from cascade_jax.task_metrics.translation import Bleu, Chrf
from tests.support import fakes

pytestmark = pytest.mark.medium

TASKS = {
    "answers_test_colour_v1": (
        ["which red", "which blue", "which none"],
        ["red", "blue", "grey"],
        [["red", "blue"], ["green", "blue", "red"], ["x", "grey", "grey", "y", "reds"]],
        [quality.accuracy],
    ),
    "answers_test_echo_v1": (
        ["echo a b", "echo c"],
        ["a b c d", "c"],
        None,
        [quality.chrf, Bleu("char"), Chrf()],
    ),
}
DATA = pipeline.DataConfig("answers_test_v1", input_length=12, target_length=6, batch_size=2)


def add_task(name, inputs, targets, options, metric_fns):
    rows = [{"inputs": i, "targets": t} for i, t in zip(inputs, targets, strict=True)]

    def dataset(split, shuffle_files=False, seed=None):
        import tensorflow as tf

        def generate():
            for i, row in enumerate(rows):
                yield row | ({"options": options[i]} if options else {})

        text = tf.TensorSpec([], tf.string)
        signature = {"inputs": text, "targets": text}
        if options:
            signature["options"] = tf.TensorSpec([None], tf.string)
        return tf.data.Dataset.from_generator(generate, output_signature=signature)

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["test"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={
            n: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for n in ("inputs", "targets")
        },
        metric_fns=metric_fns,
    )


@pytest.fixture(scope="module")
def mixture():
    for name, parts in TASKS.items():
        add_task(name, *parts)
    seqio.MixtureRegistry.add("answers_test_v1", list(TASKS), default_rate=1.0)
    yield pipeline.open_mixture(DATA)
    seqio.MixtureRegistry.remove("answers_test_v1")
    for name in TASKS:
        seqio.TaskRegistry.remove(name)


@pytest.fixture(scope="module")
def model(mixture):
    config = fakes.t5_config(vocab_size=mixture.vocab_size)
    rng = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) == 1:
            return np.ones(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) * 2 / np.sqrt(leaf.shape[0])).astype(np.float32)

    return T5(config), jax.tree.map(draw, nn.meta.unbox(parameter_shapes(config)))


def questions_of(mixture, expected, data=DATA):
    decoding = questions_lib.decoding_by_task(expected, mixture, data, "test")
    examples = [e for task in TASKS for e in pipeline.decode_examples(data, task, "test")]
    # In turns, so that the answers have to be put back into order.
    examples = [examples[i] for i in (0, 3, 1, 4, 2)]
    return Questions(examples, mixture, data, MeshConfig(data=2, tensor=4).build(), decoding)


@functools.cache
def forward(module):
    return jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs))


def alone(model, example, ids):
    """Log-probs and entropies of an answer by itself, in float64."""
    module, params = model
    decoder_inputs = np.array([[0, *ids, *[0] * DATA.target_length]], np.int32)
    logits = forward(module)(params, example.inputs[None], decoder_inputs[:, : DATA.target_length])
    logits = np.asarray(logits, np.float64)[0, : len(ids)]
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return log_p[np.arange(len(ids)), ids], -np.sum(np.exp(log_p) * log_p, axis=-1)


def ids_of(text):
    return [*(byte + 3 for byte in text.encode()), 1]


def test_the_likeliest_option_is_the_answer_and_the_rest_is_written(mixture, model):
    questions = questions_of(mixture, RANK)
    assert questions.decoding == {"answers_test_colour_v1": RANK, "answers_test_echo_v1": GREEDY}
    actual = answers.answer(LoadedModel("tiny", *model), questions)
    written = answers.answer(LoadedModel("tiny", *model), questions_of(mixture, GREEDY))
    for row, example in enumerate(questions.examples):
        log_probs, entropies = alone(model, example, actual.tokens[row].tolist())
        np.testing.assert_allclose(actual.log_probs[row], log_probs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(actual.entropies[row], entropies, rtol=1e-4, atol=1e-4)
        if example.task == "answers_test_echo_v1":
            assert actual.texts[row] == written.texts[row]
            np.testing.assert_array_equal(actual.tokens[row], written.tokens[row])
            continue
        options = [text.decode() for text in example.features["options"]]
        scores = [alone(model, example, ids_of(text))[0].sum() for text in options]
        assert actual.texts[row] == options[int(np.argmax(scores))]
        assert actual.tokens[row].tolist() == ids_of(actual.texts[row])
        assert written.texts[row] not in options  # a fresh model writes none of them
    assert len(set(actual.texts)) > 2


def test_everything_else_that_is_asked_for(mixture, model):
    module, params = model
    questions, top_k = questions_of(mixture, RANK), 4
    encode = jax.jit(functools.partial(module.apply, method="encode"))
    actual = answers.answer(LoadedModel("tiny", *model), questions, top_k, embeddings=True)
    for row, example in enumerate(questions.examples):
        ids = actual.tokens[row].tolist()
        decoder_inputs = np.array([[0, *ids, *[0] * DATA.target_length]], np.int32)
        decoder_inputs = decoder_inputs[:, : DATA.target_length]
        logits = forward(module)(params, example.inputs[None], decoder_inputs)[0, : len(ids)]
        values, tops = jax.lax.top_k(jax.nn.log_softmax(logits), top_k)
        np.testing.assert_array_equal(actual.top_ids[row], tops)
        np.testing.assert_allclose(actual.top_log_probs[row], values, rtol=1e-4, atol=1e-4)
        tokens = example.inputs[example.inputs > 0]
        encoded = encode({"params": params}, tokens[None])[0]
        np.testing.assert_allclose(actual.embeddings[row], encoded.mean(axis=0), atol=1e-5)
        assert actual.input_tokens[row] == len(tokens)
        size = [len(tokens), len(ids)]
        expected = flops.answer_flops(module.config, *size)
        if example.task == "answers_test_colour_v1":
            options = {tuple(ids_of(text.decode())) for text in example.features["options"]}
            expected = flops.ranking_flops(module.config, len(tokens), list(map(len, options)))
        assert actual.flops[row] == expected
        texts = [piece for piece in actual.pieces[row] if piece != "</s>"]
        if example.task == "answers_test_colour_v1":
            assert "".join(texts) == actual.texts[row] and actual.pieces[row][-1] == "</s>"
        assert len(actual.pieces[row]) == len(ids)
    counts = engine.ComputedTokens()
    plain = answers.answer(LoadedModel("tiny", *model), questions, counts=counts)
    assert counts.prefill_useful == actual.input_tokens.sum()
    options = [set(example.features.get("options", ())) for example in questions.examples]
    ids = [ids_of(text.decode()) for texts in options for text in texts]
    assert counts.options_useful == sum(map(len, ids)) <= counts.options_computed
    assert plain.top_log_probs is plain.top_ids is plain.embeddings is None
    assert plain.texts == actual.texts
    # None keeps more than itself in memory, such as a batch's padding.
    for column in (actual.tokens, actual.log_probs, actual.top_ids):
        assert all(values.base is None for values in column)


def test_a_token_past_the_vocabulary_has_its_number_as_text(mixture, model):
    module, params = model
    module = T5(dataclasses.replace(module.config, vocab_size=mixture.vocab_size + 5))

    def widen(leaf, shape):
        pads = [(0, new - old) for old, new in zip(leaf.shape, shape.shape, strict=True)]
        return np.pad(leaf, pads, constant_values=50.0)  # so that the new ids win

    params = jax.tree.map(widen, params, nn.meta.unbox(parameter_shapes(module.config)))
    result = answers.answer(LoadedModel("tiny", module, params), questions_of(mixture, GREEDY))
    pieces = [piece for of_row in result.pieces for piece in of_row]
    ids = [token for tokens in result.tokens for token in tokens.tolist()]
    assert max(ids) >= mixture.vocab_size
    assert all(
        (piece == f"<{token}>") == (token >= mixture.vocab_size)
        for piece, token in zip(pieces, ids, strict=True)
    )


def test_time_is_that_of_programs_and_shared_by_rows(mixture, model):
    questions = questions_of(mixture, GREEDY)
    answers.answer(LoadedModel("tiny", *model), questions)
    start = time.perf_counter()
    result = answers.answer(LoadedModel("tiny", *model), questions)
    passed = time.perf_counter() - start
    assert (result.seconds > 0).all() and result.seconds.sum() < passed


def test_a_program_is_compiled_once_for_all_batches_and_models(mixture, model):
    traces = []

    class TracedT5(T5):
        def encode(self, inputs, **kwargs):
            traces.append(inputs.shape)
            return super().encode(inputs, **kwargs)

    module, params = model
    module = TracedT5(module.config)
    questions = questions_of(mixture, GREEDY)
    for scale in (1.0, 0.5):  # two models of one size
        scaled = jax.tree.map(lambda leaf, scale=scale: leaf * np.float32(scale), params)
        answers.answer(LoadedModel("tiny", module, scaled), questions, 2)
    # Two slots of 16 places, of which the shapes alone are asked, and two packed rows.
    assert traces == [(2, 16), (2, 32)]


def test_every_model_computes_by_its_own_sharding_rules(mixture, model):
    """Alone and in a live cascade, though all are of one config."""
    seen = []

    class SeeingT5(T5):
        def encode(self, inputs, **kwargs):
            seen.append(nn.get_logical_axis_rules())
            return super().encode(inputs, **kwargs)

    module = SeeingT5(model[0].config)
    tables = [rules.table(rules.TABLES[name]) for name in ("fsdp", "tensor")]
    models = [LoadedModel("tiny", module, model[1], table) for table in tables]
    data = dataclasses.replace(DATA, batch_size=8)
    questions = questions_of(mixture, GREEDY, data)
    alone = [answers.answer(each, questions) for each in models]
    assert list(dict.fromkeys(seen)) == tables and alone[0].texts == alone[1].texts
    seen.clear()
    (live,) = live_answers.decode(models, questions, "log_prob", [-np.inf])  # the second model's
    assert set(seen) == set(tables) and live.texts == alone[1].texts
    assert live.is_deferred.sum(axis=1).tolist() == live.lengths.tolist()


def test_a_batch_of_another_size_changes_nothing(mixture, model):
    actual = answers.answer(LoadedModel("tiny", *model), questions_of(mixture, RANK))
    data = dataclasses.replace(DATA, batch_size=4)
    other = answers.answer(LoadedModel("tiny", *model), questions_of(mixture, RANK, data))
    assert actual.texts == other.texts
    for ours, theirs in zip(actual.log_probs, other.log_probs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_greedy_is_greedy_for_all(mixture):
    assert set(questions_lib.decoding_by_task(GREEDY, mixture, DATA, "test").values()) == {GREEDY}


def test_quality_statistics_and_figures_of_each_task(mixture):
    questions = questions_of(mixture, GREEDY)
    texts = ["red", "a b c x", "red", "c", "grey"]
    measured = measuring.measure(texts, questions)
    assert measured.metrics == ["accuracy", "chrf", "accuracy", "chrf", "accuracy"]
    assert measured.quality[[0, 2, 4]].tolist() == [1, 0, 1] and 0 < measured.quality[1] < 1
    targets, arguments = ["a b c d", "c"], ["a b c x", "c"]
    counts = Bleu("char").statistics(targets, arguments)
    assert measured.statistics[1].tolist() == counts[0].tolist()
    assert [len(of_row) for of_row in measured.statistics] == [0, 10, 0, 10, 0]
    assert measured.figures == {
        "answers_test_colour_v1": {"accuracy": 2 / 3},
        "answers_test_echo_v1": {
            **quality.chrf(targets, arguments),
            **Bleu("char")(targets, arguments),
            **Chrf()(targets, arguments),
        },
    }
    metrics = measuring.corpus_metrics(mixture, "test")
    assert metrics == {"answers_test_echo_v1": Bleu("char")}


def test_a_metric_that_refuses_names_its_task(mixture, monkeypatch):
    def refuse(metric_fns, targets, predictions):
        raise ValueError("no such class")

    questions = questions_of(mixture, GREEDY)
    monkeypatch.setattr(quality, "split_figures", refuse)
    with pytest.raises(ValueError, match="task 'answers_test_colour_v1': no such class"):
        measuring.measure(["red"] * 5, questions)


@pytest.mark.parametrize(
    ("options", "length", "message"),
    [
        (
            ["abcdeX", "abcdeY"],
            6,
            "example 'x/0': options 'abcdeX' and 'abcdeY' are the same ids when cut to "
            "target_length 6; they need 7 tokens",
        ),
        ([], 6, "example 'x/0' has no options to rank"),
    ],
)
def test_options_that_can_not_be_ranked(mixture, options, length, message):
    features = {"options": np.array([text.encode() for text in options], object)}
    example = pipeline.Example("x/0", "x", "", "", "", np.zeros(2, np.int32), features)
    data = dataclasses.replace(DATA, target_length=length)
    with pytest.raises(ValueError, match=message):
        questions_lib.options_of(example, mixture, data)


def test_options_are_cut_as_targets_are_and_doubles_are_one(mixture):
    features = {"options": np.array([b"abcdefg", b"xy", b"xy"], object)}
    example = pipeline.Example("x/0", "x", "", "", "", np.zeros(2, np.int32), features)
    actual = questions_lib.options_of(example, mixture, DATA)
    assert actual == {"abcdefg": (*ids_of("abcde")[:-1], 1), "xy": tuple(ids_of("xy"))}


def test_what_is_not_installed_is_said_before_anything_is_decoded(mixture, monkeypatch):
    def missing(self):
        raise ImportError("needs MeCab")

    monkeypatch.setattr(Bleu, "check_installed", missing)
    with pytest.raises(ImportError, match="needs MeCab"):
        measuring.check_task_metrics_installed(mixture, "test")
