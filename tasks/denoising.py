"""Preprocessors for plain text: span corruption and prefix-LM.

Both work on token ids: texts are tokenised, DOCUMENTS_AT_ONCE of them at a time put end to end, and
cut into chunks that just fill the input length. In training every chunk is corrupted anew each time
around, by seqio's seed; in evaluation by its place in the split, so always in the same way.

Reference: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified
Text-to-Text Transformer", sections 3.1.4 and 3.3.4 (span corruption), 3.3.1 (prefix-LM).
"""

import math
from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from cascade_jax.data.features import INPUTS, TARGETS

NOISE_DENSITY = 0.15  # Raffel et al., section 3.1.4
MEAN_SPAN_LENGTH = 3.0  # section 3.3.4
INPUT_LENGTH = 512  # section 3.1.2
TARGET_LENGTH = 114  # what 512 positions of input come to
DOCUMENTS_AT_ONCE = 128
SHORTEST_CHUNK = 2  # one token to ask with, one to ask for

Row = Mapping[str, tf.Tensor]
Features = Mapping[str, seqio.Feature]
Lengths = Mapping[str, int] | None


def span_counts(
    tokens: int, noise_density: float = NOISE_DENSITY, mean_span_length: float = MEAN_SPAN_LENGTH
) -> tuple[int, int]:
    """How many tokens of a chunk are taken out, and in how many spans.

    noise = round(tokens * density), spans = round(noise / mean length), halves up; at least one of
    each, and every span has a kept token before it.

    Example: of 568 tokens, 85 in 28 spans; so the input has 568 - 85 + 28 + 1 = 512 ids and the
    target 85 + 28 + 1 = 114.
    """
    noise = min(max(math.floor(tokens * noise_density + 0.5), 1), tokens - 1)
    spans = max(math.floor(noise / mean_span_length + 0.5), 1)
    return noise, min(spans, noise, tokens - noise)


def chunk_length(
    input_length: int,
    target_length: int,
    noise_density: float = NOISE_DENSITY,
    mean_span_length: float = MEAN_SPAN_LENGTH,
) -> int:
    """The most tokens of which neither input nor target, EOS included, is cut.

    Example: lengths 512 and 114 give 568.

    Raises:
      ValueError: lengths that hold no chunk, or a share or span length that cannot be.
    """
    if not 0.0 < noise_density < 1.0:
        raise ValueError(f"noise_density is {noise_density}; must be between 0 and 1")
    if mean_span_length < 1.0:
        raise ValueError(f"mean_span_length is {mean_span_length}; must be at least 1")

    def fits(tokens: int) -> bool:
        noise, spans = span_counts(tokens, noise_density, mean_span_length)
        return tokens - noise + spans < input_length and noise + spans < target_length

    if not fits(SHORTEST_CHUNK):
        raise ValueError(
            f"input_length {input_length} and target_length {target_length} are too short for span "
            "corruption; must be at least 3 each (a token or a sentinel for one, the other, EOS)"
        )
    tokens = SHORTEST_CHUNK
    while fits(tokens + 1):
        tokens += 1
    return tokens


def span_corruption(
    dataset: tf.data.Dataset,
    output_features: Features,
    sequence_length: Lengths = None,
    noise_density: float = NOISE_DENSITY,
    mean_span_length: float = MEAN_SPAN_LENGTH,
) -> tf.data.Dataset:
    """seqio preprocessor: spans of text are taken out, and asked for.

    Rows have "text" and the flag "is_training"; they become ids of "inputs" and "targets", both
    ending in EOS. Each span's place is held by a sentinel, the same one that stands before the span
    in the target. There is none after the last span, as in T5's code (the paper's figure 2 has
    one). Spans and what is between them have random lengths, every division into that many parts
    being as likely.

    Example, with the words for their ids and <0>, <1> for the last two ids of the vocabulary: of
    "Thank you for inviting me to your party last week", with "for inviting" and "week" taken out,
    the input is "Thank you <0> me to your party last <1>", the target "<0> for inviting <1> week".

    Args:
      dataset: the texts.
      output_features: from seqio; the vocabulary must have enough sentinels ("byte+100", see
        `data/vocabulary/load.py`).
      sequence_length: from seqio; INPUT_LENGTH and TARGET_LENGTH if None.
      noise_density: share of the tokens to take out.
      mean_span_length: tokens in a span, on average.

    Raises:
      ValueError: too few sentinels (how many it takes), or lengths that hold nothing.
    """
    lengths = sequence_length or {INPUTS: INPUT_LENGTH, TARGETS: TARGET_LENGTH}
    noise = (noise_density, mean_span_length)
    size = chunk_length(lengths[INPUTS], lengths[TARGETS], *noise)
    vocabulary = output_features[TARGETS].vocabulary
    counts = [(0, 0)] * SHORTEST_CHUNK
    counts += [span_counts(tokens, *noise) for tokens in range(SHORTEST_CHUNK, size + 1)]
    most = max(spans for _, spans in counts)
    if vocabulary.extra_ids < most:
        raise ValueError(
            f"span corruption of {size} tokens takes {most} sentinel ids, the vocabulary has "
            f"{vocabulary.extra_ids}: name it with '+{max(most, 100)}' behind, as in 'byte+100'"
        )
    first_sentinel = vocabulary.vocab_size - 1

    def corrupt(tokens: tf.Tensor, seeds: tf.Tensor) -> Row:
        taken, spans = tf.unstack(tf.gather(tf.constant(counts), tf.size(tokens)))
        mask = _noise_mask(tf.size(tokens), taken, spans, seeds)
        inputs, targets = without_spans(tokens, mask, first_sentinel)
        return {INPUTS: inputs, TARGETS: targets}

    return _corrupted(dataset, output_features, size, corrupt)


def prefix_lm(
    dataset: tf.data.Dataset, output_features: Features, sequence_length: Lengths = None
) -> tf.data.Dataset:
    """seqio preprocessor: the input is the start of a text, the target its continuation.

    Rows have "text" and the flag "is_training"; they become ids of "inputs" and "targets", both
    ending in EOS. All points inside a chunk are as likely to be where it is divided, so a chunk is
    no longer than the shorter of the two lengths.

    Example: "Thank you for inviting me" divided after "you" becomes "Thank you" and "for inviting
    me".

    Args:
      dataset: the texts.
      output_features: from seqio.
      sequence_length: from seqio; INPUT_LENGTH for both if None.
    """
    lengths = sequence_length or {INPUTS: INPUT_LENGTH, TARGETS: INPUT_LENGTH}
    size = min(lengths[INPUTS], lengths[TARGETS])

    def divide(tokens: tf.Tensor, seeds: tf.Tensor) -> Row:
        point = tf.random.stateless_uniform([], seeds[0], 1, tf.size(tokens), tf.int32)
        return {INPUTS: tokens[:point], TARGETS: tokens[point:]}

    return _corrupted(dataset, output_features, size, divide)


def without_spans(
    tokens: tf.Tensor, mask: tf.Tensor, first_sentinel: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Tokens with a sentinel for each span of the mask, and the spans, each after its sentinel.

    Example: [5, 6, 7, 8] with [False, True, True, False] and 99 give [5, 99, 8] and [99, 6, 7].

    Args:
      tokens, mask: of one length.
      first_sentinel: id of the first span's sentinel; the next one has the id below, and so on.
    """
    starts = mask & ~tf.concat([[False], mask[:-1]], 0)
    sentinels = first_sentinel + 1 - tf.cumsum(tf.cast(starts, tf.int32))
    inputs = tf.boolean_mask(tf.where(starts, sentinels, tokens), starts | ~mask)
    both = tf.stack([sentinels, tokens], 1)  # [length, 2]: what a place may put into the target
    return inputs, tf.boolean_mask(both, tf.stack([starts, mask], 1))


def _noise_mask(size: tf.Tensor, taken: tf.Tensor, spans: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Which tokens to take out: kept and taken parts in turn, a kept one first."""
    kept_parts = _random_parts(size - taken, spans, seeds[0])
    taken_parts = _random_parts(taken, spans, seeds[1])
    parts = tf.reshape(tf.stack([kept_parts, taken_parts], 1), [-1])
    return tf.repeat(tf.range(2 * spans) % 2 == 1, parts)


def _random_parts(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Lengths of 1 or more that add up to the total, all such lists being as likely."""
    # A list of lengths is a choice of parts - 1 among the total - 1 places between two things.
    order = tf.argsort(tf.random.stateless_uniform([total - 1], seed))
    cuts = tf.sort(order[: parts - 1]) + 1
    edges = tf.concat([[0], cuts, [total]], 0)
    return edges[1:] - edges[:-1]


def _corrupted(
    dataset: tf.data.Dataset,
    output_features: Features,
    size: int,
    corrupt: Callable[[tf.Tensor, tf.Tensor], Row],
) -> tf.data.Dataset:
    """The texts in chunks of `size` tokens, through corrupt(tokens, two seeds), each with EOS."""

    def corrupted(index: tf.Tensor, chunk: Row, seeds: tuple) -> Row:
        fixed = tf.stack([[index, 0], [index, 1]])
        chosen = tf.where(chunk["is_training"], tf.convert_to_tensor(seeds), fixed)
        features = corrupt(chunk["tokens"], chosen)
        return {
            name: tf.concat([ids, [output_features[name].vocabulary.eos_id]], 0)
            for name, ids in features.items()
        }

    chunks = _chunks(dataset, output_features[TARGETS].vocabulary, size).enumerate()
    pairs = chunks.map(lambda index, chunk: {"index": index, "chunk": chunk})
    by_row = seqio.map_over_dataset(
        lambda row, seeds: corrupted(row["index"], row["chunk"], seeds), num_seeds=2
    )
    return by_row(pairs)


def _chunks(dataset: tf.data.Dataset, vocabulary: seqio.Vocabulary, size: int) -> tf.data.Dataset:
    """Token ids of the texts end to end, `size` at a time; what is left of a group is a chunk too.

    Example with groups of two texts and size 4: [1 2 3], [4 5 6], [7 8] give [1 2 3 4], [5 6] and
    [7 8].
    """

    def tokenized(row: Row) -> Row:
        return {"tokens": vocabulary.encode_tf(row["text"]), "is_training": row["is_training"]}

    def cut(group: Row) -> tf.data.Dataset:
        pieces = tf.data.Dataset.from_tensor_slices(group["tokens"].flat_values).batch(size)
        return pieces.map(lambda ids: {"tokens": ids, "is_training": group["is_training"][0]})

    tokens = dataset.map(tokenized, num_parallel_calls=tf.data.AUTOTUNE)
    chunks = tokens.ragged_batch(DOCUMENTS_AT_ONCE).flat_map(cut)
    return chunks.filter(lambda chunk: tf.size(chunk["tokens"]) >= SHORTEST_CHUNK)
