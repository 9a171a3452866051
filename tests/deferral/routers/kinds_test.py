"""Learned routers: what they learn, what they must not be judged on, and their files."""

import dataclasses
import hashlib
import json
import math
import pickle

import numpy as np
import pytest

from cascade_jax.deferral import routers, scores
from cascade_jax.deferral.routers import fitted as fitted_router
from cascade_jax.deferral.routers.fingerprints import fingerprint
from cascade_jax.evaluation import curves
from tests.benchmarks import scores as made
from tests.support.ragged import answers_of

KINDS = (
    routers.LogisticRouter(),
    routers.MlpRouter(max_epochs=60),
    routers.BoostedRouter(trees=30),
    routers.EdgeRouter(),
)
NAMES = [router.name for router in KINDS]
CALIBRATION = made.spiky(2000, seed=1)
JUDGED = made.spiky(3000, seed=2)


@pytest.fixture(scope="module")
def fitted():
    return {router.name: router.fit(*CALIBRATION, "calibration") for router in KINDS}


@pytest.mark.parametrize("name", NAMES)
def test_a_router_finds_what_the_mean_does_not_show(fitted, name):
    """Issue 6's margin: area 0.1 above that of the average, which is no better than chance."""
    average = made.area(scores.Average(), JUDGED)
    random = curves.random_area(*map(np.mean, JUDGED[1:]))
    assert abs(average - random) < 0.01
    assert made.area(fitted[name], JUDGED) > average + 0.1
    best = max(made.area(score, JUDGED) for score in scores.available(JUDGED[0]))
    assert made.area(fitted[name], JUDGED) > best + 0.01


def test_the_sum_is_worse_than_the_average_where_length_says_nothing():
    examples = made.length_biased(3000, seed=3)
    average, summed = (made.area(score, examples) for score in (scores.Average(), scores.Sum()))
    assert average > summed + 0.03
    # Its first tenth to be deferred is the longest answers, right or wrong.
    first = np.argsort(-scores.Sum()(examples[0]))[:300]
    lengths = examples[0].lengths
    assert np.mean(lengths[first]) > 2 * np.mean(lengths)
    first = np.argsort(-scores.Average()(examples[0]))[:300]
    assert np.mean(lengths[first]) < 1.2 * np.mean(lengths)


@pytest.mark.parametrize("target", ["student_wrong", "teacher_gain"])
@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_the_expected_loss_or_gain(name, target):
    """Graded qualities that depend on one number of the answer, in a way that is known."""
    rng = np.random.default_rng(0)
    level = rng.integers(0, 2, 1500)
    answers = answers_of([[-0.2 - 2.0 * is_bad] * 3 for is_bad in level])
    student = np.where(level == 1, 0.3, 0.8) + rng.uniform(-0.1, 0.1, 1500)
    teacher = np.full(1500, 0.6)
    router = dataclasses.replace(dict(zip(NAMES, KINDS, strict=True))[name], target=target)
    score = router.fit(answers, student, teacher, "train")(answers)
    expected = (0.7, 0.2) if target == "student_wrong" else (0.3, -0.2)
    actual = score[level == 1].mean(), score[level == 0].mean()
    np.testing.assert_allclose(actual, expected, atol=0.05)


def test_a_gain_is_learned_where_the_error_is_none():
    """Long answers are wrong in both models: deferring them is in vain."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 11, 2000)
    answers = answers_of([[-0.5] * n for n in lengths])
    student = (rng.random(2000) > np.where(lengths > 5, 0.9, 0.5)).astype(float)
    teacher = (rng.random(2000) > np.where(lengths > 5, 0.9, 0.1)).astype(float)
    by_target = {
        target: routers.LogisticRouter(target, lengths=True).fit(answers, student, teacher, "dev")
        for target in ("student_wrong", "teacher_gain")
    }
    wrong, gain = (by_target[target](answers) for target in ("student_wrong", "teacher_gain"))
    is_long = lengths > 5
    assert wrong[is_long].mean() > wrong[~is_long].mean()
    assert gain[is_long].mean() < gain[~is_long].mean()


@pytest.mark.parametrize("name", NAMES)
def test_a_router_comes_back_from_its_file(fitted, name, tmp_path):
    router = fitted[name]
    path = tmp_path / "runs" / "router.npz"
    router.save(path)
    read = routers.Saved(str(path))
    np.testing.assert_array_equal(read(JUDGED[0]), router(JUDGED[0]))
    for field in dataclasses.fields(router):
        if field.name not in ("model", "seen"):
            assert getattr(read.router, field.name) == getattr(router, field.name)
    np.testing.assert_array_equal(read.router.seen, router.seen)
    assert read.name == name and repr(read) == f"Saved(path={str(path)!r})"
    assert "2000 examples of 'calibration'" in repr(read.router)
    assert router.library.startswith("scikit-learn ")
    assert [p.name for p in path.parent.iterdir()] == ["router.npz"]


def test_many_rows_are_scored_in_blocks(fitted, monkeypatch):
    for router in fitted.values():
        whole = router(JUDGED[0])
        monkeypatch.setattr(fitted_router, "_BLOCK", 1000)
        np.testing.assert_allclose(router(JUDGED[0]), whole, rtol=1e-5, atol=1e-6)
        monkeypatch.undo()


def test_longer_answers_than_were_seen_are_read(fitted):
    answers = answers_of([[-0.5] * 3000, [-0.5] * 45])
    score = fitted["EdgeInference router"](answers)
    assert score[0] == pytest.approx(score[1], abs=1e-6)


def test_embeddings_are_used_and_their_size_is_checked(tmp_path):
    answers, student, teacher = made.length_biased(1000, seed=4)
    evaluated = np.stack([student, np.zeros(1000)], axis=1).astype(np.float32)
    answers = dataclasses.replace(answers, embeddings=evaluated)
    router = routers.LogisticRouter(embeddings=True).fit(answers, student, teacher, "dev")
    without = routers.LogisticRouter().fit(answers, student, teacher, "dev")
    examples = answers, student, teacher
    assert made.area(router, examples) > made.area(without, examples) + 0.04
    router.save(tmp_path / "r.npz")
    read = routers.load(tmp_path / "r.npz")
    with pytest.raises(ValueError, match="fitted on embeddings of 2 values .* embeddings of 5"):
        read(dataclasses.replace(answers, embeddings=np.zeros((1000, 5), np.float32)))
    with pytest.raises(ValueError, match="student_embedding, which is not there"):
        read(dataclasses.replace(answers, embeddings=None))


def test_a_router_for_other_features_is_refused(fitted, tmp_path):
    path = tmp_path / "r.npz"
    fitted["logistic router"].save(path)
    assert routers.load(path, routers.QuantileFeatures()).name == "logistic router"
    with pytest.raises(ValueError, match=r"was fitted for QuantileFeatures\(.*, not for Quantile"):
        routers.load(path, routers.QuantileFeatures((0.0, 0.5)))


def rewritten(path, change):
    """The router's file with a change to its arrays or its text."""
    with np.load(path) as file:
        arrays = dict(file.items())
    del arrays["digest"]  # as files of before
    about = json.loads(str(arrays["about"]))
    change(about, arrays)
    np.savez(path, **{**arrays, "about": np.array(json.dumps(about))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda about, _: about.update(format=3),
            "of format 3, this program reads 1 and 2; fit it again",
        ),
        (
            lambda about, _: about["features"].update(quantiles=[0.0, 1.0]),
            "its arrays read 14 features, QuantileFeatures.* give 2$",
        ),
        (
            lambda about, _: about["features"].update(kind="x"),
            "the kind of features is 'x'; must be one of",
        ),
        (lambda about, _: about.pop("split"), "field 'split' is missing"),
        (
            lambda about, _: about.update(model=["linear"]),
            r'model must be a text, got \["linear"\]',
        ),
        (lambda about, _: about.update(model="line"), "model is 'line'; must be one of linear, "),
        (lambda about, _: about.update(num_examples=0), "num_examples must be a whole number >= 1"),
        (
            lambda about, _: about.update(target="gain"),
            "target is 'gain'; must be one of teacher_g",
        ),
        (
            lambda _, arrays: arrays.update({"model/weights": np.zeros(13)}),
            r"array 'weights' has the shape \[13\], must be \[14\]",
        ),
        (
            lambda _, arrays: arrays.update({"model/bias": np.array("a")}),
            r"array 'bias' is <U1 \[\]; must be floats \[\]",
        ),
        (
            lambda _, arrays: arrays.update({"model/weights": np.full(14, np.nan)}),
            "array 'weights' holds numbers that are not finite",
        ),
        (
            lambda _, arrays: arrays.update({"model/scale": np.zeros(14)}),
            "array 'scale' holds a deviation that is not above 0",
        ),
        (lambda _, arrays: arrays.update(seen=np.zeros(3)), "array 'seen' is float64 .3.; must be"),
        (
            lambda _, arrays: arrays.update(seen=np.arange(3, dtype=np.uint64)),
            "array 'seen' has 3 hashes of ids",
        ),
        (
            lambda _, arrays: arrays.pop("model/weights"),
            "its model: array 'weights' is missing; it holds",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(fitted, tmp_path, change, message):
    path = tmp_path / "r.npz"
    fitted["logistic router"].save(path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        routers.load(path)


def test_an_edited_file_is_refused(fitted, tmp_path):
    path = tmp_path / "r.npz"
    fitted["logistic router"].save(path)
    with np.load(path) as file:
        arrays = dict(file.items())
    np.savez(path, **(arrays | {"model/bias": arrays["model/bias"] + 1e-9}))
    with pytest.raises(ValueError, match="r.npz: was changed after it was written"):
        routers.load(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("left", 10**6, "array 'left' holds indices outside of 0 to"),
        ("feature", 14, "array 'feature' holds indices outside of 0 to 13"),
        ("roots", -1, "array 'roots' holds indices outside of 0"),
        ("depth", 10**9, "nodes can not have depth 1000000000 and num_features 14"),
        ("value", np.inf, "array 'value' holds numbers that are not finite"),
    ],
)
def test_trees_with_nodes_that_are_not_there_are_refused(fitted, tmp_path, name, value, message):
    path = tmp_path / "r.npz"
    fitted["boosted router"].save(path)

    def change(_, arrays):
        arrays[f"model/{name}"] = np.full_like(arrays[f"model/{name}"], value)

    rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        routers.load(path)


def test_a_file_of_format_1_is_read_with_its_hashes(fitted, tmp_path):
    path, ids = tmp_path / "r.npz", CALIBRATION[0].example_ids
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
    seen = np.sort(np.frombuffer(b"".join(digests), "<u8"))
    fitted["logistic router"].save(path)
    rewritten(path, lambda about, arrays: (about.update(format=1), arrays.update(seen=seen)))
    router = routers.load(path)
    np.testing.assert_array_equal(router(JUDGED[0]), fitted["logistic router"](JUDGED[0]))
    router.save(path)
    with pytest.raises(ValueError, match="1 of 2 are among the 2000 of 'calibration'"):
        routers.load(path).check_not_fitted_on("", "dev", [ids[7], "another"])


class Bomb:
    """What a pickle that runs code is made of."""

    def __reduce__(self):
        return (print, ("code of the file has run",))


def test_a_file_never_runs_code(tmp_path, capsys):
    files = {"a.npz": pickle.dumps(Bomb()), "b.npz": b"", "c.npz": b"PK\x03\x04 no zip"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    np.savez(tmp_path / "d.npz", about=np.array([Bomb()], dtype=object))
    np.savez(tmp_path / "e.npz", other=np.zeros(3))
    np.savez(tmp_path / "h.npz", about=np.array("{"), seen=np.zeros(0, np.uint64))
    np.save(tmp_path / "f.npy", np.zeros(3))
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=f"{path.name}(:| is not a file of a router)"):
            routers.load(path)
    np.savez(tmp_path / "g.npz", about=np.array("[1]"))
    with pytest.raises(ValueError, match="g.npz: a router's file of format None"):
        routers.load(tmp_path / "g.npz")
    assert "has run" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="none.npz: no such file of a router"):
        routers.Saved(str(tmp_path / "none.npz"))


@pytest.mark.parametrize("split", ["test", "Test", "test[:50%]", "my_test", "train+test", "tests"])
def test_a_test_split_is_refused_by_its_name(split):
    with pytest.raises(ValueError, match="never fitted on a test split, got"):
        KINDS[0].fit(*CALIBRATION, split)


@pytest.mark.parametrize("split", ["latest", "validation", "train[-500:]", "contest"])
def test_other_splits_are_taken(split):
    assert KINDS[0].fit(*CALIBRATION, split).split == split


def test_a_split_without_a_name_is_refused():
    with pytest.raises(ValueError, match="needs the name of the split"):
        KINDS[0].fit(*CALIBRATION, "")


def test_a_router_is_not_judged_on_what_it_was_fitted_on(fitted, tmp_path):
    router = fitted["logistic router"]
    router.save(tmp_path / "r.npz")
    for score in (router, routers.Saved(str(tmp_path / "r.npz"))):
        with pytest.raises(ValueError, match="fitted on these examples themselves"):
            routers.check_not_fitted_on(score, *CALIBRATION, "calibration")
        routers.check_not_fitted_on(score, *JUDGED, "calibration")
    routers.check_not_fitted_on(scores.Average(), *CALIBRATION, "calibration")
    routers.check_not_fitted_on(lambda answers: answers.lengths, *CALIBRATION, "calibration")


def test_one_example_in_both_is_found_whoever_answered_it(fitted):
    """Another small model's answers have another fingerprint, and are of the same examples."""
    answers, *qualities = JUDGED
    ids = list(answers.example_ids)
    ids[5] = CALIBRATION[0].example_ids[17]
    mixed = dataclasses.replace(answers, example_ids=ids)
    with pytest.raises(ValueError, match="1 of 3000 are among the 2000 of 'calibration'"):
        routers.check_not_fitted_on(fitted["logistic router"], mixed, *qualities, "dev")


def test_without_ids_the_name_of_the_split_has_to_do():
    answers, *qualities = CALIBRATION
    nameless = dataclasses.replace(answers, example_ids=None)
    router = KINDS[0].fit(nameless, *qualities, "dev")
    router.check_not_fitted_on("another", "test")
    with pytest.raises(ValueError, match="or others of the split 'dev'; without their ids none"):
        router.check_not_fitted_on("another", "dev")
    with pytest.raises(ValueError, match="themselves"):
        router.check_not_fitted_on(fingerprint(nameless, *qualities), "test")


def test_cross_validated_scores_are_of_examples_not_seen():
    """On labels without any sense a router knows its own examples by heart, and no others."""
    rng = np.random.default_rng(0)
    answers = made.spiky(600, seed=5)[0]
    student, teacher = rng.integers(0, 2, (2, 600)).astype(float)
    router = routers.BoostedRouter(min_leaf=2, max_depth=6, l2=1e-6, trees=50)
    seen = router.fit(answers, student, teacher, "dev")
    random = curves.random_area(np.mean(student), np.mean(teacher))

    def area(values) -> float:
        return curves.area(curves.deferral_curve(values, student, teacher, 1.0, 1.0))

    assert area(seen(answers)) > random + 0.15
    assert abs(area(router.cross_validated(answers, student, teacher)) - random) < 0.04


def test_examples_of_one_input_are_in_one_fold():
    """Each stands twice with labels without any sense: apart, a router would know half of them."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(200), 2)
    answers = made.spiky(200, seed=5)[0].take(rows)
    student, teacher = rng.integers(0, 2, (2, 200)).astype(float)[:, rows]
    router = routers.BoostedRouter(min_leaf=2, max_depth=6, l2=1e-6, trees=20)
    random = curves.random_area(np.mean(student), np.mean(teacher))

    def area(inputs) -> float:
        values = router.cross_validated(answers, student, teacher, 3, inputs=inputs)
        return curves.area(curves.deferral_curve(values, student, teacher, 1.0, 1.0))

    assert area(None) > random + 0.05
    assert abs(area(rows) - random) < 0.05
    with pytest.raises(
        ValueError, match=r"folds must lie in \[2, 2\], the number of different inp"
    ):
        router.cross_validated(answers, student, teacher, 3, inputs=rows % 2)


def test_fitting_twice_gives_the_same(fitted):
    for router in KINDS:
        again = router.fit(*CALIBRATION, "dev")
        np.testing.assert_array_equal(again(JUDGED[0]), fitted[router.name](JUDGED[0]))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("student_wrong", "nothing to learn from 2 examples: all small answers are of one quality"),
        ("teacher_gain", "nothing to learn from 2 examples: all gains by deferring are of one"),
    ],
)
def test_one_kind_of_example_is_nothing_to_learn_from(target, message):
    answers = answers_of([[-1.0], [-2.0]])
    with pytest.raises(ValueError, match=message):
        routers.LogisticRouter(target).fit(answers, np.ones(2), np.ones(2), "dev")


def test_qualities_that_do_not_fit_are_refused():
    answers = answers_of([[-1.0], [-2.0]], ["a", "b"])
    with pytest.raises(ValueError, match=r"example 'b' \(row 1\) has the student quality 1.5"):
        KINDS[0].fit(answers, np.array([0.0, 1.5]), np.ones(2), "dev")
    with pytest.raises(ValueError, match=r"folds must lie in \[2, 2\]"):
        KINDS[0].cross_validated(answers, np.array([0.0, 1.0]), np.ones(2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: routers.LogisticRouter("teacher_gian"), "did you mean 'teacher_gain'?"),
        (lambda: routers.LogisticRouter(l2=0.0), "l2 is 0.*; must be a number above 0"),
        (lambda: routers.LogisticRouter(quantiles=(2.0,)), "quantiles must rise within"),
        (lambda: routers.MlpRouter(hidden=()), r"hidden is \(\); must be widths of layers"),
        (lambda: routers.MlpRouter(max_epochs=0), "max_epochs is 0; must be an integer of at"),
        (lambda: routers.BoostedRouter(trees=0), "trees is 0; must be an integer of at least 1"),
        (lambda: routers.MlpRouter(hidden=(8, 10**9)), "a width of hidden is 1000000000; must be"),
        (lambda: routers.MlpRouter(seed=-1), "seed is -1; must be an integer of at least 0"),
        (lambda: routers.BoostedRouter(trees=10**9), "trees is .* at least 1 and at most 10000"),
        (lambda: routers.BoostedRouter(learning_rate=1e9), "learning_rate is .* at most 1"),
        (lambda: routers.BoostedRouter(l2=math.nan), "l2 is nan; must be a number of at least 0"),
        (lambda: routers.EdgeRouter(length=0), "length is 0; must be an integer of at least 1"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
