"""`cascade-jax calibrate`."""

HELP = """\
Finds thresholds that keep a budget with a guarantee: single tokens deferred live, or whole answers
of records. Writes certificates and budget.json; what is decoded is kept, so a run can go on.

example:
  cascade-jax calibrate --gin_file=gin/experiments/demo.gin --gin.ALPHAS="[0.05, 0.1]"
  cascade-jax calibrate --gin_file=gin/experiments/demo.gin --gin.LEVEL="'answer'"
"""
CONFIG = "cascade_jax.evaluation.calibration.CalibrateConfig"


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.evaluation import budget, calibration

    found = calibration.calibrate(config)
    print(f"\n{budget.format_table(found)}\n")
    for alpha in found["alphas"]:
        print(calibration.certificate_path(config.output_dir, alpha))
