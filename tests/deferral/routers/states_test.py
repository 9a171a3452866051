"""Routers on hidden states: what they learn, the layer they choose, and what they refuse."""

import dataclasses
import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cascade_jax.deferral import routers
from cascade_jax.deferral.routers import states as state_routers
from cascade_jax.deferral.scores.hidden_states import HiddenStates
from tests.support.ragged import answers_of

LAYERS = (2, 5)
KINDS = (
    routers.StateRouter("student_wrong", l2=(1.0, 100.0)),
    routers.StateNetworkRouter("student_wrong", hidden=(32, 16), max_epochs=80),
)


def made(n=600, seed=0, noise=0.0, width=6, told=5, layers=LAYERS, model="2026-01-01"):
    """Answers whose error one direction of the state after the layer `told` tells, and no other."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(2, n, len(layers), width)).astype(np.float32)
    at = layers.index(told)
    # The direction is the same for every seed; the margin keeps errors apart from right answers.
    direction = np.random.default_rng(99).normal(size=width)
    direction /= np.linalg.norm(direction)
    is_wrong = rng.random(n) < 0.4
    along = states[:, :, at] @ direction
    side = np.where(is_wrong, 1.0, -1.0) * (np.abs(along) + 0.3)
    moved = (side - along)[..., None] * direction
    states[:, :, at] += (1.0 - noise) * moved
    hidden = HiddenStates(*states, layers=layers, model=model)
    ids = [f"{seed}/{i}" for i in range(n)]
    answers = answers_of([[-0.5]] * n, ids)
    answers = dataclasses.replace(answers, states_fn=lambda: hidden)
    return answers, 1.0 - is_wrong, np.ones(n)


def auroc(score, examples):
    return roc_auc_score(examples[1] == 0, score(examples[0]))


@pytest.fixture(scope="module")
def fitted():
    return [kind.fit(*made(), "validation") for kind in KINDS]


def test_errors_that_a_state_tells_are_found_in_the_layer_that_tells_them(fitted):
    judged = made(seed=1)
    for router in fitted:
        assert router.features == routers.StateFeatures("answer", 5, "2026-01-01")
        assert auroc(router, judged) > 0.99
    at_input = dataclasses.replace(KINDS[0], state="input").fit(*made(), "validation")
    assert at_input.features.state == "input" and at_input.name == "input state router"
    assert auroc(at_input, judged) > 0.99


def test_noise_tells_nothing():
    """Held-out rows hold the weights down, so that little is learned by heart."""
    for kind in KINDS:
        router = kind.fit(*made(noise=1.0), "validation")
        assert abs(auroc(router, made(2000, seed=1, noise=1.0)) - 0.5) < 0.05
    held_out = KINDS[0].cross_validated(*made(noise=1.0), folds=3)
    assert abs(roc_auc_score(made(noise=1.0)[1] == 0, held_out) - 0.5) < 0.07


def test_the_linear_router_is_scikit_learns_of_the_best_layer_and_penalty():
    """A brute force over layers and penalties, with the same rows held out."""
    answers, student, teacher = made(noise=0.6)
    labels = 1.0 - student
    is_held_out = state_routers.held_out_rows(labels, 0.2, 0)
    best, chosen = np.inf, None
    for layer, place in zip(LAYERS, range(2), strict=True):
        rows = answers.states.answer[:, place].astype(np.float64)
        for l2 in (1.0, 100.0):
            scaled = (rows - rows[~is_held_out].mean(axis=0)) / rows[~is_held_out].std(axis=0)
            model = LogisticRegression(C=1 / l2, max_iter=1000)
            model.fit(scaled[~is_held_out], labels[~is_held_out])
            chance = model.predict_proba(scaled[is_held_out])[:, 1]
            right = np.where(labels[is_held_out] == 1, chance, 1 - chance)
            if -np.mean(np.log(right)) < best:
                best, chosen = -np.mean(np.log(right)), (layer, l2, rows)
    layer, l2, rows = chosen
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    model = LogisticRegression(C=1 / l2, max_iter=1000).fit(scaled, labels)
    router = KINDS[0].fit(answers, student, teacher, "validation")
    assert router.features.layer == layer
    np.testing.assert_allclose(router(answers), model.predict_proba(scaled)[:, 1], atol=1e-6)


def test_the_network_stops_where_held_out_rows_are_best():
    """Of pure noise it keeps as few epochs as it can; of a clear state more."""
    answers, student, _ = made(300, noise=1.0)
    labels, kind = 1.0 - student, KINDS[1]
    is_held_out = state_routers.held_out_rows(labels, 0.2, 0)

    def best_epoch(examples):
        rows = examples[0].states.answer[:, 1].astype(np.float64)
        labels = 1.0 - examples[1]
        parts = [v[part] for part in (~is_held_out, is_held_out) for v in (rows, labels)]
        return next(iter(kind._held_out_losses(*parts)))

    assert best_epoch((answers, student)) < best_epoch(made(300))
    assert np.mean(labels[is_held_out]) == pytest.approx(np.mean(labels), abs=0.01)


def test_a_router_comes_back_from_its_file(fitted, tmp_path):
    answers = made(seed=1)[0]
    for router in fitted:
        router.save(tmp_path / "r.npz")
        read = routers.Saved(str(tmp_path / "r.npz"))
        np.testing.assert_array_equal(read(answers), router(answers))
        assert read.router.features == router.features and read.name == router.name


def test_rows_are_scored_one_by_one_as_together(fitted):
    answers = made(20, seed=1)[0]
    for router in fitted:
        whole = router(answers)
        np.testing.assert_allclose(router(answers.take(np.array([3, 0]))), whole[[3, 0]], rtol=1e-6)
        np.testing.assert_allclose(router(answers.part(5, 9)), whole[5:9], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(layers=(2, 6), told=6), r"state after layer 5, the records have the state after "
         r"layer 2, 6; `cascade-jax collect` .* probes.States.layers = \[5\] adds it"),
        (dict(model="2026-02-02"), "of the model of '2026-01-01', those of the records are of the "
         "model of '2026-02-02'; fit one on"),
        (dict(width=9), "fitted on states of 6 values can not read states of 9"),
    ],
)  # fmt: skip
def test_states_of_another_layer_or_model_are_refused(fitted, changes, message):
    for router in fitted:
        with pytest.raises(ValueError, match=message):
            router(made(8, **changes)[0])


def test_records_that_do_not_say_whose_states_they_are(fitted):
    """Without the time of saving the model is not compared; without layers there is one."""
    answers = made(seed=1, model="")[0]
    np.testing.assert_array_equal(fitted[0](answers), fitted[0](made(seed=1)[0]))
    one = HiddenStates(answer=answers.states.answer[:, 1:2])
    unknown = dataclasses.replace(answers, states_fn=lambda: one)
    with pytest.raises(ValueError, match="the records have a state of a layer that is not known"):
        fitted[0](unknown)
    router = KINDS[0].fit(unknown, *made(seed=1)[1:], "validation")
    assert router.features.layer is None and router(unknown).shape == (600,)
    with pytest.raises(ValueError, match=r"shape \[600, 2, 6\]; must be \[n, 1, D\]"):
        HiddenStates(answer=answers.states.answer)


def test_states_that_are_not_there_name_the_setting(fitted):
    answers, *qualities = made()
    without = dataclasses.replace(answers, states_fn=None)
    only_input = HiddenStates(input=answers.states.input, layers=LAYERS)
    message = re.escape("student_answer_state, which is not there; `cascade-jax collect` with "
                        "PROBES = [@probes.States()] adds it")  # fmt: skip
    for lacking in (without, dataclasses.replace(answers, states_fn=lambda: only_input)):
        with pytest.raises(ValueError, match=message):
            KINDS[0].fit(lacking, *qualities, "validation")
        with pytest.raises(ValueError, match=message):
            fitted[0](lacking)


def test_a_state_that_is_not_finite_is_refused(fitted):
    answers, *qualities = made(40)
    answers.states.answer[7, 1, 0] = np.nan
    for call in (fitted[0], lambda a: KINDS[0].fit(a, *qualities, "validation")):
        with pytest.raises(ValueError, match=r"example '0/7' \(row 7\) has a state that is not f"):
            call(answers)


def test_too_few_rows_to_hold_some_out():
    for labels in ([0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]):  # the 1 is held out
        message = f"{len(labels)} examples are too few to hold out a share of 0.2"
        with pytest.raises(ValueError, match=message):
            state_routers.held_out_rows(np.array(labels), 0.2, 0)
    is_held_out = state_routers.held_out_rows(np.array([0.0, 1.0] * 5), 0.2, 0)
    assert np.flatnonzero(is_held_out).size == 2 and len(set(np.flatnonzero(is_held_out) % 2)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state": "inputs"}, "state is 'inputs'; must be one of answer, input; did you mean"),
        ({"held_out": 1.0}, "held_out is 1.0; must be above 0 and below 1"),
        ({"l2": ()}, r"l2 is \(\); must be a list of numbers above 0"),
        ({"l2": (1.0, 0.0)}, "a value of l2 is 0.0; must be"),
        ({"seed": -1}, "seed is -1; must be"),
    ],
)
def test_settings_that_are_not_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        routers.StateRouter(**settings)
    with pytest.raises(ValueError, match="patience is 0; must be"):
        routers.StateNetworkRouter(patience=0)
