"""Probes of tiny models of both kinds, against NumPy on whole logits, attention and states."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import seqio
from flax import linen as nn

from cascade_jax import numerics, records
from cascade_jax.batch import Batch
from cascade_jax.cli.main import main
from cascade_jax.collection import answers, collect, probes, samples
from cascade_jax.collection.probes import probe_pass, sample_states, surface_forms
from cascade_jax.collection.questions import RANK, Questions, decoding_by_task
from cascade_jax.data import pipeline
from cascade_jax.deferral import scores
from cascade_jax.models import families, flops
from cascade_jax.models.config import DecoderConfig
from cascade_jax.models.probe import FIRST, MEAN
from cascade_jax.models.probe import Probe as LayerProbe
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.records import schema
from cascade_jax.runs.saved_model import CascadeRuns, LoadedModel
from tests.support import fakes, pair, polygraph, records_table

VOCAB, EOS, LAYERS = 264, 1, 5
T5 = fakes.t5_config(vocab_size=VOCAB, num_decoder_layers=LAYERS, num_heads=4)
DECODER = DecoderConfig(
    vocab_size=VOCAB, embed_dim=16, num_layers=LAYERS, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=16,
)  # fmt: skip
CONFIGS = {"t5": T5, "decoder": DECODER}
ALL = (
    probes.SelfCertainty(), probes.PreviousAttention(), probes.SelfAttention(), probes.Relevance(),
    probes.States(layers=(3, 1)),
)  # fmt: skip
INPUTS = np.array([[5, 6, 7, 8], [9, 3, 0, 0], [4, 4, 4, 0]], np.int32)
ANSWERS = np.array([[13, 14, 0, 16, EOS], [17, EOS, 0, 0, 0], [EOS, 0, 0, 0, 0]], np.int32)
SIZES = np.array([5, 2, 1], np.int32)  # the first answer holds id 0
MIDDLE = (1, 2, 3, 4)  # of five layers


def params_of(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (rng.normal(size=leaf.shape) * 2 / np.sqrt(leaf.shape[0])).astype(np.float32),
        nn.unbox(families.parameter_shapes(config)),
    )


def whole(config, params):
    """Log-probs, hidden states, attention and states, in float64."""
    model = families.build(config)
    is_token = jnp.arange(5)[None] < SIZES[:, None]
    before = np.pad(ANSWERS, ((0, 0), (1, 0)))[:, :-1]
    batch = Batch(INPUTS, before, ANSWERS, is_token.astype(jnp.float32))

    @jax.jit
    def run(params):
        probe = LayerProbe(is_token, distances=(0,), states=True)
        hidden, made = families.probed(model, params, batch, probe)
        logits = model.apply({"params": params}, hidden, method="unembed")
        return logits, hidden, made.attention[..., 0], made.states

    logits, *rest = (np.asarray(array, np.float64) for array in run(params))
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True), *rest


@pytest.mark.medium
@pytest.mark.parametrize("kind", CONFIGS)
def test_columns_are_those_of_whole_arrays(kind):
    config, params = CONFIGS[kind], params_of(CONFIGS[kind])
    log_p, hidden, attention, states = whole(config, params)
    fn = probe_pass.make_probe_fn(families.build(config), ALL, EOS, logits_at_once=3 * VOCAB * 2)
    longer = [np.pad(a, ((0, 0), (0, 3))) for a in (INPUTS, ANSWERS)]
    made = jax.tree.map(np.asarray, fn(params, *longer, SIZES))
    measured = {name for probe in ALL for name in probe.columns}
    assert set(made) == measured - {"input_state_flops"}  # which lengths alone give
    assert made["vocab_size"].tolist() == [VOCAB] * 3
    for row, size in enumerate(SIZES):
        own = {name: values[row][:size] for name, values in made.items() if values.ndim > 1}
        np.testing.assert_allclose(own["mean_log_probs"], log_p[row, :size].mean(-1), rtol=1e-4)
        weights = attention[:, row, :size]
        if size > 1:
            heads = weights[:, 1:].mean(axis=1).argmax(axis=-1)
            expected = np.stack([weights[layer, :, heads[layer]] for layer in MIDDLE], axis=-1)
            np.testing.assert_allclose(own["previous_attention"], expected, atol=1e-5)
        logs = np.log(weights[LAYERS // 2] + 1e-12).mean(axis=-1)
        np.testing.assert_allclose(own["self_attention_logs"], logs, rtol=1e-3, atol=1e-4)
        for name, index in (("input_state", FIRST), ("answer_state", MEAN)):
            expected = states[[1, 3], row, index].ravel()
            np.testing.assert_allclose(made[name][row], expected, rtol=1e-3, atol=1e-4)
        mean = hidden[row, :size].mean(axis=0)
        for place in range(size):
            rest = np.delete(hidden[row, :size], place, axis=0).sum(axis=0)
            cosine = mean @ rest / (np.linalg.norm(mean) * np.linalg.norm(rest) or 1)
            is_end = ANSWERS[row, place] == EOS
            relevance = 0 if is_end else 1 - cosine
            np.testing.assert_allclose(own["relevances"][place], relevance, rtol=1e-3, atol=1e-6)


def test_the_middle_third_of_layers():
    """Of fewer than three layers lm-polygraph takes some that are not there."""
    layers = probes.PreviousAttention().attention_layers
    assert {n: layers(n) for n in (1, 2, 3, 6)} == {1: (0,), 2: (0, 1), 3: (1, 2), 6: (2, 3, 4)}
    assert layers(26) == tuple(range(8, 19))
    assert probes.PreviousAttention(layers=[3, 1]).attention_layers(26) == (3, 1)


@pytest.mark.parametrize(
    "probe, message",
    [
        (probes.PreviousAttention(layers=(1, 5)), "PreviousAttention.layers: a layer is 5; must b"),
        (
            probes.SelfAttention(layer=-1),
            "SelfAttention.layer: a layer is -1; must be a layer of t",
        ),
        (
            probes.States(layers=7),
            "States.layers: a layer is 7; must be a layer of the model, 0 to 4",
        ),
        (probes.SurfaceForms(), "TOP_K is 1; must be 2 or more for SurfaceForms"),
        (
            probes.SampleStates(layer=5),
            "SampleStates.layer: a layer is 5; must be a layer of the m",
        ),
        (probes.SampleStates(), "SAMPLES is 1; must be 2 or more for SampleStates"),
    ],
)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_layer_that_a_model_does_not_have_is_refused(kind, probe, message):
    with pytest.raises(ValueError, match=message):
        probes.check([probe], CONFIGS[kind], 1, 1)


def test_settings_that_are_refused():
    with pytest.raises(ValueError, match="probes has States 2 times; must be once at most"):
        probes.check([probes.States(), probes.States(layers=1)], T5, 10, 0)
    with pytest.raises(ValueError, match=r"layers is \[\]; must be different layers, or None"):
        probes.PreviousAttention(layers=())
    runs = CascadeRuns("out", ["a"], ["teacher"], DATA)
    with pytest.raises(ValueError, match="probes are measured of answers, and 'teacher_forced' w"):
        collect.CollectConfig(runs, decoding="teacher_forced", probes=[probes.States()])


def test_flops_are_those_of_a_pass_and_of_what_is_read():
    for config, keys in ((T5, 7), (DECODER, 19)):
        whole_pass = flops.forward_flops(config, 12, 7)
        logits = 7 * 2 * config.embed_dim * VOCAB
        weights = 7 * keys * 2 * config.num_heads * config.head_dim

        def spent(*probes, config=config):
            return probe_pass._flops(config, probes, 12, 7)

        assert spent(probes.SelfCertainty()) == whole_pass
        assert spent(probes.Relevance()) == whole_pass - logits
        assert spent(*ALL) == whole_pass + 4 * weights  # the layer of one is among those of another
        scanned = dataclasses.replace(config, scan_layers=True)
        read = spent(probes.SelfAttention(), config=scanned) - whole_pass + logits
        assert read == LAYERS * weights
    with pytest.raises(ValueError, match="layers is 6; an answer goes through 5"):
        flops.probe_flops(T5, 3, 3, False, 6)


# ---- surface forms


@pytest.mark.parametrize(
    "piece, form",
    [("▁Paris,", "paris"), ("paris", "paris"), ("▁.", "."), (",", ","), ("</s>", "</s>"),
     ("s", "s"), ("▁", " "), ("\n", "\n"), ("it's", "it's"), ("<384>", "<384>"), (" ẞ", "ss")],
)  # fmt: skip
def test_surface_forms(piece, form):
    assert surface_forms.surface_form(piece) == form


def test_shares_of_surface_forms_are_those_by_hand():
    texts = {0: "▁Paris", 1: "paris", 2: "Rome", 3: "</s>", 4: "PARIS!", 5: "s"}
    logs = np.log([0.5, 0.2, 0.1])
    tokens, own = [np.array([0, 3, 4])], [np.log([0.5, 0.5, 0.05])]
    top_ids = [np.array([[0, 1, 2], [3, 5, 2], [0, 1, 2]])]
    (shares,) = surface_forms.log_shares(tokens, own, top_ids, [np.stack([logs] * 3)], texts.get)
    expected = np.log([0.7 / 0.8, 0.5 / 0.8, 0.75 / 0.85])  # the last is not among the likeliest
    np.testing.assert_allclose(shares, expected, rtol=1e-6)
    empty = [np.zeros(0, int)], [np.zeros(0)], [np.zeros((0, 3), int)], [np.zeros((0, 3))]
    assert next(surface_forms.log_shares(*empty, texts.get)).shape == (0,)


@polygraph.needs_polygraph
def test_ccp_is_that_of_lm_polygraph_with_the_rule_as_its_language_inference():
    rng = np.random.default_rng(0)
    texts = dict(enumerate(["▁a", "A", "b", "b.", "▁c", "C!", "d", "</s>"]))
    tokens, own, ids, logs = [], [], [], []
    statistics = {"greedy_tokens_alternatives": [], "greedy_tokens_alternatives_nli": []}
    for length in (1, 2, 40):
        top = np.stack([rng.permutation(len(texts))[:5] for _ in range(length)])
        values = -np.sort(rng.exponential(size=(length, 5)) + 1.7, axis=1)
        tokens.append(top[:, 0])
        own.append(values[:, 0])
        ids.append(top)
        logs.append(values)
        statistics["greedy_tokens_alternatives"].append(
            [list(zip(map(texts.get, t), v, strict=True)) for t, v in zip(top, values, strict=True)]
        )
        forms = [[surface_forms.surface_form(texts[i]) for i in row] for row in top]
        says = {True: "entail", False: "contra"}
        statistics["greedy_tokens_alternatives_nli"].append(
            [[[says[one == other] for other in row] for one in row] for row in forms]
        )
    statistics["greedy_tokens"] = [row.tolist() for row in tokens]
    expected = polygraph.estimator("claim_conditioned_probability", "ClaimConditionedProbability")(
        statistics
    )
    shares = np.concatenate(list(surface_forms.log_shares(tokens, own, ids, logs, texts.get)))
    offsets = np.cumsum([0, *map(len, tokens)])
    answered = scores.AnswerTokens(
        np.concatenate(own), None, offsets, per_token={"surface_log_probs": shares}
    )
    np.testing.assert_allclose(scores.SurfaceFormCcp()(answered), expected, rtol=1e-6)


@polygraph.needs_polygraph
def test_eigenscore_is_that_of_lm_polygraph():
    states = 3 * np.random.default_rng(0).normal(size=(4, 6, 11))  # of four examples
    values = np.concatenate([sample_states.eigenvalues(each) for each in states])
    theirs = polygraph.estimator("eigenscore", "EigenScore")({"sample_embeddings": states})
    np.testing.assert_allclose(eigen_scores(values, 6), theirs, rtol=1e-6)


def eigen_scores(values, count, **settings):
    """Scores of examples that have as many samples each."""
    samples = scores.SampledAnswers(
        [""] * len(values), np.arange(0, len(values) + 1, count), state_eigenvalues=values
    )
    rows = len(values) // count
    none = np.zeros(rows), None, np.arange(rows + 1)
    return scores.EigenScore(**settings)(scores.AnswerTokens(*none, samples_fn=lambda: samples))


def test_eigenscore_at_its_edges():
    rng = np.random.default_rng(1)
    assert eigen_scores(np.array([0.0, 4.0]), 2) == pytest.approx([-2.761], abs=1e-3)
    same = np.tile(rng.normal(size=9), (5, 1))
    equal, other = (sample_states.eigenvalues(s) for s in (same, rng.normal(size=(5, 9))))
    assert np.all(equal[:-1] < 1e-9) and equal[-1] == pytest.approx(5 * same[0].var() * 9)
    assert eigen_scores(equal, 5)[0] < eigen_scores(other, 5)[0]
    alone = sample_states.eigenvalues(np.zeros((1, 9)))
    assert eigen_scores(alone, 1) == pytest.approx([np.log(1e-3)])
    with pytest.raises(ValueError, match="row 1 has the eigenvalue nan of its samples' states"):
        eigen_scores(np.array([0.0, 1.0, np.nan, 1.0]), 2)
    with pytest.raises(ValueError, match="alpha is 0.0; must be a number above 0"):
        scores.EigenScore(0.0)
    with pytest.raises(ValueError, match="SAMPLES = 10 and PROBES = .@probes.SampleStates... adds"):
        scores.EigenScore()(scores.AnswerTokens(np.zeros(1), None, np.arange(2)))


def test_ids_that_can_not_come_are_left_out_of_the_mean():
    log_p = numerics.log_probs(jnp.array([[[0.0, -jnp.inf, 1.0, 2.0]]]))
    seen = probes.Seen(
        jnp.ones((1, 1), int), jnp.ones((1, 1), bool), 1, 4, None, None, None, lambda fn: fn(log_p)
    )
    mean = probes.SelfCertainty().measure(seen)["mean_log_probs"]
    assert mean[0, 0] == pytest.approx(1 - np.log(np.exp([0, 1, 2]).sum()))


# ---- from answers to records and scores

TASK = "probes_test_colour_v1"
DATA = pipeline.DataConfig(TASK, input_length=12, target_length=6, batch_size=2)


@pytest.fixture(scope="module")
def mixture():
    rows = {"inputs": ["which red", "which", "blue or grey"], "targets": ["red", "no", "blue"]}

    def dataset(split, shuffle_files=False, seed=None):
        import tensorflow as tf

        options = tf.constant([["red", "blue"]] * 3)
        return tf.data.Dataset.from_tensor_slices(rows | {"options": options})

    seqio.TaskRegistry.add(
        TASK,
        source=seqio.FunctionDataSource(dataset, splits=["test"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={
            n: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for n in ("inputs", "targets")
        },
        metric_fns=[],
    )
    yield pipeline.open_mixture(DATA)
    seqio.TaskRegistry.remove(TASK)


@pytest.mark.medium
@pytest.mark.parametrize("kind, decoding", [("t5", "greedy"), ("decoder", RANK)])
def test_measured_columns_are_records_and_give_scores(mixture, tmp_path, capsys, kind, decoding):
    config = CONFIGS[kind]
    model = LoadedModel("tiny", families.build(config), params_of(config))
    decoding = decoding_by_task(decoding, mixture, DATA, "test")
    examples = list(pipeline.decode_examples(DATA, TASK, "test"))
    mesh = MeshConfig(data=2, tensor=4).build()
    questions = Questions(examples, mixture, DATA, mesh, decoding)
    answered = answers.answer(model, questions, top_k=4)
    drawn = samples.Samples(
        [["a", "b"], ["c"], ["d", "e", "f"]],
        [[[5, 9, EOS], [7, EOS]], [[EOS]], [[4, EOS]] * 3],
        [[[-0.5] * 3, [-0.5] * 2], [[-0.5]], [[-0.5] * 2] * 3],
        None,
        None,
    )
    asked = [*ALL, probes.SurfaceForms(), probes.SampleStates()]
    columns = probes.measure(model, questions, answered, asked, drawn)
    assert "tiny probes: " in capsys.readouterr().out
    rows = records_table.make_rows(3)
    for i, row in enumerate(rows):
        row["student_log_probs"] = answered.log_probs[i]
        row["student_tokens"], row["student_entropies"] = answered.tokens[i], answered.entropies[i]
        row |= {f"student_{name}": values[i] for name, values in columns.items()}
        for name in ("answers", "log_probs"):
            row[f"student_sample_{name}"] = getattr(drawn, f"sample_{name}")[i]
        size = np.count_nonzero(examples[i].inputs), len(answered.tokens[i])
        assert row["student_probe_flops"] == probe_pass._flops(config, ALL, *size)
        expected = 0
        for ids in drawn.sample_tokens[i]:
            expected += probe_pass._flops(config, (probes.States(),), size[0], len(ids))
        assert row["student_sample_state_flops"] == pytest.approx(expected)
    read = records_table.write(tmp_path / "a", None, rows, state_layers=[1, 3])
    assert read.student_previous_attention.shape == (len(read.student_log_probs), len(MIDDLE))
    assert read.student.states.input.shape == (3, 2, config.embed_dim)
    for i, example in enumerate(examples):
        spent = [flops.state_flops(config, np.count_nonzero(example.inputs), n) for n in (1, 3)]
        assert read.student.states.input_flops[i].tolist() == spent
    eigenvalues = read.student.samples.state_eigenvalues
    assert np.count_nonzero(eigenvalues > 1e-6) == 4  # equal samples have one
    for score in (*scores.FROM_PROBES, scores.EigenScore()):
        assert np.isfinite(score(read.student)).all(), score.name
    taken = read.take(np.array([2, 0]))
    np.testing.assert_array_equal(scores.Rauq()(taken.student), scores.Rauq()(read.student)[[2, 0]])


@pytest.mark.medium
def test_the_command_measures_and_evaluate_shows(trained_pair, tmp_path, in_the_clone, capsys):
    flag = pair.write_gin(tmp_path / "pair.gin")
    out = tmp_path / "runs"
    out.mkdir()
    for run in ("teacher", "xent"):
        (out / run).symlink_to(trained_pair / run)
    named = "[@probes.SelfCertainty(), @probes.PreviousAttention(), @probes.SurfaceForms()]"
    states = ["--gin.PROBES=[@probes.States()]", "--gin.probes.States.layers=[0]"]
    argv = [flag, pair.output(out), "--gin.COLLECT_LIMIT=5"]
    assert main(["collect", *argv, f"--gin.PROBES={named}"]) == 0
    assert "xent probes: " in capsys.readouterr().out
    (file,) = out.glob("records/*/xent.parquet")
    names = set(pq.read_schema(file).names)
    assert {"student_mean_log_probs", "student_surface_log_probs", "student_probe_flops"} <= names
    assert not {"teacher_mean_log_probs", "student_relevances", "student_input_state"} & names
    assert len(records.read(file).metadata[schema.PROBES]) == 3
    shown = [flag, pair.output(out), "--gin.BOOTSTRAP_SAMPLES=2", "--gin.NAMES=['xent']"]
    assert main(["evaluate", *shown, "--gin.SCORES='available'"]) == 0
    figures = json.loads((out / "report" / "metrics.json").read_text())
    text = json.dumps(figures)
    assert all(f'"{name}"' in text for name in ("self-certainty", "RAUQ", "surface-form CCP"))
    capsys.readouterr()
    assert main(["evaluate", *shown, "--gin.SCORES=[@scores.TokenSar()]"]) != 0
    assert "PROBES = [@probes.Relevance()] adds it" in capsys.readouterr().err
    assert main(["collect", *argv, f"--gin.PROBES={named}"]) == 0
    assert "is up to date" in capsys.readouterr().out
    assert main(["collect", *argv, *states]) == 0
    read = records.read(file)
    assert read.metadata[schema.STATE_LAYERS] == [0] == list(read.student.states.layers)
    assert read.student.states.model == str(read.metadata["student_saved"])
