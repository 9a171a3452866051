"""`cascade-jax vocab`: trains a SentencePiece vocabulary."""

HELP = """\
Trains a SentencePiece vocabulary on the training text of a mixture.

example:
  cascade-jax vocab --gin_file=gin/experiments/local_multitask.gin --gin.DATA_DIR="'/path/to/data'"
"""
CONFIG = "cascade_jax.data.vocabulary.training.VocabConfig"


def run(config) -> None:
    """Runs the command on its built config."""
    from cascade_jax.data.vocabulary import training

    training.train(config)
