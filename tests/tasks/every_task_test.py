"""Every registered task: on mock rows of TFDS to a training batch, and on the real rows there are.

What a suite's own rows should read as is tested with the suite; here stands what holds for all.
"""

import functools
import importlib.util
import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

import tasks.all  # noqa: F401
from cascade_jax import batch
from cascade_jax.data import catalog, features, sources
from cascade_jax.inference import rank
from cascade_jax.task_metrics import quality

# By kind, the 90 tasks of the papers as <suite>/<task>.
PAPERS = {
    "classification": """
        flan2021/ag_news_subset flan2021/anli_r1 flan2021/anli_r2 flan2021/anli_r3 flan2021/bool_q
        flan2021/cb flan2021/cola flan2021/glue_mrpc flan2021/glue_qqp flan2021/imdb_reviews
        flan2021/mnli_matched flan2021/mnli_mismatched flan2021/multirc flan2021/paws_wiki
        flan2021/qnli flan2021/rte flan2021/sentiment140 flan2021/snli flan2021/sst2 flan2021/stsb
        flan2021/trec flan2021/wic flan2021/wnli flan2021/wsc flan2021/yelp_polarity_reviews
        superglue/boolq superglue/cb superglue/copa superglue/multirc superglue/rte superglue/wic
    """,
    "multiple_choice": """
        arc/challenge arc/easy flan2021/arc_challenge flan2021/arc_easy flan2021/copa
        flan2021/cosmos_qa flan2021/definite_pronoun_resolution flan2021/hellaswag
        flan2021/openbookqa flan2021/piqa flan2021/record flan2021/story_cloze flan2021/winogrande
        flan2021/wsc273 mmlu/all superglue/record
    """,
    "short_answer": """
        flan2021/drop flan2021/math_dataset flan2021/natural_questions flan2021/quac
        flan2021/squad_v1 flan2021/squad_v2 flan2021/trivia_qa gsm8k/main superglue/wsc
    """,
    "translation": """
        flan2021/para_crawl_enes flan2021/wmt14_enfr flan2021/wmt16_translate_csen
        flan2021/wmt16_translate_deen flan2021/wmt16_translate_fien flan2021/wmt16_translate_roen
        flan2021/wmt16_translate_ruen flan2021/wmt16_translate_tren wmt22/en_ja wmt22/en_ru
        wmt22/en_zh wmt22/ja_en wmt22/ru_en wmt22/zh_en
    """,
    "summarization": """
        flan2021/aeslc flan2021/cnn_dailymail flan2021/gigaword flan2021/multi_news
        flan2021/newsroom flan2021/opinion_abstracts_idebate
        flan2021/opinion_abstracts_rotten_tomatoes flan2021/samsum
        flan2021/wiki_lingua_english_en flan2021/xsum xsum/xsum
    """,
    "generation": """
        flan2021/common_gen flan2021/coqa flan2021/dart flan2021/e2e_nlg flan2021/fix_punct
        flan2021/true_case flan2021/web_nlg_en flan2021/word_segment
    """,
    "language_modeling": "c4/span_corruption",
}
KINDS = {
    f"cascade_{place.replace('/', '_')}_v1": kind
    for kind, places in PAPERS.items()
    for place in places.split()
}
SUITES = {name.split("_")[1] for name in KINDS} | {"demo", "local", "mathematics", "wikitext2"}
# Also variants of these tasks, and those of demos; not what other tests may have registered.
EVERY_TASK = sorted(
    name
    for name in seqio.TaskRegistry.names()
    if (card := catalog.card_of(name)) is not None and card.suite in SUITES
)
WITH_OPTIONS = ("classification", "multiple_choice")
NOT_IN_TFDS = ("cascade_wmt22_", "cascade_mmlu_", "cascade_wikitext2_", "demo_", "local_tatoeba_")
IN_TFDS = [name for name in EVERY_TASK if not name.startswith(NOT_IN_TFDS)]


def one_of_each_kind(names):
    """All names as parameters of a test; but for the first of each kind they are slow."""
    kinds = set()
    for name in names:
        kind = catalog.card_of(name).kind
        yield pytest.param(name, marks=[pytest.mark.slow] if kind in kinds else [])
        kinds.add(kind)


REAL_EXAMPLES = 50
LENGTH = 256
LENGTHS = features.sequence_length(LENGTH, LENGTH)
NOT_FOR_TRAINING = ("cascade_flan2021_wsc273_v1", "cascade_xsum_short_v1")
# Fields of mock rows that do not fit each other: a builder's, and what they are made to be.
NAMES, WORDS = tf.constant(["Ann", "Eve"]), tf.constant(["ice", "stone", "air", "sand"])
MADE_TO_FIT = {
    "ai2_arc": lambda row: {"choices": {"text": WORDS}, "answerKey": row["answerKey"] % 4},
    "hellaswag": lambda row: {"endings": WORDS, "label": row["label"] % 4},
    "para_crawl": lambda row: {"en": "Ann, " + row["en"]},
    "story_cloze": lambda row: {"endings": NAMES, "label": row["label"] % 2 + 1},
    "super_glue/record": lambda row: {"entities": NAMES, "answers": NAMES[1:]},
    "wsc273": lambda row: {"pronoun_start": 0, "pronoun_end": 2, "label": row["label"] % 2},
}
# Splits that the files are too small for: all their rows are held out.
NO_ROWS = [("cascade_flan2021_record_v1", "train")]
# Where a perfect answer is not worth 1, or not to be measured, and why.
NOT_MEASURED = {
    "cascade_superglue_wsc_v1": "the target of a row labelled False is the wrong referent",
}
if importlib.util.find_spec("MeCab") is None:
    NOT_MEASURED["cascade_wmt22_en_ja_v1"] = "BLEU of Japanese needs the extra 'ja'"


def _dataset(name, split):
    task = seqio.TaskRegistry.get(name)
    return task.get_dataset(LENGTHS, split, shuffle=False, try_in_mem_cache=False)


def _text(example, feature):
    return example[feature + features.PRETOKENIZED].decode()


def _check(name, examples):
    """What holds for the examples of every task."""
    assert examples
    kind = catalog.card_of(name).kind
    for example in examples:
        for feature in (features.INPUTS, features.TARGETS):
            # The last id ends the text.
            assert (example[feature] == 1).sum() == 1 and example[feature][-1] == 1
            assert len(example[feature]) > 1, f"{feature} of {example}"
        assert ("options" in example) == (kind in WITH_OPTIONS)
        if "options" in example:
            options = [option.decode() for option in example["options"]]
            assert _text(example, features.TARGETS) in options
            ids = [[*option.encode(), 1] for option in options]
            rank.check_options({0: ids})


def test_every_task_of_the_papers_is_registered_as_its_kind():
    assert len(KINDS) == 90
    result = {name: catalog.card_of(name).kind for name in EVERY_TASK}
    assert {name: result.get(name) for name in KINDS} == KINDS
    assert all(catalog.card_of(name).suite == name.split("_")[1] for name in KINDS)


_given = []


@functools.cache
def _batches():
    """Training batches of the examples in `_given`; tracing this once saves half of the time."""
    spec = tf.TensorSpec([None], tf.int32)
    rows = tf.data.Dataset.from_generator(
        lambda: itertools.cycle(_given),
        output_signature={features.INPUTS: spec, features.TARGETS: spec},
    )
    return features.converter()(rows, task_feature_lengths=LENGTHS).batch(2)


def _batch_of(examples):
    names = (features.INPUTS, features.TARGETS)
    _given[:] = [{name: example[name] for name in names} for example in examples]
    return batch.from_seqio(next(_batches().as_numpy_iterator()))


_get_dataset = seqio.TfdsDataSource.get_dataset


def _fitting(source, *arguments, **settings):
    """Mock rows of a TFDS source whose fields fit each other."""
    rows = _get_dataset(source, *arguments, **settings)
    for builder, change in MADE_TO_FIT.items():
        if source.tfds_dataset.name.startswith(builder):
            return rows.map(lambda row, change=change: row | change(row))
    return rows


@pytest.mark.medium
@pytest.mark.parametrize("name", list(one_of_each_kind(IN_TFDS)))
def test_a_training_batch_of_mock_rows(monkeypatch, name):
    sources.set_data_dir(None)
    # Mock data has rows but no files.
    monkeypatch.setattr(seqio.TfdsDataSource, "list_shards", lambda self, split: [split])
    monkeypatch.setattr(seqio.TfdsDataSource, "get_dataset", _fitting)
    split = "test" if name in NOT_FOR_TRAINING else "train"
    with tfds.testing.mock_data(num_examples=4, policy=tfds.testing.MockPolicy.USE_CODE):
        examples = list(_dataset(name, split).take(4).as_numpy_iterator())
    _check(name, examples)
    made = _batch_of(examples)
    assert made.inputs.shape == made.targets.shape == (2, LENGTH)
    assert (made.targets[:, 0] > 1).all()  # no target is EOS alone
    np.testing.assert_array_equal(made.decoder_inputs[:, 1:], made.targets[:, :-1])
    np.testing.assert_array_equal(made.weights, made.targets > 0)


def _perfect_answers(name, examples):
    """Quality of each target as an answer."""
    task = seqio.TaskRegistry.get(name)
    texts = [_text(example, features.TARGETS) for example in examples]
    targets, answers = (
        [
            task.postprocess_fn(text, example=example, is_target=is_target)
            for text, example in zip(texts, examples, strict=True)
        ]
        for is_target in (True, False)
    )
    return quality.per_example_quality(task.metric_fns, targets, answers)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_TASK)
def test_real_rows(data_folder, name):
    sources.set_data_dir(data_folder)
    task = seqio.TaskRegistry.get(name)
    is_there = getattr(task.source, "is_available", lambda split: True)
    splits = [split for split in task.splits if is_there(split)]
    if not splits:
        pytest.skip("no rows in the data folder")
    for split in splits:
        if (name, split) in NO_ROWS:
            with pytest.raises(ValueError, match="of which none is in"):
                _dataset(name, split)
            continue
        examples = list(_dataset(name, split).take(REAL_EXAMPLES).as_numpy_iterator())
        _check(name, examples)
        if name not in NOT_MEASURED and catalog.card_of(name).kind != "language_modeling":
            np.testing.assert_allclose(_perfect_answers(name, examples), 1.0, rtol=1e-9)
