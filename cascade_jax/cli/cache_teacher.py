"""`cascade-jax cache-teacher`: keeps a teacher's outputs for training."""

HELP = """\
Runs the teacher once over the mixture that a student trains on and stores its outputs for every
target token. `train` with the same TEACHER_CACHE then needs no teacher. The same command again
continues where it was interrupted. On many hosts each runs this command.

CAT-Xent only needs whether the teacher is right (CACHE_TOP_K=0). The distillation losses
need CACHE_TOP_K=64, say; CACHE_DTYPE='uint16' or 'uint8' rounds its log-probs.
With --limit=1000 the first rows of each task are kept only, to see the cache's size and the time.

example, after the teacher was trained:
  cascade-jax cache-teacher --gin_file=gin/experiments/demo.gin \\
    --gin.TEACHER_CACHE="'runs/demo/teacher_cache'"
"""
CONFIG = "cascade_jax.teacher_cache.make.CacheConfig"
RUNS_MODELS = True
LIMIT = "CACHE_LIMIT"


def check(config) -> None:
    """Refuses an impossible config before anything is written."""
    from cascade_jax.teacher_cache import make

    make.check(config)


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.teacher_cache import make

    make.make(config)
