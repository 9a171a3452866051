"""Bad options, bad arrays, bad labels and batches without a counted token, for both loss heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from cascade_jax.losses import fused, schedules, teachers, variants
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.unembedding import Unembedding
from tests.support import cases

TOKENS, FEATURES, VOCAB = (2, 3), 4, 5
VARIANTS = (
    "Xent", "Dist", "CATXent", "CATXentL", "CATXentS", "CATDist", "CATDistL", "CATDistS",
    "Gatekeeper",
)  # fmt: skip


def arrays(seed=0, vocab=VOCAB, tokens=TOKENS):
    """(student hidden states and map, teacher hidden states and map, labels, ones)."""
    a, b, c, d = jax.random.split(jax.random.key(seed), 4)
    hidden, theirs = (jax.random.normal(key, (*tokens, FEATURES)) for key in (a, b))
    ours_map, their_map = (Unembedding(jax.random.normal(key, (FEATURES, vocab))) for key in (c, d))
    return hidden, ours_map, theirs, their_map, jnp.zeros(tokens, jnp.int32), jnp.ones(tokens)


def plain_head(loss, hidden, ours, theirs, their_map, targets, weights):
    return loss(ours.logits(hidden), their_map.logits(theirs), targets, weights)


def fused_head(loss, hidden, ours, theirs, their_map, targets, weights):
    facts = teachers.TeacherHidden(theirs, their_map)
    return fused.loss_sums(loss, hidden, ours, facts, targets, weights, chunk_tokens=4)


HEADS = {"plain": plain_head, "fused": fused_head}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "options, message",
    [
        (dict(normalizer="batch"), r"normalizer is 'batch'; must be one of tokens, kept"),
        (dict(label_smoothing=1.0), r"label_smoothing 1.0 is not in \[0.0, 1.0\)"),
        (dict(label_smoothing=-0.1), r"label_smoothing -0.1 is not in \[0.0, 1.0"),
        (dict(z_loss=-1e-4), r"z_loss -0.0001 is not in \[0.0, inf\)"),
        (dict(z_loss=float("nan")), r"z_loss nan is not in \[0.0, inf\)"),
    ],
)
def test_bad_options_of_every_variant_are_refused_with_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(variants, name)(**options)


@pytest.mark.parametrize("name", ["Dist", "CATDist", "CATDistL", "CATDistS"])
@pytest.mark.parametrize(
    "options, message",
    [
        (dict(label_weight=1.5), r"label_weight 1.5 is not in \[0.0, 1.0\]"),
        (dict(label_weight="0.5"), r"label_weight '0.5' is not in \[0.0, 1.0\]"),
        (dict(label_weight=True), r"label_weight True is not in \[0.0, 1.0\]"),
        (dict(temperature=0.0), r"temperature 0.0 is not in \(0.0, inf\)"),
        (dict(temperature=-1.0), r"temperature -1.0 is not in \(0.0, inf\)"),
        (dict(temperature=float("inf")), r"temperature inf is not in \(0.0, inf\)"),
        (dict(divergence="kl"), r"'kl'; must be one of cross_entropy, forward_kl, reverse_kl"),
        (dict(beta=0.0), r"beta 0.0 is not in \(0, 1\).*'forward_kl'.*'reverse_kl'"),
        (dict(beta=1.0), r"beta 1.0 is not in \(0, 1\)"),
    ],
)
def test_bad_options_of_distillation_are_refused_with_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(variants, name)(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(correct_weight=-0.1), r"correct_weight -0.1 is not in \[0.0, 1.0\]"),
        (dict(direction="up"), r"direction is 'up'; must be one of to_uniform, from_uniform"),
        (dict(labels="student"), r"labels is 'student'; must be one of data, teacher"),
    ],
)
def test_bad_options_of_the_gatekeeper_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        variants.Gatekeeper(**options)


def test_a_schedule_with_one_value_out_of_range_is_refused():
    schedule = schedules.PiecewiseLinear((0, 10), (0.5, 1.1))
    with pytest.raises(ValueError, match=r"label_weight PiecewiseLinear.*is not in \[0.0, 1.0\]"):
        variants.Dist(label_weight=schedule)
    with pytest.raises(ValueError, match=r"correct_weight .*is not in \[0.0, 1.0\]"):
        variants.Gatekeeper(correct_weight=schedule)
    schedule = schedules.PiecewiseLinear((0, 10), (1.0, 0.0))
    with pytest.raises(ValueError, match=r"temperature .*is not in \(0.0, inf\)"):
        variants.Dist(temperature=schedule)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(targets=jnp.zeros((2, 4), jnp.int32)), r"targets have shape \(2, 4\).*\(2, 3\)"),
        (dict(weights=jnp.ones(3)), r"weights have shape \(3,\).*\(2, 3\)"),
        (dict(targets=jnp.zeros(TOKENS)), "targets have dtype float32; must be an integer type"),
        (dict(weights=jnp.ones(TOKENS, int)), "weights have dtype int32; must be a floating type"),
        (dict(theirs=jnp.ones((2, 4, 4))), r"teacher's tokens have shape \(2, 4\).*\(2, 3\)"),
        (
            dict(their_map=Unembedding(jnp.ones((FEATURES, 7)))),
            "the student has 5 tokens and the teacher 7",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_both_named(head, change, message):
    names = ("hidden", "ours", "theirs", "their_map", "targets", "weights")
    arguments = dict(zip(names, arrays(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        HEADS[head](variants.CATDist(), **arguments)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_hidden_states_that_do_not_fit_their_output_matrix_are_refused(whose):
    hidden, ours, theirs, their_map, targets, weights = arrays()
    if whose == "student":
        hidden = hidden[..., :3]
    else:
        theirs = theirs[..., :3]
    message = rf"the {whose}'s hidden states have shape \(2, 3, 3\).*\(4, 5\).*must be 4"
    with pytest.raises(ValueError, match=message):
        fused_head(variants.CATDist(), hidden, ours, theirs, their_map, targets, weights)


@pytest.mark.parametrize("chunk", [0, -5, 1.5])
def test_chunks_without_tokens_are_refused(chunk):
    hidden, ours, _, _, targets, weights = arrays()
    with pytest.raises(ValueError, match=f"chunk_tokens is {chunk}; must be an integer of at"):
        fused.loss_sums(variants.Xent(), hidden, ours, None, targets, weights, chunk_tokens=chunk)


TOP = teachers.TeacherTopK(jnp.full((*TOKENS, 2), -1.0), jnp.zeros((*TOKENS, 2), jnp.int32))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "facts, message",
    [
        (TOP.replace(ids=TOP.ids[..., :1]), r"log_probs \(2, 3, 2\) and ids \(2, 3, 1\)"),
        (
            teachers.TeacherTopK(jnp.zeros((*TOKENS, 6)), jnp.zeros((*TOKENS, 6), jnp.int32)),
            "teacher's k is 6; must be 1 to 5, the vocabulary",
        ),
        (
            teachers.TeacherTopK(jnp.zeros((*TOKENS, 0)), jnp.zeros((*TOKENS, 0), jnp.int32)),
            "teacher's k is 0; must be 1 to 5",
        ),
        (jax.tree.map(lambda x: x[:1], TOP), r"teacher's tokens have shape \(1, 3\).*\(2, 3\)"),
        (TOP.replace(ids=TOP.ids.astype(float)), "ids.*float32.*integer"),
        (
            teachers.TeacherArgmax(jnp.ones(TOKENS, bool)),
            "CATDist needs the teacher's distribution",
        ),
        (None, "CATDist needs the teacher's distribution, and got None"),
    ],
)
def test_facts_of_a_teacher_that_do_not_fit_are_refused(head, facts, message):
    hidden, ours, _, _, targets, weights = arrays()
    loss = variants.CATDist()
    with pytest.raises(ValueError, match=message):
        if head == "plain":
            loss(ours.logits(hidden), facts, targets, weights)
        else:
            fused.loss_sums(loss, hidden, ours, facts, targets, weights)


@pytest.mark.parametrize(
    "loss, need",
    [
        (variants.CATXent(), "correctness"),
        (variants.CATXentL(), "correctness"),
        (variants.CATDist(label_weight=1.0), "correctness"),
        (variants.Dist(), "distribution"),
        (variants.CATDistS(), "distribution"),
        (variants.Gatekeeper(labels="teacher"), "most likely token"),
    ],
)
def test_a_variant_that_needs_a_teacher_says_what_of_it(loss, need):
    hidden, ours, theirs, their_map, targets, weights = arrays()
    student = ours.logits(hidden)
    with pytest.raises(ValueError, match=f"needs the teacher's {need}, and got None"):
        loss(student, None, targets, weights)
    argmax = teachers.TeacherArgmax(jnp.ones(TOKENS, bool))
    if need == "correctness":
        assert np.isfinite(loss(student, argmax, targets, weights).loss_sum)
    else:
        with pytest.raises(ValueError, match=f"needs the teacher's {need}, and TeacherArgmax only"):
            loss(student, argmax, targets, weights)


@pytest.mark.parametrize("loss", [variants.Xent(), variants.CATXentS(), variants.Gatekeeper()])
def test_a_variant_that_needs_no_teacher_takes_none(loss):
    hidden, ours, _, _, targets, weights = arrays()
    assert loss(ours.logits(hidden), None, targets, weights).loss_sum >= 0
    assert fused.loss_sums(loss, hidden, ours, None, targets, weights).loss_sum >= 0


@pytest.mark.parametrize("head", HEADS)
def test_counted_labels_outside_the_vocabulary_are_counted_and_the_first_is_named(head):
    *models, targets, weights = arrays()
    targets = targets.at[0, 2].set(5).at[1, 0].set(-1).at[0, 0].set(99)
    weights = weights.at[0, 0].set(0)  # padding may hold anything
    message = r"2 counted targets are outside the vocabulary of 5 tokens; the first is 5 at .*0, 2"
    with pytest.raises(ValueError, match=message):
        HEADS[head](variants.CATDist(), *models, targets, weights)


@pytest.mark.parametrize("head", HEADS)
def test_negative_weights_are_counted_and_the_first_is_named(head):
    *models, targets, weights = arrays()
    weights = weights.at[0, 2].set(-0.5).at[1, 1].set(-2)
    message = r"2 weights are negative; the first is -0.5 at index \(0, 2\); allowed"
    with pytest.raises(ValueError, match=message):
        HEADS[head](variants.Xent(), *models, targets, weights)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "teacher, message",
    [
        ((jnp.ones((*TOKENS, VOCAB)),), "the teacher is of type tuple; must be logits or one of"),
        ([1.0, 2.0], "the teacher is of type list"),
        (jnp.ones(()), "the teacher's logits are a scalar"),
        (3.0, "the teacher's logits are a scalar"),
        (jnp.ones((*TOKENS, VOCAB), jnp.int32), "the teacher's logits have dtype int32"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(head, teacher, message):
    hidden, ours, _, _, targets, weights = arrays()
    for loss in (variants.CATDist(), variants.Xent()):
        if head == "plain":
            with pytest.raises(ValueError, match=message):
                loss(ours.logits(hidden), teacher, targets, weights)
        else:  # it takes no logits at all
            with pytest.raises(ValueError, match="of type|takes the teacher as TeacherHidden"):
                fused.loss_sums(loss, hidden, ours, teacher, targets, weights)


@pytest.mark.parametrize("whose", ["student", "teacher"])
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(bias=jnp.zeros(4)), r"bias has shape \(4,\); must be \(5,\) for the kernel"),
        (dict(vocab_size=6), "vocab_size is 6; must be from 1 to"),
        (dict(kernel=jnp.zeros((1, 4, 5))), r"kernel has shape \(1, 4, 5\); it must have two"),
    ],
)
def test_an_output_map_that_does_not_fit_itself_is_refused(whose, change, message):
    hidden, ours, theirs, their_map, targets, weights = arrays()
    if whose == "student":
        ours = ours.replace(**change)
    else:
        their_map = their_map.replace(**change)
        student, facts = ours.logits(hidden), teachers.TeacherHidden(theirs, their_map)
        with pytest.raises(ValueError, match="TeacherHidden|" + message):
            variants.CATDist()(student, facts, targets, weights)
    with pytest.raises(ValueError, match=message):
        fused_head(variants.CATDist(), hidden, ours, theirs, their_map, targets, weights)


@pytest.mark.parametrize("head", HEADS)
def test_padding_columns_are_outside_the_vocabulary(head):
    hidden, ours, theirs, their_map, targets, weights = arrays()
    ours, their_map = ours.replace(vocab_size=4), their_map.replace(vocab_size=4)
    with pytest.raises(ValueError, match="1 counted targets are outside the vocabulary of 4"):
        HEADS[head](
            variants.CATDist(), hidden, ours, theirs, their_map, targets.at[1, 1].set(4), weights
        )


@pytest.mark.medium
@pytest.mark.parametrize(
    "head, target",
    [
        pytest.param(head, target, marks=[] if (i + j) % 2 else pytest.mark.slow)
        for i, head in enumerate(HEADS)
        for j, target in enumerate((-1, VOCAB))
    ],
)
def test_inside_jit_a_counted_label_outside_the_vocabulary_makes_the_loss_nan(head, target):
    *models, targets, weights = arrays()

    @jax.jit
    def run(targets, weights):
        return {
            case: HEADS[head](cases.build(case), *models, targets, weights).loss_sum
            for case in cases.CASES
        }

    bad = targets.at[1, 2].set(target)
    silent = [case for case, result in run(bad, weights).items() if not np.isnan(result)]
    assert not silent
    uncounted = run(bad, weights.at[1, 2].set(0))
    assert all(np.isfinite(result) for result in uncounted.values())


@pytest.mark.parametrize(
    "head, normalizer",
    [
        pytest.param(head, normalizer, marks=[] if (i + j) % 2 else pytest.mark.slow)
        for i, head in enumerate(HEADS)
        for j, normalizer in enumerate(variants.NORMALIZERS)
    ],
)
def test_without_a_counted_token_loss_and_gradient_are_zero(head, normalizer):
    hidden, ours, theirs, their_map, targets, weights = arrays()
    options = dict(normalizer=normalizer, z_loss=0.1, label_smoothing=0.1)

    @jax.jit
    def run(hidden):
        def mean(hidden, loss):
            sums = HEADS[head](
                loss, hidden, ours, theirs * jnp.nan, their_map, targets, weights * 0
            )
            return sums.loss_sum / jnp.maximum(sums.count, 1), sums

        return [
            jax.value_and_grad(mean, has_aux=True)(hidden, getattr(variants, name)(**options))
            for name in VARIANTS
        ]

    for name, ((mean, sums), gradient) in zip(VARIANTS, run(hidden), strict=True):
        assert mean == sums.loss_sum == sums.count == 0, name
        assert np.isfinite(gradient).all() and not gradient.any(), name
        for metric, ratio in sums.metrics.items():  # the denominator says that nothing was counted
            assert ratio.value() == ratio.numerator == ratio.denominator == 0, (name, metric)


def test_when_alpha_keeps_nothing_the_mean_over_the_kept_is_zero():
    hidden, ours, theirs, their_map, _, weights = arrays()
    both = ours.logits(hidden) + their_map.logits(theirs)
    targets = jnp.argmin(both, -1).astype(jnp.int32)
    for head in HEADS.values():
        sums = head(
            variants.CATDist(normalizer="kept"), hidden, ours, theirs, their_map, targets, weights
        )
        assert sums.count == sums.metrics["loss"].value() == 0
        assert sums.metrics["kept"].denominator == 6


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_no_rows_is_like_one_of_padding(head):
    hidden, ours, theirs, their_map, targets, weights = arrays()
    sums = HEADS[head](
        variants.CATDist(), hidden[:0], ours, theirs[:0], their_map, targets[:0], weights[:0]
    )
    assert sums.loss_sum == sums.count == 0


def test_numpy_arrays_serve_as_well():
    hidden, ours, theirs, their_map, targets, weights = arrays()
    facts = teachers.TeacherHidden(np.asarray(theirs), their_map)
    expected = fused_head(variants.CATDist(), *arrays()).loss_sum
    actual = fused.loss_sums(
        variants.CATDist(),
        np.asarray(hidden),
        ours,
        facts,
        np.asarray(targets),
        np.asarray(weights),
    )
    assert actual.loss_sum == expected


MESH = MeshConfig(4, 1, 2)


@pytest.mark.parametrize("axes", [dict(data="batch"), dict(tensor="batch")])
def test_an_axis_that_the_mesh_does_not_have_is_refused_when_built(axes):
    with pytest.raises(ValueError, match=r"'batch'; must be one of .*data, fsdp, tensor"):
        fused.Layout(MESH.build(), **axes)


def test_a_layout_of_one_axis_twice_is_refused_when_built():
    with pytest.raises(ValueError, match="tensor 'data' is among data"):
        fused.Layout(MESH.build(), "data", "data")


def test_a_mesh_with_explicit_axes_is_refused_when_built():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Explicit,) * 2)
    with pytest.raises(ValueError, match="axes of types .*Explicit.*; all must be Auto"):
        fused.Layout(mesh, "data")


@pytest.mark.parametrize("rows, vocab, numbers", [(3, 6, (3, 4)), (4, 5, (5, 2))])
def test_rows_or_columns_that_the_mesh_does_not_divide_are_refused_in_a_line(rows, vocab, numbers):
    hidden, ours, _, _, targets, weights = arrays(vocab=vocab, tokens=(rows, 3))
    layout = fused.Layout(MESH.build())
    with pytest.raises(ValueError) as refused:
        fused.loss_sums(variants.Xent(), hidden, ours, None, targets, weights, layout=layout)
    message = str(refused.value)
    assert len(message) < 300 and all(str(number) in message for number in numbers)
