"""`cascade-jax calibrate`: thresholds that keep a budget with a guarantee."""

HELP = """\
Finds thresholds that keep a budget with a guarantee: single tokens deferred live, or whole answers
of records. Writes certificates and budget.json. On many hosts each runs this command.

exit status: 0 done; 2 bad input, full disk; 75 asked to stop (SIGTERM); 76 another host died or
hangs. Decoded answers are kept, and the same command continues with the rest.

example:
  cascade-jax calibrate --gin_file=gin/experiments/demo.gin --gin.ALPHAS="[0.05, 0.1]"
  cascade-jax calibrate --gin_file=gin/experiments/demo.gin --gin.LEVEL="'answer'"
"""
CONFIG = "cascade_jax.calibration.calibrate.CalibrateConfig"
RUNS_MODELS = True


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax import text_table
    from cascade_jax.calibration import calibrate, summary
    from cascade_jax.parallel import hosts
    from cascade_jax.report.plots import budget as plots

    budget = calibrate.calibrate(config)
    if hosts.is_first():
        plots.write_pictures(budget, config.output_dir)
    paths = [calibrate.certificate_path(config.output_dir, alpha) for alpha in budget.alphas]
    table = text_table.as_text(summary.table(budget), rule=True)
    hosts.print_once("\n".join(["", table, "", *map(str, paths)]))
