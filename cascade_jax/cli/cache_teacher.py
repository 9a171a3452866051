"""`cascade-jax cache-teacher`: keeps a teacher's outputs for training."""

HELP = """\
Runs the teacher once over the mixture that a student trains on and keeps what it says of every
target token. `train` with the same TEACHER_CACHE then needs no teacher. The same command again goes
on where it was interrupted. On many hosts each runs this command.

Whether the teacher is right is all that CAT-Xent needs (CACHE_TOP_K=0). The distillation losses
need CACHE_TOP_K=64, say; CACHE_DTYPE='uint16' or 'uint8' rounds its log-probs.

example, after the teacher was trained:
  cascade-jax cache-teacher --gin_file=gin/experiments/demo.gin \\
    --gin.TEACHER_CACHE="'runs/demo/teacher_cache'"
"""
CONFIG = "cascade_jax.teacher_cache.make.CacheConfig"
MANY_HOSTS = True


def check(config) -> None:
    """Refuses what does not fit before anything is written."""
    from cascade_jax.teacher_cache import make

    make.check(config)


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.teacher_cache import make

    make.make(config)
