"""The runs of a study: which there are, in what order, where they start, how long they take."""

import dataclasses

import gin
import pytest

from cascade_jax.cli import gin_config, study
from cascade_jax.losses import variants
from cascade_jax.runs import start
from cascade_jax.study import design, progress

pytestmark = pytest.mark.usefixtures("in_the_clone")


@pytest.fixture(scope="module")
def config(repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        config = gin_config.parse(
            study.CONFIG, ["--gin_file=gin/experiments/smollm2.gin", "--gin.DATA_DIR='/data'"]
        )
        gin.clear_config(clear_constants=True)
    return config


def test_every_size_is_trained_under_every_loss_and_seed(config):
    names = [run.name for run in config.runs]
    assert len(set(names)) == len(names) == 2 * (4 * 5 + 7 * 3)
    counts = {}
    for run in config.runs:
        key = run.size.name, run.loss.name
        counts[key] = counts.get(key, 0) + 1
    assert counts["layers_3", "xent"] == 5 and counts["layers_6", "cat_dist_s"] == 3
    assert len(counts) == 2 * 11


def test_all_main_losses_have_a_seed_before_the_next_one_and_the_others_come_last(config):
    names = [run.name for run in config.runs]
    main = [f"{size}.{loss}" for loss in ("xent", "dist", "cat_xent", "cat_dist")
            for size in ("layers_6", "layers_3")]  # fmt: skip
    assert names[:16] == [f"{name}.seed_{seed}" for seed in (0, 1) for name in main]
    assert names[40].endswith("cat_xent_l.seed_0") and names[-1].endswith("0.9.seed_2")


def test_a_run_has_its_seed_everywhere_and_starts_where_its_size_does(config):
    runs = {run.name: run.train_run for run in config.runs}
    run = runs["layers_3.cat_dist.seed_3"]
    assert (run.seed, run.data.seed, run.model.num_layers) == (3, 3, 3)
    assert run.start == start.FromRun("layers_3.recovered")
    assert run.loss == variants.CATDist(label_weight=0.5)
    assert run.steps == run.optimizer.decay_steps
    assert run.data.mixture == config.collect.data.mixture == "short_learned_v1"
    second = runs["layers_6.gatekeeper_0.1.seed_2"]
    assert second.start == start.FromRun("layers_6.xent.seed_2")
    assert second.steps == second.optimizer.decay_steps == run.steps // 2
    assert second.loss == variants.Gatekeeper(correct_weight=0.1)


def test_only_some_runs_are_done(config):
    some = dataclasses.replace(config, only=["layers_3.*.seed_0", "*.xent.seed_1"])
    names = [run.name for run in some.selected()]
    assert len(names) == 11 + 2 and names[-1] == "layers_3.gatekeeper_0.9.seed_0"


def loss(name, **fields):
    return design.StudyLoss(name, variants.Xent(), **fields)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"only": ["layers_7.*"]}, "only='layers_7.*' is no run of the study; the nearest: layers"),
        ({"losses": [loss("a"), loss("a")]}, r"losses have the same name: \['a'\]"),
        ({"losses": []}, "losses is"),
        ({"losses": [loss("a", after="xen")]}, "loss 'a': after"),
        ({"losses": [loss("a"), loss("b", after="a", seeds=2)]}, "must have as many seeds"),
        ({"losses": [loss("a", turn=1), loss("b", after="a")]}, "no later turn"),
        ({"tables_split": "tests"}, "tables_split"),
        ({"router_split": "validation"}, "router_split"),
    ],
)
def test_what_can_not_be_a_study_is_refused(config, changes, message):
    routed = [dataclasses.replace(config.losses[0], routers={"r": None})]
    if "router_split" in changes:
        changes = changes | {"losses": routed}
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)


# ------------------------------------------------------------------ progress


def test_time_left_is_that_of_runs_that_are_most_alike(config):
    runs = config.runs
    assert progress.seconds_left(runs, {}) is None
    names = ["layers_6.xent.seed_0", "layers_6.xent.seed_1", "layers_3.xent.seed_0"]
    finished = {
        name: progress.Done({"train": seconds - 10.0, "test": 10.0}, 120, "host")
        for name, seconds in zip(names, (100, 140, 60), strict=True)
    }
    of_layers_6, of_layers_3 = 41 - 2, 41 - 1
    assert progress.seconds_left(runs, finished) == of_layers_6 * 120.0 + of_layers_3 * 60.0


def test_what_is_done_and_what_failed_is_read_again(config, tmp_path):
    config = dataclasses.replace(config, output_dir=str(tmp_path), only=["*.xent.seed_0"])
    first, second = config.selected()
    assert progress.summary(config, config.selected()) == "0 of 2 runs are finished"
    result = progress.Done({"train": 59.5, "test": 0.5}, 120, "host")
    progress.write(config, first, result)
    progress.write(config, second, progress.Failed("NaN"))
    assert progress.done(config, first) == result and progress.failure(config, first) is None
    assert progress.failure(config, second).reason == "NaN"
    summary = progress.summary(config, config.selected())
    assert summary == "1 of 2 runs are finished; the others take one machine about 60 seconds"
    file = progress.folder_of(config, first) / "done.json"
    file.write_text('{"seconds": {}, "steps": "x", "host": "h"}')
    with pytest.raises(ValueError, match=f"{file}: steps must be a whole number"):
        progress.done(config, first)
