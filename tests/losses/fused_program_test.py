"""What the compiled heads hold and compute: sizes of arrays and exponentials in their programs."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.losses import fused, teachers, variants
from cascade_jax.unembedding import Unembedding

pytestmark = pytest.mark.medium

# Sizes whose products do not coincide, with more tokens than either width.
TOKENS, CHUNK, WIDTH, THEIR_WIDTH, VOCAB = 96, 8, 12, 20, 131
ARRAY = re.compile(r"\b(?:pred|[suf]\d+|bf16)\[([\d,]+)\]")


def compiled_text(loss, head="fused", grads=(0, 1), every_metric=True, knows_teacher=True):
    """Optimised program of loss, metrics and gradients on one device."""
    f = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    arguments = (
        f(TOKENS, WIDTH), f(WIDTH, VOCAB), f(TOKENS, THEIR_WIDTH), f(THEIR_WIDTH, VOCAB),
        jax.ShapeDtypeStruct((TOKENS,), jnp.int32), f(TOKENS),
    )  # fmt: skip

    def loss_sum(hidden, kernel, theirs, their_kernel, targets, weights):
        ours, their_map = Unembedding(kernel), Unembedding(their_kernel)
        if head == "plain":
            teacher = their_map.logits(theirs) if knows_teacher else None
            logits = ours.logits(hidden)
            sums = loss(logits, teacher, targets, weights, every_metric=every_metric)
        else:
            teacher = teachers.TeacherHidden(theirs, their_map) if knows_teacher else None
            sums = fused.loss_sums(
                loss, hidden, ours, teacher, targets, weights, every_metric=every_metric,
                chunk_tokens=CHUNK,
            )  # fmt: skip
        return sums.loss_sum, sums.metrics

    step = jax.jit(jax.value_and_grad(loss_sum, grads, has_aux=True))
    return step.lower(*arguments).compile().as_text()


def shapes(text):
    return {tuple(map(int, result.split(","))) for result in ARRAY.findall(text)}


LOSSES = [
    variants.Xent(label_smoothing=0.1, z_loss=0.01),
    variants.CATDist(temperature=2.0, divergence="jensen_shannon"),
    variants.Gatekeeper(labels="teacher"),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_no_array_has_a_number_for_every_token_and_every_entry_of_the_vocabulary(loss):
    result = shapes(compiled_text(loss))
    assert (CHUNK, VOCAB) in result  # the expression does find the arrays of logits
    assert max(map(math.prod, result)) < TOKENS * VOCAB
    assert (TOKENS, VOCAB) in shapes(compiled_text(loss, head="plain"))


def exponentials(text):
    """Number of exponentials the program takes of a chunk of logits (loop bodies counted once)."""
    lines = [line for line in text.splitlines() if " exponential(" in line]
    result = [ARRAY.search(line) for line in lines]
    return sum(each is not None and each[1] == f"{CHUNK},{VOCAB}" for each in result)


def test_a_loss_that_needs_the_argmax_takes_no_exponential_of_the_teacher_s_logits():
    def count(loss, **options):
        return exponentials(compiled_text(loss, every_metric=False, **options))

    alone = count(variants.Xent(), knows_teacher=False)
    assert alone > 0
    for loss in (variants.CATXent(), variants.CATXentL(), variants.CATDist(label_weight=1.0)):
        assert count(loss) == alone, loss
    by_label = count(variants.Gatekeeper(), knows_teacher=False)
    assert count(variants.Gatekeeper(labels="teacher")) == by_label
    assert count(variants.Dist()) > alone  # the count does see a second softmax
    # Only the metric KL(p_L || p_S) wants them, where it is asked for.
    assert exponentials(compiled_text(variants.CATXent(), every_metric=True)) > alone


def products(text):
    """Sizes of the results of the matrix products that a program computes."""
    result = re.findall(r"= f32\[([\d,]+)\]\S* (?:dot|custom-call)\(", text)
    return {tuple(map(int, each.split(","))) for each in result}


def test_a_frozen_output_matrix_costs_nothing():
    matrix = {(WIDTH, VOCAB), (VOCAB, WIDTH)}
    loss = variants.CATDist()
    assert products(compiled_text(loss)) & matrix
    assert not products(compiled_text(loss, grads=(0,))) & matrix
    only_matrix = products(compiled_text(loss, grads=(1,)))
    assert only_matrix & matrix and not only_matrix & {(CHUNK, WIDTH), (WIDTH, CHUNK)}


def test_a_program_serves_every_amount_of_padding():
    # Padding is left out by the number of rounds of the loop, not by shapes.
    hidden = jax.random.normal(jax.random.key(0), (TOKENS, WIDTH))
    ours = Unembedding(jax.random.normal(jax.random.key(1), (WIDTH, VOCAB)))
    traced = []

    @jax.jit
    def loss_sum(weights):
        traced.append(1)
        targets = jnp.zeros(TOKENS, jnp.int32)
        return fused.loss_sums(
            variants.Xent(), hidden, ours, None, targets, weights, chunk_tokens=CHUNK
        ).loss_sum

    each = -np.asarray(jax.nn.log_softmax(ours.logits(hidden))[:, 0], np.float64)
    for counted in (0, 1, 8, 9, 95, 96):
        weights = np.random.default_rng(counted).permutation(np.arange(TOKENS) < counted)
        actual = loss_sum(jnp.asarray(weights, jnp.float32))
        assert actual == pytest.approx(each[weights].sum(), rel=1e-5)
    assert len(traced) == 1
