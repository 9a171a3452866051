"""Where the time goes, against a clock that the test turns."""

import contextlib
import json
import time

import pytest

from cascade_jax import chips, metrics
from cascade_jax.models import flops
from cascade_jax.training import reporting, utilisation
from cascade_jax.training.clock import CHECKPOINT, DATA, EVALUATION, STEP, Clock
from tests.support import fakes


@pytest.fixture
def tick(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])

    def tick(seconds):
        now[0] += seconds

    return tick


def test_parts_and_goodput(tick):
    clock = Clock(started=900.0, productive=30.0)  # of which 30 seconds were well spent
    for number, (data, step) in enumerate([(5, 50), (1, 2), (3, 4)]):  # the first one compiles
        with clock.part(DATA):
            tick(data)
        with clock.part(STEP):
            tick(step)
        clock.step_done(is_first=number == 0)
    with clock.part(EVALUATION):
        tick(7)
    with clock.part(CHECKPOINT):
        tick(8)
    assert clock.take() == {
        metrics.DATA_WAIT_SECONDS: 2.0,
        metrics.STEP_SECONDS: 5.0,
        metrics.EVALUATION_SECONDS: 7.0,
        metrics.CHECKPOINT_SECONDS: 8.0,
        metrics.PRODUCTIVE_SECONDS: 40.0,
        metrics.GOODPUT: 40.0 / 180.0,
    }
    tick(20)
    result = clock.take()
    assert metrics.STEP_SECONDS not in result and result[metrics.GOODPUT] == 40.0 / 200.0


@pytest.mark.parametrize("started", [2000.0, 1e300, -1e300, 999.0])
@pytest.mark.parametrize("productive", [0.0, 50.0, -5.0, 1e300])
def test_goodput_is_a_share_whatever_the_clocks_of_earlier_machines_were(
    tick, monkeypatch, started, productive
):
    clock = Clock(started, productive)
    for now in (1000.0, -1e6, 1e12):  # the clock is set anew while the run goes on
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with clock.part(STEP):
            tick(3)
        clock.step_done()
        figures = clock.take()
        assert 0.0 <= figures[metrics.GOODPUT] <= 1.0
        assert figures[metrics.STEP_SECONDS] == 3.0


class Device:
    def __init__(self, kind):
        self.device_kind = kind


def test_the_peak_of_devices_by_their_kind():
    # As libtpu 0.0.42 names the devices of v4:2x2x2, v5e:2x4, v5p:2x2x2 and v6e:2x4.
    kinds = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}
    for kind, name in kinds.items():
        assert utilisation.peak_flops([Device(kind)] * 4) == 4 * chips.CHIPS[name].flops
    assert utilisation.peak_flops([Device("cpu"), Device("TPU v4")]) is None


def test_the_share_of_the_chips_peak_in_the_metrics(tmp_path):
    result = {metrics.TARGET_TOKENS: 80.0}
    reporter = reporting.Reporter(tmp_path, "run", 0, 2, step_flops=3e12, peak_flops=4e14)
    with contextlib.closing(reporter):
        with reporter.clock.part(STEP):
            time.sleep(0.02)
        reporter.clock.step_done()
        reporter.train(1, 1, result)
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    rate = 3e12 / line[metrics.STEP_SECONDS]
    assert line[metrics.STEP_SECONDS] >= 0.02
    assert line[metrics.MODEL_FLOPS_PER_SECOND] == pytest.approx(rate)
    assert line[metrics.MODEL_FLOPS_UTILISATION] == pytest.approx(rate / 4e14)


def test_model_flops_of_a_step():
    class Run:
        model, live_teacher = fakes.t5_config(), fakes.t5_config(embed_dim=24)

        class data:
            input_length, target_length, batch_size = 12, 8, 5

    both = flops.training_flops(Run.model, 12, 8) + flops.forward_flops(Run.live_teacher, 12, 8)
    assert utilisation.step_flops(Run) == 5 * both
