"""`cascade-jax evaluate`: from records to curves, figures and a report."""

HELP = """\
Reads records tables, never a model, and writes deferral curves, figures (metrics.json), pictures
(PNG) and report.html.

example:
  cascade-jax evaluate --gin_file=gin/experiments/demo.gin
  cascade-jax evaluate --gin_file=gin/runs/evaluate.gin \\
    --gin.RECORDS="{'xent': 'runs/a.parquet', 'cat': 'runs/b.parquet'}" \\
    --gin.REPORT_DIR="'runs/report'"
"""
CONFIG = "cascade_jax.evaluation.evaluate.EvaluateConfig"


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.evaluation import evaluate
    from cascade_jax.report import terminal

    found = evaluate.evaluate(config)
    print(terminal.format_table(found) + "\n\n" + terminal.below(found, config.output_dir))
