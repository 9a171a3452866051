"""The fused head on one device: against the plain head and the float64 oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.losses import teachers
from cascade_jax.unembedding import Unembedding
from tests.support import cases, oracle
from tests.support.loss_heads import compare, fused_head, plain_head, value_and_gradients

pytestmark = pytest.mark.medium

FEW = ("cat_dist_kept", "gatekeeper_from_teacher")
TOP_K_CASES = [
    *FEW, "dist_w.3_t.5_all", "dist_jsd_t1.5", "dist_forward_t3", "dist_reverse_t2", "cat_xent",
    "gatekeeper_teacher",
]  # fmt: skip


@functools.partial(jax.jit, static_argnames=("head", "names", "chunk"))
def run(head, names, trained, rest, top=None, right=None, chunk=None):
    """What each case finds with each kind of teacher that is given, compiled as one program."""
    theirs, their_map, targets, weights = rest
    options = {} if chunk is None else dict(chunk_tokens=chunk)
    result = {}
    for case in names:
        kinds = {"hidden": teachers.TeacherHidden(theirs, their_map)}
        kinds |= {"top_k": top} if top is not None and case in TOP_K_CASES else {}
        kinds |= {"argmax": right} if right is not None and case in cases.ARGMAX_CASES else {}
        if cases.build(case).teacher_need == "nothing" and top is not None:
            kinds["none"] = None
        for kind, facts in kinds.items():
            result[case, kind] = value_and_gradients(
                head, case, trained, facts, targets, weights, **options
            )
    return result


def everything(problem, head=fused_head, chunk=13):
    """All cases with all kinds of teacher; the same program for all problems of these shapes."""
    return run(
        head, tuple(cases.CASES), *problem.arrays, problem.top_k(), problem.argmax(),
        chunk=chunk if head is fused_head else None,
    )  # fmt: skip


@pytest.mark.slow  # both heads are compared with the oracle: below, and in variants_test.py
def test_every_variant_is_the_plain_head():
    problem = cases.Problem.draw()
    actual, expected = everything(problem), everything(problem, plain_head)
    assert len(actual) > 40 and actual.keys() == expected.keys()
    for key in actual:
        compare(actual[key], expected[key], str(key))


def float64(problem, case, kind):
    """The oracle's sums, and its gradients for hidden states and map by the chain rule in NumPy."""
    head, tokens = problem.ours, problem.targets.size
    hidden = np.asarray(problem.hidden.astype(head.dtype), np.float64).reshape(tokens, -1)
    kernel = np.asarray(head.kernel.astype(head.dtype), np.float64)
    flat = lambda x: np.asarray(x).reshape(tokens, *x.shape[2:])  # noqa: E731
    student = flat(cases.logits(head, problem.hidden))
    facts = {
        "hidden": lambda: oracle.Logits(flat(cases.logits(problem.their_map, problem.theirs))),
        "top_k": lambda: oracle.TopK(*(flat(x) for x in jax.tree.leaves(problem.top_k()))),
        "argmax": lambda: oracle.Argmax(flat(problem.argmax().is_correct)),
        "none": lambda: None,
    }[kind]()
    sums = oracle.sums(
        *cases.CASES[case], student, facts, flat(problem.targets), flat(problem.weights)
    )
    g = np.pad(sums.gradient, ((0, 0), (0, head.columns - head.num_ids)))
    if head.soft_cap is not None:
        g[:, : head.num_ids] *= 1 - (student / head.soft_cap) ** 2
    kernel = kernel.T if head.tied else kernel
    d_kernel = head.scale * hidden.T @ g
    bounds = head.scale * np.abs(g) @ np.abs(kernel.T), head.scale * np.abs(hidden.T) @ np.abs(g)
    d_kernel, bound = (x.T if head.tied else x for x in (d_kernel, bounds[1]))
    d_hidden = (head.scale * g @ kernel.T).reshape(problem.hidden.shape)
    return sums, (d_hidden, d_kernel, g.sum(0)), (bounds[0].reshape(d_hidden.shape), bound)


def test_every_variant_is_the_float64_oracle():
    problem = cases.Problem.draw(seed=1)
    for (case, kind), (sums, (d_hidden, d_head)) in everything(problem).items():
        expected, gradients, _ = float64(problem, case, kind)
        what = f"{case}, teacher by {kind}"
        assert sums.loss_sum == pytest.approx(expected.loss_sum, rel=2e-6), what
        assert sums.count == pytest.approx(expected.count, rel=1e-6), what
        for name, (above, below) in expected.metrics.items():
            ratio = sums.metrics[name]
            assert ratio.numerator == pytest.approx(above, rel=1e-5, abs=1e-5), (what, name)
            assert ratio.denominator == pytest.approx(below, rel=1e-6), (what, name)
        for a, b in zip((d_hidden, d_head.kernel, d_head.bias), gradients, strict=True):
            scale = np.abs(b).max()
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale, err_msg=what)


def test_in_bfloat16_it_is_the_plain_head_to_the_rounding_of_bfloat16():
    ours = dict(bias=True, vocab_size=cases.Problem.VOCAB, dtype="bfloat16", scale=0.5)
    theirs = dict(tied=True, vocab_size=cases.Problem.VOCAB, dtype="bfloat16")
    problem = cases.Problem.draw(2, ours, theirs, "bfloat16")
    # One case of each formula: what they differ in besides is of float32.
    names = "xent_smoothing_z", "dist_reverse_t2", "dist_jsd_t1.5", "cat_dist_kept", "gatekeeper"
    actual = run(fused_head, names, *problem.arrays, chunk=13)
    plain = run(plain_head, names, *problem.arrays)
    for (case, kind), (sums, (d_hidden, d_head)) in actual.items():
        expected, (e_hidden, e_kernel, e_bias), (b_hidden, b_kernel) = float64(problem, case, kind)
        # The products' operands are the same numbers: logits and loss are those of float32.
        assert sums.loss_sum == pytest.approx(expected.loss_sum, rel=3e-6), case
        np.testing.assert_allclose(d_head.bias, e_bias, rtol=0, atol=2e-5 * np.abs(e_bias).max())
        # Rounding the logits' gradient changes a summand by at most 2^-8 of it. The gradient of the
        # hidden states is rounded once more in the end.
        assert d_hidden.dtype == jnp.bfloat16 and d_head.kernel.dtype == jnp.float32
        for a, plains, b, bound in (
            (d_hidden, plain[case, kind][1][0], e_hidden, 2 * b_hidden),
            (d_head.kernel, plain[case, kind][1][1].kernel, e_kernel, b_kernel),
        ):
            tolerance = 2.0**-8 * bound + 1e-5 * bound.max()
            assert (np.abs(np.asarray(a, np.float64) - b) <= tolerance).all(), case
            apart = np.abs(np.asarray(a, np.float64) - np.asarray(plains, np.float64))
            assert (apart <= 2 * tolerance).all(), case


@pytest.mark.parametrize("chunk", [7, 1001])
def test_sums_are_float32_whatever_the_dtype_of_the_product(chunk):
    # p is 1/2 each and the summands 1/2 exactly; bfloat16 has no 500.5.
    tokens = 1001
    head = Unembedding(jnp.zeros((1, 2)), bias=jnp.zeros(2), dtype="bfloat16")
    trained = jnp.ones((tokens, 1), jnp.bfloat16), head
    targets, weights = jnp.zeros(tokens, jnp.int32), jnp.ones(tokens, jnp.bfloat16)
    run_once = jax.jit(
        functools.partial(value_and_gradients, fused_head, "xent", chunk_tokens=chunk)
    )
    sums, (_, d_head) = run_once(trained, None, targets, weights)
    assert sums.loss_sum == pytest.approx(tokens * np.log(2), rel=1e-6) and sums.count == tokens
    assert d_head.kernel.tolist() == [[-500.5, 500.5]] and d_head.bias.tolist() == [-500.5, 500.5]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_size_of_the_chunks_does_not_matter(chunk):
    problem = cases.Problem.draw(seed=3)
    actual = run(fused_head, FEW, *problem.arrays, chunk=chunk)
    expected = everything(problem, plain_head)
    for key in actual:
        compare(actual[key], expected[key], f"{key} {chunk}")


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf])
def test_padded_hidden_states_change_nothing_and_get_exactly_no_gradient(rubbish):
    problem = cases.Problem.draw(seed=4)
    problem.weights = problem.weights.at[2, 1:].set(0)
    clean = everything(problem)
    padding = np.asarray(problem.weights) == 0
    # Chunks of 12: the last one takes in padding.
    assert (~padding).sum() % 12 and padding.any()
    top, right = problem.top_k(), problem.argmax()
    mask = padding[..., None]
    spoilt = jnp.where(mask, rubbish, problem.hidden), problem.ours
    rest = (
        jnp.where(mask, rubbish, problem.theirs),
        problem.their_map,
        jnp.where(padding, -1, problem.targets),
        problem.weights,
    )
    top = teachers.TeacherTopK(
        jnp.where(mask, rubbish, top.log_probs), jnp.where(mask, 99, top.ids)
    )
    result = run(fused_head, tuple(cases.CASES), spoilt, rest, top, right, chunk=13)
    for key, (sums, (d_hidden, d_head)) in result.items():
        jax.tree.map(np.testing.assert_array_equal, (sums, (d_hidden, d_head)), clean[key])
        assert not np.asarray(d_hidden)[padding].any(), key
        assert np.asarray(d_hidden)[~padding].any(), key


def test_padding_columns_get_no_probability_and_exactly_no_gradient():
    problem = cases.Problem.draw(seed=5)
    result = everything(problem)
    # Whatever the padding columns hold, of either model.
    size = cases.Problem.VOCAB
    ours = problem.ours.replace(
        kernel=problem.ours.kernel.at[:, size:].set(50), bias=problem.ours.bias.at[size:].set(1e6)
    )
    their_map = problem.their_map.replace(kernel=problem.their_map.kernel.at[size:].set(-70))
    other = cases.Problem(
        problem.hidden, ours, problem.theirs, their_map, problem.targets, problem.weights
    )
    for key, (sums, (d_hidden, d_head)) in everything(other).items():
        assert not np.asarray(d_head.kernel)[:, size:].any(), key
        assert not np.asarray(d_head.bias)[size:].any(), key
        jax.tree.map(np.testing.assert_array_equal, (sums, (d_hidden, d_head)), result[key])


def test_a_batch_of_padding_gives_zeros():
    problem = cases.Problem.draw(seed=6)
    problem.weights = problem.weights * 0
    for key, result in everything(problem).items():
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(result)), key


def test_the_sums_of_four_unequal_microbatches_are_those_of_one_batch():
    problem = cases.Problem.draw(seed=7)
    problem.weights = problem.weights.at[3].set(0).at[1, 2:].set(0)  # one part is all padding
    whole = run(fused_head, FEW, *problem.arrays, chunk=13)
    parts = []
    for rows in (slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 8)):
        (hidden, ours), (theirs, their_map, targets, weights) = problem.arrays
        rest = theirs[rows], their_map, targets[rows], weights[rows]
        parts.append(run(fused_head, FEW, (hidden[rows], ours), rest, chunk=13))
    for key in whole:
        sums = jax.tree.map(lambda *x: sum(x), *(part[key][0] for part in parts))
        d_hidden = jnp.concatenate([part[key][1][0] for part in parts])
        d_head = jax.tree.map(lambda *x: sum(x), *(part[key][1][1] for part in parts))
        compare((sums, (d_hidden, d_head)), whole[key], str(key))


MAPS = {
    "bare": {},
    "tied_and_scaled": dict(tied=True, scale=0.25),
    "capped": dict(soft_cap=3.0),
    "all": dict(tied=True, scale=0.7, bias=True, soft_cap=5.0, vocab_size=47),
}


@pytest.mark.parametrize("name", MAPS)
def test_every_kind_of_output_map(name):
    # Without a vocab_size the padding columns of the other model set the vocabulary.
    size = dict(vocab_size=MAPS[name].get("vocab_size", cases.Problem.COLUMNS))
    problem = cases.Problem.draw(8, MAPS[name] | size, dict(bias=True, soft_cap=6.0) | size)
    actual = run(fused_head, ("cat_dist_kept",), *problem.arrays, chunk=13)
    plain = run(plain_head, ("cat_dist_kept",), *problem.arrays)
    compare(actual["cat_dist_kept", "hidden"], plain["cat_dist_kept", "hidden"])
    expected = float64(problem, "cat_dist_kept", "hidden")[0]
    assert actual["cat_dist_kept", "hidden"][0].loss_sum == pytest.approx(
        expected.loss_sum, rel=2e-6
    )


def loss_of(problem, case="cat_dist_kept"):
    """The loss sum as a function of all that it depends on."""

    def loss_sum(hidden, ours, theirs, their_map):
        facts = teachers.TeacherHidden(theirs, their_map)
        sums = fused_head(
            case, hidden, ours, facts, problem.targets, problem.weights, chunk_tokens=13
        )
        return sums.loss_sum

    return loss_sum, (problem.hidden, problem.ours, problem.theirs, problem.their_map)


# Of two programs, which XLA may fuse and so round in different ways.
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def test_what_is_frozen_changes_no_other_gradient():
    loss_sum, arguments = loss_of(cases.Problem.draw(seed=9))
    both = jax.jit(jax.grad(loss_sum, (0, 1)))(*arguments)
    for i in (0, 1):
        alone = jax.jit(jax.grad(loss_sum, i))(*arguments)
        jax.tree.map(assert_close, alone, both[i])
    kernel_only = jax.jit(
        jax.grad(lambda kernel: loss_sum(
            arguments[0], arguments[1].replace(kernel=kernel), *arguments[2:]))
    )(arguments[1].kernel)  # fmt: skip
    assert_close(kernel_only, both[1].kernel)


def test_the_teacher_gets_exactly_no_gradient():
    problem = cases.Problem.draw(seed=9)
    loss_sum, arguments = loss_of(problem)
    gradients = jax.jit(jax.grad(loss_sum, (2, 3)))(*arguments)
    assert jax.tree.structure(gradients) == jax.tree.structure(arguments[2:])
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))
    top = problem.top_k()

    def by_log_probs(log_probs):
        facts = top.replace(log_probs=log_probs)
        return fused_head(
            "dist", problem.hidden, problem.ours, facts, problem.targets, problem.weights
        ).loss_sum

    assert not np.asarray(jax.jit(jax.grad(by_log_probs))(top.log_probs)).any()


def test_a_function_of_the_loss_has_its_gradient_by_the_chain_rule():
    loss_sum, arguments = loss_of(cases.Problem.draw(seed=10))
    direct = jax.jit(jax.grad(loss_sum, (0, 1)))(*arguments)
    squared = jax.jit(jax.grad(lambda *x: -3 * loss_sum(*x) ** 2, (0, 1)))(*arguments)
    factor = -6 * loss_sum(*arguments)
    for a, b in zip(jax.tree.leaves(squared), jax.tree.leaves(direct), strict=True):
        np.testing.assert_allclose(a, factor * b, rtol=1e-5, atol=1e-5 * np.abs(factor * b).max())


def test_metrics_and_count_are_constants():
    problem = cases.Problem.draw(seed=10)

    def metric(hidden):
        facts = teachers.TeacherHidden(problem.theirs, problem.their_map)
        sums = fused_head(
            "cat_dist_kept", hidden, problem.ours, facts, problem.targets, problem.weights
        )
        return sums.count + sums.metrics["cross_entropy"].numerator

    assert not np.asarray(jax.grad(metric)(problem.hidden)).any()
