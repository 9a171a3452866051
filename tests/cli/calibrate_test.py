"""`cascade-jax calibrate` on a tiny pair: certificates, going on, a policy in records, refusals."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.calibration import search, token_pool
from cascade_jax.calibration.passes import Passes, evaluate_all, run_search
from cascade_jax.cli import calibrate, gin_config
from cascade_jax.cli.main import main
from cascade_jax.deferral.guarantees import certificate, pareto
from cascade_jax.parallel import hosts
from tests.support import certificates, pair
from tests.support.pair import output

MACROS = """\
DECODE_BATCH_SIZE = 16
CALIBRATED = "xent"
CALIBRATION_LIMIT = 120
COLLECT_LIMIT = 20
COLLECT_SPLIT = "test"
LIVE_METRICS = ["chrf", "task"]
ALPHAS = [0.3, 0.6]
DELTA = 0.2
FIRST_SIZE = 30
SECOND_SIZE = 40
ITERATIONS = 6
GRID_SIZE = 9
REPEATS = 2
saved_model.CascadeRuns.checkpoint = "last"
"""


pytestmark = [pytest.mark.medium, pytest.mark.usefixtures("in_the_clone")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return pair.write_gin(tmp_path_factory.mktemp("gin") / "tiny.gin", MACROS)


@pytest.fixture(scope="module")
def trained(trained_pair, tmp_path_factory):
    return shutil.copytree(trained_pair, tmp_path_factory.mktemp("trained") / "out")


@pytest.fixture(scope="module")
def calibrated(tiny, trained, repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        assert main(["calibrate", tiny, output(trained)]) == 0
    return trained / "calibration" / "xent"


def pool_of(tiny: str, trained: Path, *bindings: str, **changes) -> token_pool.LivePool:
    config = gin_config.parse(calibrate.CONFIG, [tiny, output(trained), *bindings])
    return dataclasses.replace(config.live, **changes).open()


@pytest.fixture
def fresh_pool(tiny, trained, monkeypatch):
    """Opens the pool of 48 examples as another folder's, where nothing is decoded yet."""
    real = token_pool.AnswerStore

    def opened(folder: Path, **changes) -> token_pool.LivePool:
        pool = pool_of(tiny, trained, "--gin.CALIBRATION_LIMIT=48", **changes)
        monkeypatch.setattr(
            token_pool, "AnswerStore", lambda _, facts, size: real(folder, facts, size)
        )
        return pool

    return opened


def decodings(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "decodings").iterdir()}


def test_certificates_and_budget_are_written(calibrated):
    budget = json.loads((calibrated / "budget.json").read_text())
    assert budget["level"] == "token" and budget["max_length"] == 8
    assert 6 <= len(budget["candidates"]) <= 9 and len(budget["runs"]) == 4
    assert budget["candidates"][-1]["answers"] <= 6
    assert budget["ends"]["student"]["cost"] == 0 < budget["ends"]["teacher"]["cost"] <= 1
    for alpha in (0.3, 0.6):
        actual = certificate.load(calibrated / f"certificate_{alpha}.json")
        (run,) = [r for r in budget["runs"] if r["alpha"] == alpha and r["repeat"] == 0]
        assert actual.risks[0].limit == alpha and actual.score == "log_prob"
        is_certified = actual.status == "certified"
        shown = list(actual.thresholds) if is_certified else ["inf"]
        assert run["thresholds"] == shown and run["certified"] == is_certified
        assert run["test"]["flops"] > 0 and set(run["test"]["quality"]) == {"chrf", "task"}
    assert len(budget["deferred_by_position"]) == 8


def test_going_on_decodes_nothing_again_but_what_is_damaged(tiny, trained, calibrated, capsys):
    before, text = decodings(calibrated), (calibrated / "budget.json").read_bytes()
    damaged = sorted(before)[0]
    (calibrated / "decodings" / damaged).write_bytes(b"cut")
    assert main(["calibrate", tiny, output(trained)]) == 0
    printed = capsys.readouterr()
    assert f"{damaged} is damaged" in printed.out and "alpha  certified" in printed.out
    after = decodings(calibrated)
    (again,) = after.keys() - before.keys() - {Path(damaged).stem + ".damaged"}
    assert again.endswith(".npz") and before.keys() - after.keys() == {damaged}
    assert all(after[name] == before[name] for name in before if name != damaged)
    assert (calibrated / "budget.json").read_bytes() == text


@pytest.fixture(scope="module")
def policy(tiny, trained, calibrated, repository, tmp_path_factory):
    """A certificate that defers some tokens and keeps others, and the records that it makes."""
    real = certificate.load(calibrated / "certificate_0.6.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        pool = pool_of(tiny, trained)
        scores = pool.evaluate((np.inf,), np.arange(len(pool.ids))).score
    # Whatever was certified of models that were trained for a few steps only.
    identity = {"models": real.models, "data": real.data}
    made = certificates.make(float(np.median(scores)), "token", real.score, **identity)
    file = tmp_path_factory.mktemp("policy") / "certificate.json"
    made.save(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        argv = [tiny, output(trained), f"--gin.POLICY='{file}'"]
        assert main(["collect", *argv]) == 0
    return file, trained / "records" / "test" / "xent.parquet"


def test_records_hold_what_both_models_wrote_under_the_policy(policy):
    file, written = policy
    columns = pq.read_table(written).to_pydict()
    result, read = certificate.load(file), records.read(written)
    assert read.metadata["policy"]["thresholds"] == list(result.thresholds)
    total = 0
    for row in range(len(read)):
        deferred, unsure = (
            columns["cascade_is_deferred"][row],
            columns["cascade_uncertainties"][row],
        )
        tokens = columns["cascade_tokens"][row]
        assert len(tokens) == len(deferred) == len(unsure) == len(columns["cascade_pieces"][row])
        np.testing.assert_array_equal(deferred, np.array(unsure) > np.float32(result.thresholds[0]))
        total += sum(deferred)
        # Up to the first deferred token the answer is the small model's, and its uncertainty too.
        same = next((i for i, d in enumerate(deferred) if d), len(deferred))
        assert tokens[:same] == columns["student_tokens"][row][:same]
        np.testing.assert_allclose(
            unsure[:same], -np.array(columns["student_log_probs"][row][:same]), atol=1e-4
        )
        if deferred and deferred[0]:
            assert tokens[0] == columns["teacher_tokens"][row][0]
    assert 0 < total < sum(map(len, columns["cascade_tokens"]))


def test_records_of_the_same_policy_are_up_to_date(policy, tiny, trained, capsys):
    file, _ = policy
    argv = [tiny, output(trained), f"--gin.POLICY='{file}'"]
    assert main(["collect", *argv]) == 0
    assert "is up to date" in capsys.readouterr().out


@pytest.fixture
def refused(capfd):
    """Runs a command that must fail; gives its one line."""

    def run(command: str, *argv: str) -> str:
        capfd.readouterr()
        assert main([command, *argv]) == 2
        line = capfd.readouterr().err.splitlines()[-1]
        assert line.startswith(f"cascade-jax {command}: ")
        return line

    return run


def test_a_policy_of_other_models_is_refused_with_both(policy, tiny, trained, refused, tmp_path):
    file, _ = policy
    actual = certificate.load(file)
    assert actual.models["teacher"].step == 6
    older = dataclasses.replace(actual.models["teacher"], step=5)
    actual = dataclasses.replace(actual, models={**actual.models, "teacher": older})
    actual.save(tmp_path / "x.json")
    line = refused("collect", tiny, output(trained), f"--gin.POLICY='{tmp_path}/x.json'")
    assert "its teacher is run 'teacher', step 5, saved " in line
    assert "here is run 'teacher', step 6, saved " in line
    line = refused("collect", tiny, output(trained), f"--gin.POLICY='{file}'",
                   "--gin.TARGET_LENGTH=7")  # fmt: skip
    assert "is of target_length 8, here it is 7" in line
    dataclasses.replace(actual, level="answer").save(tmp_path / "x.json")
    line = refused("collect", tiny, output(trained), f"--gin.POLICY='{tmp_path}/x.json'")
    assert "is a certificate for whole answers" in line


BAD = {
    "alpha": ("ALPHAS=[0.1, 1.0]", "must be strictly between 0.0 and 1.0, got 1.0"),
    "delta": ("DELTA=1.0", "delta must be above 0 and below 1, got 1.0"),
    "grid": ("GRID_SIZE=1", "grid_size is 1; must be an integer of at least 2"),
    "few": ("ALPHAS=[0.01]", "'second' has 40 examples, too few to certify any threshold"),
    "split": ("CALIBRATION_TEST_SPLIT='validation'", "the split that is calibrated on"),
    "sizes": ("FIRST_SIZE=100", "do not fit into the 120 examples without repeated texts"),
    "blocks": ("NUM_BLOCKS=9", "num_blocks is 9; must be 1 to target_length = 8"),
    "uncertainty": ("UNCERTAINTY='logprob'", "did you mean 'log_prob'"),
    "metric": ("LIVE_METRICS=['rouge']", "metric is 'rouge'; must be one of"),
    "task": ("CALIBRATION_TASKS=['demo_lost_v1']", "nearest is 'demo_last_v1' of "),
    "runs": ("CALIBRATED='xents'", "train that run first; did you mean 'xent'?"),
    "run": ("CALIBRATED='dist'", "dist holds no complete checkpoint"),
    "vocabulary": ("VOCABULARY='byte+100'", "vocabularies differ: its data has byte-359"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_is_one_line(name, tiny, trained, refused):
    binding, message = BAD[name]
    assert message in refused("calibrate", tiny, output(trained), f"--gin.{binding}")


def test_a_test_split_that_overlaps_is_refused(tiny, trained, refused, monkeypatch):
    """The same rows under the ids of another split: their texts give them away."""
    real = token_pool.pipeline.decode_examples

    def renamed(data, task, split, limit):
        for example in real(data, task, "validation", limit):
            object.__setattr__(
                example, "example_id", example.example_id.replace("validation", split)
            )
            yield example

    monkeypatch.setattr(token_pool.pipeline, "decode_examples", renamed)
    line = refused("calibrate", tiny, output(trained), "--gin.CALIBRATION_TEST_SPLIT='test'")
    assert "'first' and 'test' share" in line


def test_answers_of_records_are_calibrated_without_a_model(tiny, trained, policy, capsys):
    argv = ["--gin.LEVEL='answer'", "--gin.CALIBRATION_SPLIT='test'", "--gin.FIRST_SIZE=5"]
    argv += ["--gin.SECOND_SIZE=9", "--gin.ALPHAS=[0.5]", "--gin.SEARCH='grid'", "--gin.DELTA=0.4"]
    assert main(["calibrate", tiny, output(trained), *argv]) == 0
    assert (trained / "calibration" / "xent_answers" / "certificate_0.5.json").exists()
    assert "random answers" in capsys.readouterr().out


ROWS = np.arange(48)


def assert_same(taken, decoded):
    taken, decoded = taken.columns(), decoded.columns()
    assert taken.keys() == decoded.keys()
    for name in taken.keys() - {"holds_from", "holds_below"}:
        np.testing.assert_allclose(taken[name], decoded[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("blocks", [1, 2])
def test_answers_taken_from_other_thresholds_are_those_that_decoding_gives(
    blocks, fresh_pool, tmp_path
):
    pool, anew = fresh_pool(tmp_path, num_blocks=blocks), 0
    scores = pool.evaluate((np.inf,) * blocks, ROWS).score
    values = np.quantile(scores, [0.1, 0.3, 0.4, 0.5, 0.6, 0.8])
    rng, mixed = np.random.default_rng(0), 0
    for thresholds in [*rng.choice(values, (8, blocks)), [np.inf] * blocks, [-np.inf] * blocks]:
        arguments, before = tuple(map(float, thresholds)), pool.decoded
        taken = pool.evaluate(arguments, ROWS)
        anew += pool.decoded - before
        own = np.broadcast_to(np.float32(arguments), (48, blocks))
        ((_, whole),) = pool._decode_rows("log_prob", own, ROWS, "")
        assert_same(taken, whole)
        if arguments[0] == np.inf:
            assert not whole.is_deferred.any()
        mixed += bool(0 < whole.is_deferred.sum() < whole.lengths.sum())
    assert mixed >= 4 and anew < 0.8 * 10 * 48


def test_only_the_examples_that_are_asked_for_are_decoded(fresh_pool, tmp_path):
    pool, rows = fresh_pool(tmp_path), np.array([7, 3, 40])
    actual = pool.evaluate((0.5,), rows)
    assert pool.decoded == 3 and len(actual.cost) == 3
    whole = pool.evaluate((0.5,), ROWS)
    assert pool.decoded == 48
    assert_same(actual, whole.take(rows))
    assert pool.evaluate_random(0.5, rows).cost.shape == (3,) and pool.decoded == 51


def test_a_whole_grid_is_decoded_at_thresholds_of_each_examples_own(fresh_pool, tmp_path):
    pool = fresh_pool(tmp_path / "grid")
    unsure = pool.evaluate((np.inf,), ROWS).score
    grid = [(float(value),) for value in np.quantile(unsure, np.linspace(0, 1, 60))]
    evaluated = evaluate_all(pool.evaluate, grid, ROWS)
    decoded = pool.decoded
    deferred = np.stack([actual.is_deferred for actual in evaluated])
    different = 1 + np.any(deferred[1:] != deferred[:-1], axis=2).sum(axis=0)
    assert decoded - 48 <= different.sum() < 60 * 48 / 4  # 48 were at an infinite threshold
    for thresholds, actual in list(zip(grid, evaluated, strict=True))[::11]:
        own = np.broadcast_to(np.float32(thresholds), (48, 1))
        ((_, whole),) = pool._decode_rows("log_prob", own, ROWS, "")
        assert_same(actual, whole)
    again = fresh_pool(tmp_path / "grid")
    for one, other in zip(evaluate_all(again.evaluate, grid, ROWS), evaluated, strict=True):
        assert_same(one, other)
    assert again.decoded == 0  # what was decoded is on disk


def test_bayesian_search_finds_the_grids_hypervolume_for_25_answers_of_each_example(
    fresh_pool, tmp_path
):
    pool = fresh_pool(tmp_path)
    candidates = pool.values(400, ROWS)[:, None]
    grid, actual = search.GridSearch(candidates), search.BayesianSearch(candidates, 25)
    run_search(actual, pool.evaluate, ROWS, "chrf")
    assert pool.decoded == round(48 * actual.spent) <= 48 * 25
    run_search(grid, pool.evaluate, ROWS, "chrf")
    alone = [pool.evaluate(tuple(each), ROWS) for each in candidates]
    points = np.array([(each.cost.mean(), 1 - each.quality["chrf"].mean()) for each in alone])
    reference = pareto.reference_point(points)
    whole = pareto.hypervolume(points, reference)
    assert pareto.hypervolume(grid.objectives(), reference) == pytest.approx(whole)
    number = np.cumsum([evaluated.cost > 0 for evaluated in actual.trials])
    assert actual.hypervolumes(reference)[number <= 25][-1] >= 0.99 * whole > 0


def test_a_run_that_was_stopped_goes_on_with_the_same_passes(fresh_pool, tmp_path, monkeypatch):
    grid = [(float(value),) for value in np.linspace(0.1, 3, 30)]

    def evaluated(pool):
        passes, result = Passes(pool.evaluate, grid, ROWS), []
        while passes.cost:
            expected = min(set(range(30)) - set(result))
            result += passes.run(expected)
            yield expected, passes.cost

    whole = fresh_pool(tmp_path / "whole")
    expected = list(evaluated(whole))
    stopped = fresh_pool(tmp_path / "stopped")
    for _, _ in zip(range(2), evaluated(stopped), strict=False):
        pass
    going_on = fresh_pool(tmp_path / "stopped")
    assert list(evaluated(going_on)) == expected
    assert 0 < stopped.decoded and stopped.decoded + going_on.decoded == whole.decoded


def test_a_calibration_that_gets_sigterm_keeps_what_it_has_decoded_and_goes_on(
    tiny, trained, calibrated, tmp_path, monkeypatch, capfd
):
    for run in ("teacher", "xent"):
        shutil.copytree(trained / run, tmp_path / run)
    asked, stop = hosts.StopSignal.asked, []

    def asked_and_signalled(self):
        stop.append(asked(self))
        if len(stop) == 4:  # before a repeat, and before three batches of a part
            os.kill(os.getpid(), signal.SIGTERM)
        return stop[-1]

    monkeypatch.setattr(hosts.StopSignal, "asked", asked_and_signalled)
    assert main(["calibrate", tiny, output(tmp_path)]) == hosts.STOPPED_STATUS
    said = "asked to stop; what is decoded is kept. The same command goes on with the rest"
    assert capfd.readouterr().err.splitlines()[-1] == f"cascade-jax calibrate: {said}"
    assert len(stop) == 5 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    results = tmp_path / "calibration" / "xent"

    def answers(folder):
        return sum(len(np.load(path)["rows"]) for path in (folder / "decodings").glob("*.npz"))

    # Of the first split's 30 examples all, and another batch of 16 when the next part began.
    assert answers(results) == 30 + 16 < answers(calibrated)
    monkeypatch.undo()
    assert main(["calibrate", tiny, output(tmp_path)]) == 0
    assert answers(results) == answers(calibrated)
    assert (results / "budget.json").read_bytes() == (calibrated / "budget.json").read_bytes()


def test_tokens_deferred_by_chance_are_the_share_that_was_asked_for(tiny, trained):
    pool = pool_of(tiny, trained)
    rows = np.arange(len(pool.ids))
    for share in (0.25, 0.7):
        result = pool.evaluate_random(share, rows)
        tokens = result.lengths.sum()
        deferred = result.is_deferred.sum() / tokens
        assert abs(deferred - share) < 4 * np.sqrt(share * (1 - share) / tokens)
    always = pool.evaluate((-np.inf,), rows)
    assert pool.evaluate_random(1.0, rows).cost.mean() == always.cost.mean()
