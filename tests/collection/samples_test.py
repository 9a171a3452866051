"""Samples in the records of `cascade-jax collect`, against the saved model's own distributions."""

import shutil

import jax
import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.batch import Batch
from cascade_jax.cli import collect as collect_lib
from cascade_jax.cli import gin_config
from cascade_jax.cli.main import main
from cascade_jax.collection.collect import CollectConfig
from cascade_jax.collection.samples import SampleConfig
from cascade_jax.data import pipeline
from cascade_jax.deferral import scores
from cascade_jax.inference.sample import Distribution
from cascade_jax.models import flops
from cascade_jax.runs.saved_model import CascadeRuns
from tests.support import fakes, pair

CASCADE = CascadeRuns("out", ["a"], ["teacher"], pipeline.DataConfig("any_v1", 16, 8, batch_size=8))
SETTINGS = ["--gin.SAMPLE_TEMPERATURE=0.8", "--gin.SAMPLE_TOP_P=0.9", "--gin.SAMPLE_TOP_K=40"]
DISTRIBUTION = Distribution(temperature=0.8, top_p=0.9, top_k=40)


@pytest.fixture
def argv(trained_pair, tmp_path, in_the_clone):
    """Arguments of the command for a copy of the trained pair, with settings of samples."""
    folder = tmp_path / "out"
    shutil.copytree(trained_pair, folder)
    flag = pair.write_gin(tmp_path / "tiny.gin")
    return [flag, pair.output(folder), "--gin.COLLECT_LIMIT=12", *SETTINGS]


@pytest.fixture
def collect(argv, tmp_path, capfd):
    """Runs the command with more arguments; gives the table and what was printed."""

    def collect(*more):
        capfd.readouterr()
        assert main(["collect", *argv, *more]) == 0
        (file,) = (tmp_path / "out" / "records").rglob("*.parquet")
        return records.read(file), capfd.readouterr()

    return collect


def samples_of(table, row, model="student"):
    """Lists of each sample: text, tokens, log-probs, log-probs in what it was drawn from."""
    names = ("answers", "tokens", "log_probs", "drawn_log_probs")
    columns = [table.columns.value(f"{model}_sample_{name}", row) for name in names]
    return [
        (text, tokens.tolist(), plain, drawn)
        for text, tokens, plain, drawn in zip(*columns, strict=True)
    ]


def assert_same_samples(ours, theirs, count, model="student"):
    for row in range(len(ours)):
        for mine, other in zip(
            samples_of(ours, row, model), samples_of(theirs, row, model)[:count], strict=True
        ):
            assert mine[:2] == other[:2]
            for values, expected in zip(mine[2:], other[2:], strict=True):
                np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.medium
def test_samples_are_the_models_and_part_of_what_a_table_is(collect, argv):
    plain, _ = collect()
    assert plain.student_sample_answers is None and "student_samples" not in plain.metadata
    table, output = collect("--gin.SAMPLES=3")
    assert "teacher: answers are taken from" in output.out
    assert "xent samples: " in output.out and "of 36 are cut at" in output.out
    assert "sample/s" in output.err
    settings = {"temperature": 0.8, "top_p": 0.9, "top_k": 40}
    assert table.metadata["student_samples"] == {"count": 3, **settings, "seed": 0}
    assert table.teacher_sample_answers is None
    assert table.student_answer.tolist() == plain.student_answer.tolist()
    _check_numbers(table, gin_config.parse(collect_lib.CONFIG, argv))
    assert set(scores.FROM_SAMPLES) <= set(scores.available(table.student))
    for score in scores.FROM_SAMPLES:
        assert np.all(np.isfinite(score(table.student))), score.name

    # Fewer of them in larger batches are the first ones, and the same command again does nothing.
    fewer = ["--gin.SAMPLES=2", "--gin.DECODE_BATCH_SIZE=16"]
    second, _ = collect(*fewer)
    assert_same_samples(second, table, 2)
    assert "is up to date" in collect(*fewer)[1].out
    # Others of another seed; and the teacher's, which no table has yet.
    both = ["--gin.SAMPLES=2", "--gin.SAMPLE_SEED=1", "--gin.SAMPLE_MODELS=['teacher', 'student']"]
    third, output = collect(*both)
    assert "are taken from" not in output.out and len(samples_of(third, 3, "teacher")) == 2
    texts = [set(each.student_sample_answers) for each in (second, third)]
    assert len(texts[0] & texts[1]) < len(texts[0])


def _check_numbers(table, config):
    """Log-probs, texts and FLOPs of the student's samples, each by itself."""
    ((student, _),), mixture, mesh = config.cascade.open()
    drawn_from = jax.jit(DISTRIBUTION.log_probs)
    loaded, longest, lengths = student.load(mesh), config.data.target_length, set()
    (task,) = mixture.tasks_with(config.split)
    examples = list(pipeline.decode_examples(config.data, task, config.split, config.limit))
    for row, example in enumerate(examples):
        assert table.example_id[row] == example.example_id
        size = int(np.count_nonzero(example.inputs))
        spent = flops.prefill_flops(student.config, size)
        for text, tokens, log_probs, drawn_log_probs in samples_of(table, row):
            places = np.arange(len(tokens))
            lengths.add(len(tokens))
            spent += sum(flops.decode_flops(student.config, size, place) for place in places)
            assert tokens[-1] == mixture.eos_id or len(tokens) == longest
            assert mixture.eos_id not in tokens[:-1]
            assert text == mixture.vocabulary.decode(tokens)
            padded = np.zeros((1, longest), np.int32)
            padded[0, places] = tokens
            shifted = np.pad(padded[:, :-1], ((0, 0), (1, 0)))
            weights = np.ones(padded.shape, np.float32)
            batch = Batch(example.inputs[None], shifted, padded, weights)
            logits = fakes.logits(loaded.module, loaded.params, batch)[0]
            for values, log_p in (
                (log_probs, jax.nn.log_softmax(logits)),
                (drawn_log_probs, drawn_from(logits)),
            ):
                expected = np.asarray(log_p)[places, tokens]
                np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(table.student_sample_flops[row], spent, rtol=1e-9)
    assert len(lengths) > 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": -1}, "count is -1; must be an integer of at least 0"),
        ({"top_p": 0}, "top_p is 0; must be a number above 0"),
        ({"seed": 0.5}, "seed is 0.5; must be an integer"),
        ({"models": "student"}, "models is 'student'; must be one or more of student, teacher"),
        ({"models": ["techer"]}, "models is 'techer'; must be one of student, teacher"),
    ],
)
def test_settings_that_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        SampleConfig(**settings)
    with pytest.raises(ValueError, match="top_k of samples is 9; must be from 0 .all. to 8, the"):
        SampleConfig(count=1, top_k=9).check_vocabulary(8)


def test_next_tokens_have_no_samples():
    config = CollectConfig(CASCADE, samples=SampleConfig(count=2))
    assert config.samples.are_drawn_by("student") and not config.samples.are_drawn_by("teacher")
    with pytest.raises(ValueError, match="samples are whole answers, and with decoding 'teacher_f"):
        CollectConfig(CASCADE, samples=SampleConfig(count=2), decoding="teacher_forced")
