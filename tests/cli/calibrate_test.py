"""`cascade-jax calibrate` on a tiny pair: certificates, going on, a policy in records, refusals."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax.cli import calibrate, gin_main
from cascade_jax.cli.main import main
from cascade_jax.deferral import certificate
from cascade_jax.evaluation import live, records
from cascade_jax.evaluation.decoding_store import DecodingStore
from tests import tiny_demo

TINY = tiny_demo.gin_text(
    """\
MIXTURE = "demo_last_v1"
BATCH_SIZE = 8
DECODE_BATCH_SIZE = 16
TEACHER_STEPS = 6
STUDENT_STEPS = 6
CHECKPOINT_EVERY = 6
WARMUP_STEPS = 1
EVAL_BATCHES = 1
ONLY = ["teacher", "xent"]
collect.CollectConfig.students = ["xent"]
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
""",
    "from cascade_jax.evaluation import collect",
)


pytestmark = pytest.mark.usefixtures("in_the_clone")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp("gin") / "tiny.gin"
    file.write_text(TINY)
    return f"--gin_file={file}"


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        assert main(["train", tiny, output(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def calibrated(tiny, trained, repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        assert main(["calibrate", tiny, output(trained)]) == 0
    return trained / "calibration" / "xent"


def output(folder: Path) -> str:
    return f"--gin.OUTPUT_DIR='{folder}'"


def pool_of(tiny: str, trained: Path, *bindings: str, **changes) -> live.LivePool:
    config = gin_main.parse(calibrate.CONFIG, [tiny, output(trained), *bindings])
    return dataclasses.replace(config.live, **changes).open()


def decodings(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "decodings").iterdir()}


def test_certificates_and_budget_are_written(calibrated):
    budget = json.loads((calibrated / "budget.json").read_text())
    assert budget["level"] == "token" and budget["max_length"] == 8
    assert len(budget["candidates"]) == 6 and len(budget["runs"]) == 4
    assert budget["ends"]["student"]["cost"] == 0 < budget["ends"]["teacher"]["cost"] <= 1
    for alpha in (0.3, 0.6):
        found = certificate.load(calibrated / f"certificate_{alpha}.json")
        (run,) = [r for r in budget["runs"] if r["alpha"] == alpha and r["repeat"] == 0]
        assert found.risks[0].limit == alpha and found.score == "log_prob"
        shown = ["inf"] if found.is_fallback else list(found.thresholds)
        assert run["thresholds"] == shown and run["certified"] != found.is_fallback
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
    assert {name for name in after if after[name] != before.get(name)} == {damaged}
    assert (calibrated / "budget.json").read_bytes() == text


@pytest.fixture(scope="module")
def policy(tiny, trained, calibrated, repository, tmp_path_factory):
    """A certificate that defers some tokens and keeps others, and the records that it makes."""
    found = json.loads((calibrated / "certificate_0.6.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        scores = pool_of(tiny, trained).evaluate((np.inf,)).score
    some = [float(np.median(scores))]
    for candidate in found["candidates"]:
        if candidate["thresholds"] == found["thresholds"]:
            candidate["thresholds"] = some
    found["thresholds"] = some
    file = tmp_path_factory.mktemp("policy") / "certificate.json"
    file.write_text(json.dumps(found))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        argv = [tiny, output(trained), f"--gin.POLICY='{file}'"]
        assert main(["collect", *argv]) == 0
    return file, trained / "records" / "test" / "xent.parquet"


def test_records_hold_what_both_models_wrote_under_the_policy(policy):
    file, written = policy
    columns = pq.read_table(written).to_pydict()
    found, read = certificate.load(file), records.read(written)
    assert read.metadata["policy"]["thresholds"] == list(found.thresholds)
    total = 0
    for row in range(len(read)):
        deferred, unsure = (
            columns["cascade_is_deferred"][row],
            columns["cascade_uncertainties"][row],
        )
        tokens = columns["cascade_tokens"][row]
        assert len(tokens) == len(deferred) == len(unsure) == len(columns["cascade_pieces"][row])
        np.testing.assert_array_equal(deferred, np.array(unsure) > np.float32(found.thresholds[0]))
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
    found = json.loads(file.read_text())
    found["models"]["teacher"] = found["models"]["teacher"].replace('"step": 6', '"step": 5')
    (tmp_path / "x.json").write_text(json.dumps(found))
    line = refused("collect", tiny, output(trained), f"--gin.POLICY='{tmp_path}/x.json'")
    assert "its teacher is" in line and '"step": 5' in line and '"step": 6' in line
    line = refused("collect", tiny, output(trained), f"--gin.POLICY='{file}'",
                   "--gin.TARGET_LENGTH=7")  # fmt: skip
    assert "is of target_length 8, here it is 7" in line
    found |= {"level": "answer"}
    (tmp_path / "x.json").write_text(json.dumps(found))
    line = refused("collect", tiny, output(trained), f"--gin.POLICY='{tmp_path}/x.json'")
    assert "is a certificate for whole answers" in line


BAD = {
    "alpha": ("ALPHAS=[0.1, 1.0]", "must be strictly between 0.0 and 1.0, got 1.0"),
    "delta": ("DELTA=1.0", "delta must be above 0 and below 1, got 1.0"),
    "grid": ("GRID_SIZE=1", "grid_size is 1; must be at least 2: one threshold"),
    "few": ("ALPHAS=[0.01]", "'second' has 40 examples, too few to certify any threshold"),
    "split": ("CALIBRATION_TEST_SPLIT='validation'", "the split that is calibrated on"),
    "sizes": ("FIRST_SIZE=100", "do not fit into the 120 examples without repeated texts"),
    "blocks": ("NUM_BLOCKS=9", "num_blocks is 9; must be 1 to target_length = 8"),
    "uncertainty": ("UNCERTAINTY='logprob'", "did you mean 'log_prob'"),
    "metric": ("LIVE_METRICS=['rouge']", "metric 'rouge' is not in"),
    "task": ("CALIBRATION_TASKS=['demo_lost_v1']", "did you mean 'demo_last_v1'"),
    "run": ("CALIBRATED='dist'", "dist holds no complete checkpoint"),
    "vocabulary": ("VOCABULARY='byte+100'", "vocabularies differ: its data has byte-359"),
    "sizes of vocabularies": ("small/config.T5Config.vocab_size=512",
                              "student and teacher must share one vocabulary"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_is_one_line(name, tiny, trained, refused):
    binding, message = BAD[name]
    assert message in refused("calibrate", tiny, output(trained), f"--gin.{binding}")


def test_a_test_split_that_overlaps_is_refused(tiny, trained, refused, monkeypatch):
    """The same rows under the ids of another split: their texts give them away."""
    real = live.pipeline.decode_examples

    def renamed(data, task, split, limit):
        for example in real(data, task, "validation", limit):
            object.__setattr__(
                example, "example_id", example.example_id.replace("validation", split)
            )
            yield example

    monkeypatch.setattr(live.pipeline, "decode_examples", renamed)
    line = refused("calibrate", tiny, output(trained), "--gin.CALIBRATION_TEST_SPLIT='test'")
    assert "'first' and 'test' share" in line


def test_answers_of_records_are_calibrated_without_a_model(tiny, trained, policy, capsys):
    argv = ["--gin.LEVEL='answer'", "--gin.CALIBRATION_SPLIT='test'", "--gin.FIRST_SIZE=5"]
    argv += ["--gin.SECOND_SIZE=9", "--gin.ALPHAS=[0.5]", "--gin.SEARCH='grid'", "--gin.DELTA=0.4"]
    assert main(["calibrate", tiny, output(trained), *argv]) == 0
    assert (trained / "calibration" / "xent_answers" / "certificate_0.5.json").exists()
    assert "random answers" in capsys.readouterr().out


@pytest.mark.parametrize("blocks", [1, 2])
def test_answers_taken_from_other_thresholds_are_those_that_decoding_gives(
    blocks, tiny, trained, monkeypatch, tmp_path
):
    pool = pool_of(tiny, trained, "--gin.CALIBRATION_LIMIT=48", num_blocks=blocks)
    monkeypatch.setattr(pool, "_store", DecodingStore(tmp_path, {}))
    decoded, real = [], live.live_decoding.decode

    def counted(models, params, questions, *others, **more):
        decoded.append(len(questions.examples))
        return real(models, params, questions, *others, **more)

    monkeypatch.setattr(live.live_decoding, "decode", counted)
    scores = pool.evaluate((np.inf,) * blocks).score
    values = np.quantile(scores, [0.1, 0.3, 0.4, 0.5, 0.6, 0.8])
    rng, mixed = np.random.default_rng(0), 0
    for thresholds in [*rng.choice(values, (8, blocks)), [np.inf] * blocks, [-np.inf] * blocks]:
        given = tuple(map(float, thresholds))
        before = len(decoded)
        taken, taken_rows = pool.evaluate(given).columns(), sum(decoded[before:])
        whole = pool._decode_rows("log_prob", given, np.arange(48), "").columns()
        assert taken.keys() == whole.keys() and taken_rows <= 48
        for name, values_of in whole.items():
            np.testing.assert_allclose(taken[name], values_of, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(taken["is_deferred"], whole["is_deferred"])
        if given[0] == np.inf:
            assert not whole["is_deferred"].any()
        mixed += bool(0 < whole["is_deferred"].sum() < whole["lengths"].sum())
    fresh = 10 * 48
    assert mixed >= 4 and sum(decoded) - fresh < 0.8 * fresh  # what `evaluate` decoded


def test_a_whole_grid_is_decoded_at_thresholds_of_each_examples_own(
    tiny, trained, monkeypatch, tmp_path
):
    pool = pool_of(tiny, trained, "--gin.CALIBRATION_LIMIT=48")
    monkeypatch.setattr(pool, "_store", DecodingStore(tmp_path, {}))
    unsure = pool.evaluate((np.inf,)).score
    grid = [(float(value),) for value in np.quantile(unsure, np.linspace(0, 1, 60))]
    pool.prepare(grid)
    decoded = pool.decoded
    different = np.zeros(48, int)  # answers of each example, by what is deferred
    last = None
    for thresholds in grid:
        found = pool.evaluate(thresholds)
        now = found.is_deferred
        different += 1 if last is None else np.any(now != last, axis=1)
        last = now
    assert pool.decoded == decoded  # all of it was there
    assert decoded - 48 <= different.sum() < 60 * 48 / 4  # 48 were `evaluate`'s
    for thresholds in grid[::11]:
        whole = pool._decode_rows("log_prob", thresholds, np.arange(48), "").columns()
        for name, values in pool.evaluate(thresholds).columns().items():
            np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
    again = pool_of(tiny, trained, "--gin.CALIBRATION_LIMIT=48")
    monkeypatch.setattr(again, "_store", DecodingStore(tmp_path, {}))
    again.prepare(grid)
    assert again.decoded == 0  # the rounds are on disk


def test_tokens_deferred_by_chance_are_the_share_that_was_asked_for(tiny, trained):
    pool = pool_of(tiny, trained)
    for share in (0.25, 0.7):
        found = pool.evaluate_random(share)
        tokens = found.lengths.sum()
        deferred = found.is_deferred.sum() / tokens
        assert abs(deferred - share) < 4 * np.sqrt(share * (1 - share) / tokens)
    assert pool.evaluate_random(1.0).cost.mean() == pool.evaluate((-np.inf,)).cost.mean()
