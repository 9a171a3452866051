"""Training: the runs of an experiment in order, a teacher first and then its students, say.

Started again with the same config, runs that are finished are skipped and one that was interrupted
goes on where it was. `check` and `train` take these steps, the last five for one run after the
other (`training/run.py`):

1. Config and code are compared between hosts.
2. Mesh, batch size and model shapes are compared; the vocabulary, the data and the teacher's (or
   its cache's) identity are read and compared with the run folder's `config.json`, if there is one.
3. The run folder is locked.
4. The state: the newest complete checkpoint, else fresh parameters or those that `start` names.
5. What is only read: the teacher's parameters, and with LoRA those of the base.
6. The data, which go to the position that the checkpoint holds. Now all of it fits, and
   `config.json` is written.
7. Steps, with logs, evaluations and checkpoints when due (`training/step_loop.py`).
"""

from pathlib import Path

from cascade_jax.parallel import hosts
from cascade_jax.runs import identity
from cascade_jax.training import run as run_lib
from cascade_jax.training.experiment import TrainConfig
from cascade_jax.training.programs import Programs


def check(config: TrainConfig) -> None:
    """Refuses what can be refused of any selected run before the first starts; writes nothing.

    Raises:
      ValueError: if the mesh, batch, vocabulary or a run folder does not fit, or hosts have
        different configs or code.
    """
    hosts.assert_equal_across_hosts("configs", identity.config_identity(config))
    hosts.assert_equal_across_hosts("versions of the code", identity.code_identity())
    mesh = config.mesh.build()
    for run in config.selected():
        run_lib.check(Programs(run, mesh), Path(config.output_dir))


def train(config: TrainConfig) -> None:
    """Does the selected runs in order; finished ones are skipped.

    Raises:
      ValueError: if the mesh, batch, vocabulary, run folder or a checkpoint does not fit, or hosts
        have different data.
      NonFiniteLossError, hosts.Stopped: see `run.train_one`.
    """
    mesh = config.mesh.build()
    with hosts.StopSignal() as stop:
        for run in config.selected():
            run_lib.train_one(run, Path(config.output_dir), mesh, stop)
