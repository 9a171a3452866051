"""`cascade-jax train`."""

HELP = """\
Trains the runs of an experiment in order (a teacher, then its students). The same command again
skips what is finished and resumes what was interrupted.

example:
  cascade-jax train --gin_file=gin/experiments/demo.gin
  cascade-jax train --gin_file=gin/experiments/demo.gin --gin.ONLY="'teacher'"
"""
CONFIG = "cascade_jax.training.loop.TrainConfig"


def check(config) -> None:
    """Refuses what does not fit before anything is written."""
    from cascade_jax.training import loop

    loop.check(config)


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.training import loop

    loop.train(config)
