"""`cascade-jax evaluate`: from records to curves, figures and a report."""

HELP = """\
Reads records tables, never a model, and writes deferral curves as pictures (PNG and SVG), figures
(metrics.json), tables (summary.md) and report.html.

example:
  cascade-jax evaluate --gin_file=gin/experiments/demo.gin
  cascade-jax evaluate --gin_file=gin/runs/evaluate.gin \\
    --gin.RECORDS="{'xent': 'runs/a.parquet', 'cat': 'runs/b.parquet'}" \\
    --gin.REPORT_DIR="'runs/report'"
"""
CONFIG = "cascade_jax.evaluation.evaluate.EvaluateConfig"
NEEDS_TASKS = False


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.evaluation.evaluate import evaluate
    from cascade_jax.report import terminal
    from cascade_jax.report.write import write

    evaluation = evaluate(config)
    write(evaluation, config.output_dir)
    below = terminal.below(evaluation, config.output_dir)
    print(f"{terminal.format_table(evaluation)}\n\n{below}")
