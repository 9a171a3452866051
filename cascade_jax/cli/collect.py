"""`cascade-jax collect`."""

HELP = """\
Answers a split with the large model and each small one, and writes one records table (Parquet) per
small model. Tables that are already there for the same checkpoints are kept.

example:
  cascade-jax collect --gin_file=gin/experiments/demo.gin
  cascade-jax collect --gin_file=gin/experiments/demo.gin --gin.COLLECT_SPLIT="'validation'"
"""
CONFIG = "cascade_jax.evaluation.collect.CollectConfig"


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.evaluation import collect

    collect.collect(config)
