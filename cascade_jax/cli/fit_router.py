"""`cascade-jax fit-router`: a learned deferral score from records."""

HELP = """\
Fits a learned router on the records of a calibration split, prints its cross-validated area and
AUROC beside those of the other scores, and saves it for `cascade-jax evaluate`.

example:
  cascade-jax fit-router --gin_file=gin/runs/fit_router.gin \\
    --gin.RECORDS="'runs/demo/records/validation/cat_xent.parquet'" \\
    --gin.ROUTER_FILE="'runs/demo/router.npz'"
"""
CONFIG = "cascade_jax.evaluation.fit_router.FitRouterConfig"
NEEDS_TASKS = False


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.evaluation.fit_router import fit_router
    from cascade_jax.report import terminal

    print(terminal.format_router(fit_router(config)))
    print(f"\nsaved to {config.router_file}")
