"""`cascade-jax train`: trains the runs of an experiment."""

HELP = """\
Trains the runs of an experiment in order (a teacher, then its students). The same command again
skips what is finished and resumes what was interrupted. On many hosts each runs this command.

exit status: 0 done; 2 bad input, full disk, loss not finite; 75 asked to stop (SIGTERM) and saved;
76 another host died or hangs; 130 Ctrl-C. After 75 and 76 the same command continues.

example:
  cascade-jax train --gin_file=gin/experiments/demo.gin
  cascade-jax train --gin_file=gin/experiments/demo.gin --gin.ONLY="'teacher'"
"""
CONFIG = "cascade_jax.training.experiment.TrainConfig"
RUNS_MODELS = True


def check(config) -> None:
    """Refuses an impossible config before anything is written."""
    from cascade_jax.training import train

    train.check(config)


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.training import train

    train.train(config)
