"""Rows as the model gets them: against seqio's own reading, and where texts are cut."""

import pytest
import seqio

import tasks.demo  # noqa: F401
from cascade_jax.data import features, pipeline, sources
from cascade_jax.data.browse import rows as row_view
from cascade_jax.data.vocabulary import training

TEXTS = [("grüße aus Köln", "日本"), ("short", "x"), ("a\nb", "y z")]


@pytest.fixture
def task(monkeypatch):
    """Name of a task with TEXTS and options, all in memory."""
    name = "row_view_test_v1"
    rows = [{"inputs": a, "targets": b, "options": [b, "no"]} for a, b in TEXTS]
    fields = {"inputs": str, "targets": str, "options": list[str]}
    seqio.TaskRegistry.add(
        name,
        source=sources.GeneratedSource(lambda split: rows, ["train", "test"], fields),
        preprocessors=features.tokenizing(),
        output_features=features.output_features(),
    )
    yield name
    seqio.TaskRegistry.remove(name)


def view(name, count=3, **options):
    (opened,) = row_view.open_tasks(name, **options)
    return list(row_view.seen_examples(opened, count))


def test_nothing_is_cut_without_lengths(task):
    examples = view(task)
    assert [(e.inputs.text, e.targets.text) for e in examples] == TEXTS
    for example, (_, target) in zip(examples, TEXTS, strict=True):
        assert example.options == (target, "no")
        for seen in (example.inputs, example.targets):
            assert seen.kept_text == seen.text and not seen.cut_text and not seen.unknown
            assert seen.length == len(seen.ids) == len(seen.text.encode()) + 1
            assert [i - 3 for i in seen.ids[:-1]] == list(seen.text.encode())


def test_the_ids_are_those_that_decoding_gets(task):
    config = pipeline.DataConfig(task, input_length=6, target_length=4, batch_size=1)
    expected = list(pipeline.decode_examples(config, task, "test"))
    for seen, example in zip(view(task, input_length=6, target_length=4), expected, strict=True):
        assert list(seen.inputs.ids) == [i for i in example.inputs.tolist() if i]
        assert list(seen.targets.ids) == example.features["targets"].tolist()


@pytest.mark.parametrize("length", [2, 4, 5, 9, 18, 19])
def test_kept_and_cut_text_are_the_whole_at_every_length(task, length):
    for example in view(task, input_length=length, target_length=length):
        for seen in (example.inputs, example.targets):
            assert seen.kept_text + seen.cut_text == seen.text
            assert len(seen.ids) == min(length, seen.length) and seen.ids[-1] == 1
            # A character of which one byte is cut off is cut off.
            kept = seen.text.encode()[: length - 1].decode(errors="ignore")
            assert seen.kept_text == kept
            assert bool(seen.cut_text) == (len(seen.text.encode()) + 1 > length)


def test_pieces_spell_the_text(task):
    first = view(task, count=1)[0].inputs
    assert first.pieces[:4] == ("g", "r", r"\xc3", r"\xbc") and first.pieces[-1] == "</s>"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A SentencePiece model that knows only what the demo says."""
    prefix = tmp_path_factory.mktemp("vocabulary") / "demo"
    training.train_sentencepiece("demo_last_v1", str(prefix), 30, byte_fallback=False)
    return f"{prefix}.model"


@pytest.mark.medium
def test_another_vocabulary(task, model):
    (example,) = view("demo_last_v1", 1, vocabulary=model, input_length=4)
    inputs = example.inputs
    assert "".join(inputs.pieces[:-1]).replace("▁", " ").strip() == inputs.kept_text.strip()
    assert inputs.kept_text + inputs.cut_text == inputs.text and not inputs.unknown
    assert len(inputs.ids) == 4 < inputs.length


def test_what_a_vocabulary_cannot_spell_is_counted(task, model):
    example = view(task, 1, vocabulary=model)[0]
    assert example.targets.unknown == 1 and "<unk>" in example.targets.pieces
    cut = view(task, 1, vocabulary=model, input_length=4)[0].inputs
    assert cut.unknown and cut.cut_text and cut.length > 4


def halves(dataset, output_features, sequence_length=None):
    """A step that makes rows of the lengths it is given."""
    most = (sequence_length or {"inputs": 4})["inputs"]
    return dataset.map(lambda row: {name: row[name][:most] for name in ("inputs", "targets")})


@pytest.mark.parametrize("arguments, length", [({}, 4), ({"input_length": 7}, 7)])
def test_a_task_that_makes_rows_of_the_lengths_is_whole(arguments, length):
    name = "row_view_fitting_v1"
    rows = [{"inputs": "abcdefghij", "targets": "klmnopqrst"}]
    source = sources.GeneratedSource(lambda split: rows, ["train"], {"inputs": str, "targets": str})
    steps = [seqio.preprocessors.tokenize, halves]
    byte = seqio.ByteVocabulary(extra_ids=3)
    seqio.TaskRegistry.add(name, source, features.output_features(byte), preprocessors=steps)
    try:
        (example,) = view(name, **arguments)
        assert example.inputs.length == len(example.inputs.ids) == length
        assert example.inputs.text == "abcdefghij"[:length] and not example.inputs.cut_text
    finally:
        seqio.TaskRegistry.remove(name)


def test_the_split_is_one_that_is_there(task, tmp_path, monkeypatch):
    (opened,) = row_view.open_tasks(task)
    assert opened.split == "test"  # no validation
    monkeypatch.setattr(
        opened.task.source, "is_available", lambda split: split == "train", raising=False
    )
    (opened,) = row_view.open_tasks(task)
    assert opened.split == "train"
    with pytest.raises(ValueError, match="no task of 'row_view_test_v1' has a split 'dev'"):
        row_view.open_tasks(task, split="dev")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"is_in_tfds": False}, "is not in TFDS; give a data folder that holds no__rows/"),
        (
            {},
            "this machine: prepare it with `tfds build no/rows:1.0.0`, or give a data folder",
        ),
        (
            {"manual": "ask for x.zip"},
            "is not on this machine: first ask for x.zip; then prepare it with",
        ),
    ],
)
def test_data_that_is_not_here_is_not_downloaded(options, message):
    name = "row_view_absent_v1"
    before = sources.get_data_dir()
    sources.set_data_dir(None)
    source = sources.TfdsOrJsonlSource("no/rows:1.0.0", {}, {"train": "train"}, **options)
    seqio.TaskRegistry.add(name, source, features.output_features(), preprocessors=[])
    try:
        (opened,) = row_view.open_tasks(name)
        with pytest.raises(ValueError) as raised:
            row_view.check_is_available(opened)
        assert message in str(raised.value)
        sources.set_data_dir("/nowhere")
        with pytest.raises(FileNotFoundError, match="'/nowhere' does not exist"):
            row_view.check_is_available(opened)
    finally:
        sources.set_data_dir(before)
        seqio.TaskRegistry.remove(name)
