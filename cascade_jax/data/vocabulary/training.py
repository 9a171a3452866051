"""What `cascade-jax vocab` does: a SentencePiece vocabulary for a mixture."""

import dataclasses
from pathlib import Path

from cascade_jax.data import sources
from cascade_jax.data.vocabulary import load


@dataclasses.dataclass(frozen=True)
class VocabConfig:
    """A vocabulary to train.

    Attributes:
      mixture: registered mixture or task whose training text is used.
      output_path: the file to write, ending in ".model"; DataConfig.vocabulary takes it.
      vocab_size: number of ids, special ones and 256 bytes included.
      data_dir: folder of JSONL files, or None for TFDS.
      split: which split's text.
    """

    mixture: str
    output_path: str
    vocab_size: int
    data_dir: str | None = None
    split: str = "train"

    def __post_init__(self):
        if not isinstance(self.output_path, str) or not self.output_path.endswith(".model"):
            raise ValueError(
                f"output_path is {self.output_path!r}; must be the file to write, ending in "
                "'.model' (in the run files: VOCABULARY)"
            )


def train(config: VocabConfig) -> None:
    """Trains the vocabulary of a config; one that is there already is kept, and it says so.

    Raises:
      ValueError: if the file is there with another number of ids, or the text does not give that
        many.
    """
    if Path(config.output_path).exists():
        size = load.load_vocabulary(config.output_path).vocab_size
        if size != config.vocab_size:
            raise ValueError(
                f"{config.output_path} is there with {size} ids, not {config.vocab_size}; delete "
                "it or write to another file"
            )
        print(f"{config.output_path}: already there with {size} ids, nothing to do")
        return
    if config.data_dir is not None:
        sources.set_data_dir(config.data_dir)
    prefix = config.output_path.removesuffix(".model")
    load.train_sentencepiece(config.mixture, prefix, config.vocab_size, split=config.split)
