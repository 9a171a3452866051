"""Span corruption and prefix-LM: T5's numbers, the text put back, a brute force, chance."""

import itertools
from collections import Counter

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cascade_jax.data import features
from tasks import denoising

SENTINELS = 100
VOCABULARY = seqio.ByteVocabulary(extra_ids=SENTINELS)  # sentinels are 258 + 100, 258 + 99, ...
LAST_ID = 358
EOS = 1


def texts(*, training=False, sizes=(900, 1, 0, 40, 700)):
    rng = np.random.default_rng(7)
    rows = ["".join(rng.choice(list("abcdefgh "), size)) for size in sizes]
    rows = tf.data.Dataset.from_tensor_slices({"text": rows})
    return rows.map(lambda row: row | {"is_training": tf.constant(training)})


def examples(step, rows, lengths=None, seed=None, vocabulary=VOCABULARY):
    with seqio.map_seed_manager(seed):
        made = step(rows, features.output_features(vocabulary), lengths)
    return [(row["inputs"].tolist(), row["targets"].tolist()) for row in made.as_numpy_iterator()]


def put_back(inputs, targets):
    """The tokens that an input and a target were made of, written with lists alone."""
    assert inputs.pop() == EOS and targets.pop() == EOS
    spans, sentinel = {}, None
    for token in targets:
        if token > LAST_ID - SENTINELS:
            sentinel = token
            assert sentinel not in spans
            spans[sentinel] = []
        else:
            spans[sentinel].append(token)
    assert list(spans) == list(range(LAST_ID, LAST_ID - len(spans), -1))
    assert [token for token in inputs if token in spans] == list(spans)
    return [kept for token in inputs for kept in spans.get(token, [token])], spans


# ---- how much is taken out


def test_the_counts_are_those_of_t5():
    # 512 ids of input and 114 of target are the lengths of T5's public pretraining.
    assert denoising.chunk_length(512, 114) == denoising.chunk_length(512, 10_000) == 568
    assert denoising.span_counts(568) == (85, 28)
    # Raffel et al. 2020, section 3.3.4: of 500 tokens, 75 in 25 spans of 3.
    assert denoising.span_counts(500) == (75, 25)


@pytest.mark.parametrize("noise", [(0.15, 3.0), (0.5, 2.0), (0.1, 10.0), (0.9, 1.0)])
def test_a_chunk_just_fills_the_lengths(noise):
    for lengths in [(32, 16), (64, 64), (200, 9), (3, 3)]:
        size = denoising.chunk_length(*lengths, *noise)
        used = []
        for tokens in range(2, size + 2):
            taken, spans = denoising.span_counts(tokens, *noise)
            assert 1 <= spans <= taken <= tokens - 1 and spans <= tokens - taken
            used.append((tokens - taken + spans + 1, taken + spans + 1))
        assert all(i <= lengths[0] and t <= lengths[1] for i, t in used[:-1])
        assert used[-1][0] > lengths[0] or used[-1][1] > lengths[1]


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="input_length 512 and target_length 2 are too short"):
        denoising.chunk_length(512, 2)
    with pytest.raises(ValueError, match="noise_density is 1.5; must be between 0 and 1"):
        denoising.chunk_length(512, 114, noise_density=1.5)
    with pytest.raises(ValueError, match="mean_span_length is 0.5; must be at least 1"):
        denoising.chunk_length(512, 114, mean_span_length=0.5)


# ---- which tokens


@pytest.mark.parametrize("lengths", [None, {"inputs": 64, "targets": 40}])
@pytest.mark.parametrize("training", [False, True])
def test_input_and_target_give_the_text_back(lengths, training):
    rows = texts(training=training)
    # 1,641 letters end to end; no separator stands between two texts.
    text = b"".join(row["text"] for row in rows.as_numpy_iterator())
    result = []
    longest = (512, 114) if lengths is None else (64, 40)
    size = denoising.chunk_length(*longest)
    made = examples(denoising.span_corruption, rows, lengths, seed=3)
    for inputs, targets in made:
        assert len(inputs) <= longest[0] and len(targets) <= longest[1]
        tokens, spans = put_back(inputs, targets)
        taken, count = denoising.span_counts(len(tokens))
        assert len(spans) == count and sum(map(len, spans.values())) == taken
        assert all(spans.values()) and len(tokens) <= size
        result += tokens
    assert bytes(token - 3 for token in result) == text
    assert len(made) == -(-len(text) // size)


def test_spans_are_taken_out_as_a_brute_force_does():
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = rng.integers(1, 12)
        tokens, mask = rng.integers(3, 50, size), rng.random(size) < 0.4
        inputs, targets, sentinel = [], [], 100
        for i in range(size):
            if not mask[i]:
                inputs.append(tokens[i])
                continue
            if i == 0 or not mask[i - 1]:
                sentinel -= 1
                inputs.append(sentinel)
                targets.append(sentinel)
            targets.append(tokens[i])
        ours = denoising.without_spans(
            tf.constant(tokens, tf.int32), tf.constant(mask), first_sentinel=99
        )
        assert [list(ids.numpy()) for ids in ours] == [inputs, targets]


def test_all_divisions_into_spans_are_as_likely():
    # 12 tokens of which 6 are taken out in 2 spans of mean length 3: (1, 5), (2, 4), ... (5, 1) for
    # those taken and for those kept.
    rows = texts(training=True, sizes=(12 * 1500,))
    noise = {"noise_density": 0.5, "mean_span_length": 3.0}
    size = denoising.chunk_length(9, 9, *noise.values())
    assert denoising.span_counts(size, *noise.values()) == (6, 2) and size == 12

    def step(*arguments):
        return denoising.span_corruption(*arguments, **noise)

    result = Counter()
    for inputs, targets in examples(step, rows, {"inputs": 9, "targets": 9}, seed=1):
        _, spans = put_back(inputs, targets)
        kept = inputs.index(LAST_ID)
        result[kept, len(spans[LAST_ID])] += 1
    divisions = list(itertools.product(range(1, 6), repeat=2))
    assert set(result) == set(divisions)
    counts = np.array([result[division] for division in divisions])
    chi_square = ((counts - 1500 / 25) ** 2 / (1500 / 25)).sum()
    assert chi_square < 51.2  # 24 degrees of freedom: one in a thousand is above


# ---- prefix-LM


def test_prefix_and_continuation_are_the_text():
    rows = texts(sizes=(600, 30, 401))
    text = b"".join(row["text"] for row in rows.as_numpy_iterator())
    result = []
    for inputs, targets in examples(denoising.prefix_lm, rows, {"inputs": 48, "targets": 32}):
        assert inputs[-1] == targets[-1] == EOS and min(len(inputs), len(targets)) > 1
        assert len(inputs) + len(targets) - 2 <= 32
        result += inputs[:-1] + targets[:-1]
    assert bytes(token - 3 for token in result) == text[: len(result)]
    assert len(result) == len(text) - (len(text) % 32 == 1)  # one token alone can't be divided


def test_a_chunk_is_divided_anywhere():
    rows = texts(training=True, sizes=(8 * 700,))
    lengths = {"inputs": 8, "targets": 8}
    points = Counter(len(i) - 1 for i, _ in examples(denoising.prefix_lm, rows, lengths, seed=2))
    assert set(points) == set(range(1, 8))
    chi_square = sum((count - 100) ** 2 / 100 for count in points.values())
    assert chi_square < 22.5  # 6 degrees of freedom


# ---- randomness


@pytest.mark.medium
@pytest.mark.parametrize("step", [denoising.span_corruption, denoising.prefix_lm])
def test_evaluation_is_the_same_each_time_and_training_by_the_seed(step):
    evaluated = [examples(step, texts(), seed=seed) for seed in (None, None, 5)]
    assert evaluated[0] == evaluated[1] == evaluated[2]
    trained = [examples(step, texts(training=True), seed=seed) for seed in (5, 5, 6)]
    assert trained[0] == trained[1] != trained[2]


def test_equal_chunks_are_corrupted_in_different_ways():
    rows = tf.data.Dataset.from_tensors({"text": "a" * 568, "is_training": False}).repeat(3)
    made = examples(denoising.span_corruption, rows)
    assert len(made) == 3 and len({str(pair) for pair in made}) == 3


# ---- vocabularies


def test_too_few_sentinels_are_counted():
    message = "takes 28 sentinel ids, the vocabulary has {}: name it with '\\+100' behind"
    for sentinels in (0, 27):
        with pytest.raises(ValueError, match=message.format(sentinels)):
            vocabulary = seqio.ByteVocabulary(extra_ids=sentinels)
            examples(denoising.span_corruption, texts(), vocabulary=vocabulary)
    assert examples(
        denoising.span_corruption, texts(), vocabulary=seqio.ByteVocabulary(extra_ids=28)
    )
