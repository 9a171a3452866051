"""`cascade-jax collect`: answers of both models to a split."""

HELP = """\
Answers a split with the large model and each small one, and writes one records table (Parquet) per
small model. Existing tables for the same checkpoints are kept. On many hosts each
runs this command.

exit status: 0 done; 2 bad input, full disk; 75 asked to stop (SIGTERM); 76 another host died or
hangs. After 75 and 76 the same command continues with the first incomplete table.

example:
  cascade-jax collect --gin_file=gin/experiments/demo.gin
  cascade-jax collect --gin_file=gin/experiments/demo.gin --gin.COLLECT_SPLIT="'validation'"
"""
CONFIG = "cascade_jax.collection.collect.CollectConfig"
RUNS_MODELS = True
LIMIT = "COLLECT_LIMIT"


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.collection import collect

    collect.collect(config)
