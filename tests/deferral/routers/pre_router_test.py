"""Pre-routers: their three classes, the score that they make with another, files and refusals."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cascade_jax.deferral import routers, scores
from cascade_jax.deferral.routers import arrays, fitting, pre_router
from cascade_jax.deferral.routers.arrays import AT_ONCE, BY_SCORE, SMALL
from cascade_jax.deferral.scores.base import UnknownCost
from cascade_jax.deferral.scores.hidden_states import HiddenStates
from tests.support.ragged import answers_of

PRE_ROUTER = routers.PreRouter("student_wrong", l2=(1.0, 10.0))


def made(n=600, seed=0, noise=0.0):
    """Answers, qualities and classes; the state after layer 4 says the class, that after 1 nothing.

    The small model is unsure of the easy, which it has right, and of the hard, which it has wrong.
    """
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=[0.25, 0.5, 0.25])
    states = rng.normal(size=(n, 2, 4)).astype(np.float32)
    states[:, 1, :3] += (1 - noise) * 8 * np.eye(3, dtype=np.float32)[kind]
    log_probs = np.where(kind == BY_SCORE, -0.1, -2.0) - 0.05 * rng.random(n)
    student = np.select([kind == SMALL, kind == AT_ONCE], [1.0, 0.0], rng.random(n) < 0.8)
    flops = np.stack([np.full(n, 5.0), 10.0 + np.arange(n)], axis=1)
    hidden = HiddenStates(input=states, layers=(1, 4), input_flops=flops, model="a")
    answers = answers_of([[x] for x in log_probs], [f"{seed}/{i}" for i in range(n)], np.float64)
    answers = dataclasses.replace(answers, states_fn=lambda: hidden)
    return answers, student, np.ones(n), kind


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("routers") / "p.npz"
    PRE_ROUTER.fit(*made()[:3], "validation").save(path)
    return str(path)


def test_inputs_go_where_their_state_says(file):
    routed, (answers, *_, kind) = routers.PreRouted(file), made(seed=1)
    assert routed.router.features == routers.StateFeatures("input", 4, "a")
    assert np.mean(routed.routes(answers) == kind) > 0.99
    # Of pure noise next to nothing is sent anywhere: no class but the normal is likely enough.
    noise = PRE_ROUTER.fit(*made(noise=1.0)[:3], "validation")
    routes = noise.model.routes(noise.predict(made(seed=1, noise=1.0)[0]))
    assert np.mean(routes == BY_SCORE) > 0.95


def test_a_threshold_of_the_score_decides_of_normal_inputs_alone(file):
    routed, (answers, *_) = routers.PreRouted(file), made(seed=1)
    average, routes, score = scores.Average()(answers), routed.routes(answers), routed(answers)
    for threshold in (0.0, 0.12, 3.0):
        expected = np.select(
            [routes == SMALL, routes == AT_ONCE], [False, True], average > threshold
        )
        np.testing.assert_array_equal(score > threshold, expected)
    np.testing.assert_array_equal(score[routes == BY_SCORE], average[routes == BY_SCORE])
    assert np.isfinite(score.astype(np.float32)).all()
    chances = routed.router.predict(answers)
    for route, sign in ((SMALL, -1), (AT_ONCE, 1)):
        rows = np.flatnonzero(routes == route)
        order = np.argsort(sign * score[rows])
        assert np.all(np.diff(chances[rows[order], route]) >= 0)  # the surest are outermost
    joined = pre_router.joined(chances[:1], np.array([3.0]), 0.999999999)
    assert joined.tolist() == [3.0]
    with pytest.raises(ValueError, match="can't join the score nan of row 1"):
        pre_router.joined(chances[:2], np.array([0.0, np.nan]), 0.5)


def test_classes_are_those_of_the_table():
    """A score that is high for half of the answers, and both targets."""
    answers = answers_of([[-1.0], [-2.0], [-3.0], [-4.0], [-5.0], [-6.0]])
    student, teacher = np.array([1, 0, 0, 1, 0, 0.5]), np.array([1, 1, 1, 1, 0, 1.0])
    expected = {
        "student_wrong": [BY_SCORE] * 3 + [SMALL, AT_ONCE, SMALL],
        "teacher_gain": [BY_SCORE] * 3 + [SMALL, SMALL, AT_ONCE],
    }
    for target, classes in expected.items():
        assert routers.PreRouter(target)._targets(answers, student, teacher).tolist() == classes
    few = routers.PreRouter(unsure=0.2)._targets(answers, student, teacher)
    assert few.tolist() == [BY_SCORE] * 5 + [AT_ONCE]


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 2), (1, 2)])
def test_chances_are_scikit_learns(classes):
    rng = np.random.default_rng(0)
    rows, labels = (
        rng.normal(size=(90, 5)) * 3 + 1,
        np.array(classes)[rng.integers(len(classes), size=90)],
    )
    model = fitting.three_way(rows, labels, 2.0, 0.5)
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    theirs = LogisticRegression(C=0.5, max_iter=1000).fit(scaled, labels)
    np.testing.assert_allclose(
        model(rows)[:, list(classes)], theirs.predict_proba(scaled), atol=1e-9
    )
    np.testing.assert_allclose(model(rows).sum(axis=1), 1.0)
    assert np.delete(model(rows), classes, axis=1).max(initial=0.0) < 1e-9


def test_what_it_spends(file):
    """Nothing itself; of what is sent on at once the reading of the input up to its layer."""
    routed, (answers, *_) = routers.PreRouted(file), made(seed=1)
    routes, early = routed.routes(answers), routed.early_flops(answers)
    np.testing.assert_array_equal(np.isnan(early), routes != AT_ONCE)
    rows = np.flatnonzero(routes == AT_ONCE)
    np.testing.assert_array_equal(early[rows], 10.0 + rows)
    assert routed.own_flops(answers).tolist() == [0.0] * 600

    @dataclasses.dataclass(frozen=True)
    class Expensive(scores.Average):
        def own_flops(self, answers):
            return np.full(answers.num_examples, 7.0)

    paid = routers.PreRouted(file, Expensive()).own_flops(answers)
    np.testing.assert_array_equal(paid, 7.0 * (routes == BY_SCORE))
    states = dataclasses.replace(answers.states, input_flops=None)
    unknown = dataclasses.replace(answers, states_fn=lambda: states)
    with pytest.raises(
        UnknownCost, match=r"no column student_input_state_flops; .*States\(\)\] ad"
    ):
        routed.early_flops(unknown)


def test_a_file_is_bound_as_what_it_is(file, tmp_path):
    answers = made(seed=1)[0]
    again = routers.PreRouted(file)
    np.testing.assert_array_equal(again(answers), routers.PreRouted(file)(answers))
    assert again.name == "pre-router, average"
    assert repr(again) == f"PreRouted(path={file!r}, score=Average())"
    fitted = PRE_ROUTER.fit(*made()[:3], "validation")
    np.testing.assert_array_equal(again.router.predict(answers), fitted.predict(answers))
    with pytest.raises(
        ValueError, match=r"p.npz holds a pre-router: bind it as @routers.PreRouted"
    ):
        routers.Saved(file)
    with pytest.raises(ValueError, match="a pre-router is no score by itself"):
        fitted(answers)
    routers.StateRouter(state="input").fit(*made()[:3], "validation").save(tmp_path / "r.npz")
    with pytest.raises(
        ValueError, match=r"holds a input state router: bind it as @routers.Saved\("
    ):
        routers.PreRouted(str(tmp_path / "r.npz"))


def test_it_is_not_judged_on_what_it_or_its_score_was_fitted_on(file, tmp_path):
    with pytest.raises(ValueError, match="pre-router was fitted on these examples themselves"):
        routers.check_not_fitted_on(routers.PreRouted(file), *made()[:3], "dev")
    other = made(seed=3)[:3]
    routers.LogisticRouter().fit(*other, "more").save(tmp_path / "l.npz")
    routed = routers.PreRouted(file, routers.Saved(str(tmp_path / "l.npz")))
    with pytest.raises(ValueError, match="logistic router was fitted on these examples themselves"):
        routers.check_not_fitted_on(routed, *other, "dev")
    routers.check_not_fitted_on(routed, *made(seed=1)[:3], "dev")


def test_cross_validated_scores_defer_the_hard_first():
    answers, student, teacher, kind = made(300)
    score = PRE_ROUTER.cross_validated(answers, student, teacher, folds=3)
    assert score[kind == AT_ONCE].min() > score[kind == BY_SCORE].max()
    assert score[kind == SMALL].max() < score[kind == BY_SCORE].min()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state": "answer"}, "state is 'answer'; must be 'input': no other is there"),
        ({"unsure": 1.0}, "unsure is 1.0; must be above 0 and below 1"),
        ({"least_chance": 0.4}, "least_chance is 0.4; must be at least 0.5 and below 1"),
        ({"l2": ()}, r"l2 is \(\); must be a list of numbers above 0"),
    ],
)
def test_settings_that_are_not_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        routers.PreRouter(**settings)


def test_examples_of_one_class_are_refused():
    answers, student, teacher, _ = made(20)
    equal = dataclasses.replace(answers, log_probs=np.full(20, -1.0))
    with pytest.raises(ValueError, match=r"one class: {'easy': 0, 'normal': 20, 'hard': 0}"):
        PRE_ROUTER.fit(equal, student, teacher, "validation")


def test_arrays_that_do_not_fit_are_refused(file):
    stored = routers.PreRouted(file).router.model.arrays()
    for name, value, message in (
        ("weights", np.zeros((4, 2)), r"'weights' has the shape \[4, 2\], must be \[4, 3\]"),
        ("bias", np.full(3, np.nan), "'bias' holds numbers that are not finite"),
        ("least_chance", np.array(0.2), r"least_chance is 0.2; must be in \[0.5, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            arrays.ThreeWay.from_arrays(stored | {name: value})
