"""The loop over the steps of one run."""

import contextlib
import dataclasses
import math
from pathlib import Path

import jax
from jaxtyping import PRNGKeyArray

from cascade_jax import metrics
from cascade_jax.parallel import hosts
from cascade_jax.runs import checkpoints
from cascade_jax.runs.folder_lock import FolderLock
from cascade_jax.runs.state import Frozen, TrainState
from cascade_jax.runs.watchdog import Watchdog
from cascade_jax.training import reporting, skipping, utilisation
from cascade_jax.training.clock import CHECKPOINT, DATA, EVALUATION, STEP
from cascade_jax.training.profiling import Profiler
from cascade_jax.training.programs import Programs

_QUEUED = 3


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite."""


@dataclasses.dataclass
class StepLoop:
    """The loop over the steps of one run.

    Attributes:
      programs: the run's jitted functions.
      folder, store: the run's folder and the checkpoints in it.
      config: its config as JSON values, saved with every checkpoint.
      frozen: the parameters that are only read.
      dropout_key: the key that each step's own is derived from.
      stop: says whether the run was asked to stop.
      lock: the folder's lock, checked before each save.
    """

    programs: Programs
    folder: Path
    config: dict
    store: checkpoints.CheckpointStore
    frozen: Frozen
    dropout_key: PRNGKeyArray
    stop: hosts.StopSignal
    lock: FolderLock

    def run(self, state: TrainState, first_step: int, batches, held_out) -> TrainState:
        """Steps from `first_step` to the end, with logs, evaluations and checkpoints when due.

        Raises:
          NonFiniteLossError: names the steps; the last good checkpoint stays.
          hosts.Stopped: asked to; what was done is saved.
        """
        run, train_step = self.programs.run, self.programs.train_step
        peak = utilisation.peak_flops(self.programs.mesh.devices.flat)
        flops = utilisation.step_flops(run), peak
        reporter = reporting.Reporter(self.folder, run.name, first_step, run.steps, *flops)
        self._clock = reporter.clock
        self._skipped = skipping.SkippedSteps(self.folder, first_step, hosts.is_first())
        self._recent, self._has_evaluated = [], False
        limit, label = run.hang_seconds, f"run {run.name!r}: "
        watchdog = Watchdog("train", label, limit, self.folder, self._saved)
        profiler = Profiler(run.profile_steps, self.folder, first_step)
        step = first_step
        with contextlib.closing(reporter), watchdog, profiler:
            while step < run.steps:
                if self.stop.asked():
                    self._save_and_stop(step, first_step, state, batches, reporter)
                step += 1
                ############################ One step ############################
                profiler.before(step)
                with self._clock.part(DATA):
                    batch = next(batches)
                with self._clock.part(STEP):
                    state, report = train_step(state, self.frozen, batch, self.dropout_key)
                    self._recent.append(report)
                    # A few steps are queued; the next batches are read and sent meanwhile.
                    if step == first_step + 1 or len(self._recent) >= _QUEUED:
                        jax.block_until_ready(self._recent[-_QUEUED:][0])
                self._clock.step_done(is_first=step == first_step + 1)
                watchdog.progress(f"step {step + 1}")
                profiler.after(step, report)
                reporter.advance()
                ############################ Logs, checkpoint ############################
                saves = step == run.steps or step % run.checkpoint_every == 0
                if saves or step % run.log_every == 0:
                    self._log(step, reporter)
                if saves:
                    self._check_parameters(step, state)
                measured = None
                if held_out and (saves or step % run.eval_every == 0):
                    measured = self._evaluate(step, state, held_out, reporter, watchdog)
                if saves:
                    watchdog.progress(f"the checkpoint of step {step}")
                    self._save(step, state, batches, measured)
                    watchdog.progress(f"step {step + 1}")
            self.store.wait()
        return state

    def _log(self, step: int, reporter: reporting.Reporter) -> None:
        """Reports the steps since the last time, if they are finite."""
        with self._clock.part(STEP):
            reports = jax.device_get(self._recent)  # waits for the steps that are queued
        first, self._recent = step - len(reports) + 1, []
        if self.programs.run.skip_bad_batches:
            reports = self._skip(first, reports)
        if reports:
            merged = reporting.merge(reports)
            self._check_finite(first, step, _must_be_finite(merged))
            reporter.train(step, len(reports), merged)

    def _skip(self, first: int, reports: list) -> list:
        """The reports of steps that were not skipped; the skipped steps are written down."""
        bad = [first + i for i, report in enumerate(reports) if not skipping.is_finite(report)]
        if not bad:
            return reports
        self._skipped.add(bad)
        count, limit = len(self._skipped.steps), self.programs.run.skip_bad_batches
        where = f"run {self.programs.run.name!r}: loss or gradient not finite"
        if count > limit:
            raise NonFiniteLossError(
                f"{where} in {count} steps ({_listed(self._skipped.steps)}), and skip_bad_batches "
                f"is {limit}; {self._kept()}. Lower the learning rate, or raise warmup_steps"
            )
        hosts.print_once(f"{where} in step {_listed(bad)}: skipped ({count} of at most {limit})")
        return [report for report in reports if skipping.is_finite(report)]

    def _evaluate(self, step, state, held_out, reporter, watchdog):
        """Figures on the held-out batches."""
        split = self.programs.run.eval_split
        # A run that is ended while this compiles, before its checkpoint, would be at every start.
        watchdog.progress(f"the evaluation after step {step}", may_compile=not self._has_evaluated)
        self._has_evaluated = True
        with self._clock.part(EVALUATION):
            reports, eval_step = [], self.programs.eval_step
            for batch in held_out:
                reports.append(eval_step(state.params, self.frozen, batch, state.step))
                jax.block_until_ready(reports[-_QUEUED:][0])
                watchdog.progress(f"the evaluation after step {step}")
            measured = reporting.merge(reports)
        label = f"{metrics.CROSS_ENTROPY} of split {split!r}"
        # It is missing when no held-out token counts: nothing then says it went wrong.
        if metrics.CROSS_ENTROPY in measured:
            self._check_finite(step, step, {label: measured[metrics.CROSS_ENTROPY]})
        reporter.held_out(step, split, measured)
        return measured

    def _save(self, step, state, batches, measured) -> None:
        with self._clock.part(CHECKPOINT):
            self.lock.check()
            self.store.save(step, state, batches.get_state(), self.config, measured)

    def _save_and_stop(self, step, first_step, state, batches, reporter):
        """Saves what is not saved yet, without an evaluation, and ends the run."""
        if step > first_step and step % self.programs.run.checkpoint_every:
            self._log(step, reporter)
            self._check_parameters(step, state)
            self._save(step, state, batches, None)
        self.store.wait()
        raise hosts.Stopped(
            f"run {self.programs.run.name!r}: asked to stop; saved at step {step} of "
            f"{self.programs.run.steps}. The same command goes on from there"
        )

    def _check_parameters(self, step: int, state: TrainState) -> None:
        # The loss was that of the parameters before the update; those after it are saved.
        # (Parameters that overflow when squared have no finite loss either.)
        norm = self.programs.parameter_norm(state.params)
        self._check_finite(step, step, {"norm of the parameters": float(norm)})

    def _check_finite(self, first: int, last: int, figures: dict[str, float]) -> None:
        name = self.programs.run.name
        for key, value in figures.items():
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"run {name!r}: {key} is {value} somewhere in steps {first} to "
                    f"{last}; {self._kept()}. Lower the learning rate, or raise warmup_steps"
                )

    def _kept(self) -> str:
        self.store.wait()
        return self._saved()

    def _saved(self) -> str:
        good = self.store.last_step()
        return f"the checkpoint of step {good} stays" if good else "no checkpoint was written"


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps[:10])) + (", …" if len(steps) > 10 else "")


def _must_be_finite(merged: dict[str, float]) -> dict[str, float]:
    """The metrics that must be finite after a good step.

    Where no token was counted or kept there is no loss, and the gradient is 0.
    """
    keys = (metrics.LOSS, metrics.GRADIENT_NORM)
    return {key: merged[key] for key in keys if key in merged}
