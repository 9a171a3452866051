"""`cascade-jax study`: trains students of several sizes, losses and seeds, and their answers."""

HELP = """\
Trains the students of a study (each size under each loss and seed), lets each answer the splits,
and writes a table of the answers without text. Start it on as many machines as share the
output folder: each takes what is open. What is finished is not done again; what a machine that
died leaves behind is continued by another. Before each run it says how many are left and about
how long they take. The teacher, its cache and the runs that students start from are made first:
docs/study.md.

exit status: 0 done; 2 bad input, full disk, runs whose loss is not finite; 75 asked to stop
(SIGTERM) and saved; 130 Ctrl-C. After 75 and 130 the same command continues.

example:
  cascade-jax study --gin_file=gin/experiments/smollm2.gin --gin.DATA_DIR="'/path/to/data'"
  cascade-jax study --gin_file=gin/experiments/smollm2.gin --gin.DATA_DIR="'/path/to/data'" \\
    --gin.STUDY_ONLY="['layers_6.*.seed_0']"
"""
CONFIG = "cascade_jax.study.design.StudyConfig"
RUNS_MODELS = True


def check(config) -> None:
    """Refuses an impossible config before anything is written."""
    from cascade_jax.study import study

    study.check(config)


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.study import study

    study.run(config)
