"""Target tokens as questions: their rows, and accuracy as training reports it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import seqio
from flax import linen as nn

from cascade_jax import metrics
from cascade_jax.collection import collect, next_tokens
from cascade_jax.collection.questions import TEACHER_FORCED, Questions, decoding_by_task
from cascade_jax.data import pipeline
from cascade_jax.losses import variants
from cascade_jax.models import families, flops
from cascade_jax.models.config import DecoderConfig
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs.saved_model import CascadeRuns, LoadedModel
from tasks import denoising
from tests.support import fakes

pytestmark = pytest.mark.medium

SAY, SPANS = "next_tokens_test_say_v1", "next_tokens_test_spans_v1"
TEXTS = ["a very long answer", "b", "", "five six seven", "c d"]
DATA = pipeline.DataConfig(
    "next_tokens_test_v1", input_length=40, target_length=12, batch_size=8, vocabulary="byte+100"
)
VOCAB = 256 + 3 + 100
MESH = MeshConfig(2, 4).build()
CONFIGS = {
    "t5": fakes.t5_config(vocab_size=VOCAB + 5),
    "decoder": DecoderConfig(
        vocab_size=VOCAB + 5, embed_dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
        mlp_dim=16, tied_logits=False,
    ),
}  # fmt: skip


def add_task(name, rows, preprocessors):
    def dataset(split, shuffle_files=False, seed=None):
        import tensorflow as tf

        columns = {key: [row[key] for row in rows] for key in rows[0]}
        return tf.data.Dataset.from_tensor_slices(columns)

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["test"]),
        preprocessors=preprocessors,
        output_features={
            n: seqio.Feature(seqio.ByteVocabulary(100), add_eos=True) for n in ("inputs", "targets")
        },
        metric_fns=[],
    )


@pytest.fixture(scope="module")
def mixture():
    say = [{"inputs": f"say {i}", "targets": text} for i, text in enumerate(TEXTS)]
    by_text = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]
    add_task(SAY, say, by_text)
    long = [{"text": "the cat sat on the mat, and the dog did not " * 4, "is_training": False}]
    add_task(SPANS, long, [denoising.span_corruption])
    seqio.MixtureRegistry.add(DATA.mixture, [SAY, SPANS], default_rate=1.0)
    yield pipeline.open_mixture(DATA)
    seqio.MixtureRegistry.remove(DATA.mixture)
    for name in (SAY, SPANS):
        seqio.TaskRegistry.remove(name)


def questions_of(mixture, data=DATA):
    decoding = decoding_by_task(TEACHER_FORCED, mixture, data, "test")
    assert decoding == dict.fromkeys([SAY, SPANS], TEACHER_FORCED)
    examples = [e for task in (SAY, SPANS) for e in pipeline.decode_examples(data, task, "test")]
    return Questions(examples, mixture, data, MESH, decoding)


def params_of(config, seed):
    """Of a model that says one of a few frequent tokens, and so is right now and then."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if len(leaf.shape) == 1:
            return np.ones(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) * 2 / np.sqrt(leaf.shape[0])).astype(np.float32)

    params = jax.tree.map(draw, nn.meta.unbox(families.parameter_shapes(config)))
    rare = np.ones(config.vocab_size, bool)
    rare[[1, VOCAB - 1, *(byte + 3 for byte in b" aten")]] = False
    head = params.get("decoder", params)["logits_dense"]
    head["kernel"][:, rare] = 0.0
    return params


@pytest.fixture(scope="module", params=CONFIGS)
def asked(request, mixture):
    """(config, parameters, questions, answers) of a model of either kind."""
    config = CONFIGS[request.param]
    params, questions = params_of(config, 0), questions_of(mixture)
    result = next_tokens.answer(
        LoadedModel("tiny", families.build(config), params), questions, 4, True
    )
    return config, params, questions, result


@functools.cache
def logits_fn(config):
    return jax.jit(functools.partial(families.logits, families.build(config)))


@jax.jit
def measure(logits, batch):
    result = variants.Xent()(logits, None, batch.targets, batch.weights)
    return result.metrics[metrics.STUDENT_ACCURACY]


@functools.cache
def eval_batches(architecture):
    data = dataclasses.replace(DATA, architecture=architecture)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return list(pipeline.eval_batches(data, sharding, "test"))


def test_accuracy_is_what_training_reports(asked):
    """Training's metrics, of batches that its own pipeline makes of the same split."""
    config, params, questions, result = asked
    measured = next_tokens.measure(result, questions)
    kinds = ["encoder_decoder"] + ["prefix_lm"] * isinstance(config, DecoderConfig)
    for architecture in kinds:
        accuracy = metrics.Ratio(0.0, 0.0)
        for batch in eval_batches(architecture):
            of_batch = measure(logits_fn(config)(params, batch), batch)
            accuracy = accuracy.merge(of_batch)
        assert accuracy.denominator == len(measured.quality)
        assert 0 < accuracy.numerator < accuracy.denominator
        assert accuracy.numerator == np.sum(measured.quality)
    tokens = [example.task for example in next_tokens.examples(questions)]
    for task, figure in measured.figures.items():
        of_task = measured.quality[np.array(tokens) == task]
        assert figure == {"next_token_accuracy": np.mean(of_task)}
    assert set(measured.figures) == {SAY, SPANS}
    assert set(measured.metrics) == {"next_token_accuracy"}


def test_an_answer_is_the_likeliest_token_after_those_before_it(asked):
    """Against whole float64 log-softmaxes of training's batches."""
    config, params, questions, actual = asked
    place = 0
    for batch in eval_batches("encoder_decoder"):
        logits = np.asarray(logits_fn(config)(params, batch), np.float64)
        log_p = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        for of_token in log_p[np.asarray(batch.weights) > 0]:
            token = int(np.argmax(of_token))
            assert actual.tokens[place].tolist() == [token]
            np.testing.assert_allclose(actual.log_probs[place], of_token[token], atol=1e-4)
            entropy = -np.sum(np.exp(of_token) * of_token)
            np.testing.assert_allclose(actual.entropies[place], entropy, atol=1e-4)
            top = np.sort(of_token)[::-1][:4]
            np.testing.assert_allclose(actual.top_log_probs[place][0], top, atol=1e-4)
            place += 1
    assert place == len(actual.tokens) == len(actual.top_ids) == len(actual.embeddings)
    assert actual.embeddings.shape[1] == config.embed_dim
    assert len({*actual.texts}) > 3 and actual.pieces == [[text] for text in actual.texts]


def test_a_pass_is_shared_by_its_tokens(asked):
    config, _, questions, actual = asked
    targets = next_tokens.targets_of(questions)
    first = 0
    for example, target in zip(questions.examples, targets, strict=True):
        size = [np.count_nonzero(example.inputs), np.count_nonzero(target)]
        own = slice(first, first + size[1])
        np.testing.assert_allclose(actual.flops[own].sum(), flops.forward_flops(config, *size))
        assert len({*actual.flops[own]}) == len({*actual.seconds[own]}) == 1
        assert actual.input_tokens[own].tolist() == [size[0] + i for i in range(size[1])]
        first += size[1]
    assert first == len(actual.flops) and (actual.seconds > 0).all()


def test_each_target_token_has_a_row_with_what_stands_before_it(mixture):
    rows = next_tokens.examples(questions_of(mixture))
    assert len({row.example_id for row in rows}) == len(rows)
    said = [row for row in rows if row.task == SAY]
    # Cut to 12 ids, the last of them EOS; an empty target is EOS alone.
    kept = [*"a very long", *"b", *"five six se", *"c d"]
    assert [row.target_text for row in said if row.target_text != "</s>"] == kept
    actual = {row.example_id: (row.inputs_text, row.target_text) for row in said}
    assert actual[f"{SAY}/test/0/2"] == ("say 0 → a ", "v")
    assert actual[f"{SAY}/test/1/1"] == ("say 1 → b", "</s>")
    assert actual[f"{SAY}/test/2/0"] == ("say 2 → ", "</s>")
    spans = [row for row in rows if row.task == SPANS]
    assert spans[0].target_text == "<extra_id_0>"
    assert spans[1].inputs_text.endswith(" → <extra_id_0>")


def test_a_long_target_shows_only_its_last_tokens(mixture):
    text = "0123456789" * 5
    data = dataclasses.replace(DATA, target_length=60)
    ids = np.array([byte + 3 for byte in text.encode()], np.int32)
    example = pipeline.Example("x/0", "x", "", "", "", ids[:3], {"targets": ids})
    rows = next_tokens.examples(Questions([example], mixture, data, MESH, {}))
    assert rows[-1].inputs_text == text[-33:-1] and len(rows) == 50
    assert rows[31].inputs_text == "2 → " + text[:31]


def test_a_split_without_target_tokens_is_refused(mixture):
    empty = {"targets": np.zeros(0, np.int32)}
    example = pipeline.Example("x/0", "x", "", "", "", np.zeros(4, np.int32), empty)
    with pytest.raises(ValueError, match="no example of 'next_tokens_test_v1' has a token in its"):
        next_tokens.examples(Questions([example], mixture, DATA, MESH, {}))


def test_an_unknown_decoding_is_refused_with_the_nearest():
    cascade = CascadeRuns("out", ["a"], ["teacher"], DATA)
    with pytest.raises(ValueError, match="'teacher_force'; must be one of .*mean 'teacher_forced'"):
        collect.CollectConfig(cascade, decoding="teacher_force")
