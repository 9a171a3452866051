"""What `cascade-jax evaluate` does with its config, for tests."""

from cascade_jax.evaluation.evaluate import EvaluateConfig, evaluate
from cascade_jax.report.write import write


def evaluate_and_write(records_files, output_dir, **settings):
    """Evaluates records, writes the report into a folder, and returns the evaluation."""
    evaluation = evaluate(EvaluateConfig(records_files, output_dir, **settings))
    write(evaluation, output_dir)
    return evaluation
