"""Training a SentencePiece vocabulary on the text of a mixture: `cascade-jax vocab`."""

import io
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cascade_jax import checks, files
from cascade_jax.data.features import INPUTS, PRETOKENIZED, TARGETS
from cascade_jax.data.mixtures import look_up


@dataclass(frozen=True)
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
        path = self.output_path
        is_model = isinstance(path, str) and path.endswith(".model")
        allowed = "the file to write, ending in '.model' (in the run files: VOCABULARY)"
        checks.require(is_model, "output_path", path, allowed)
        checks.whole_number("vocab_size", self.vocab_size, 1)


def train(config: VocabConfig) -> None:
    """Trains the vocabulary of a config, unless it exists already.

    Raises:
      ValueError: if the file exists with another number of ids, or the text does not suffice for
        that many.
    """
    from cascade_jax.data import sources
    from cascade_jax.data.vocabulary import load

    if Path(config.output_path).exists():
        size = load.load_vocabulary(config.output_path).vocab_size
        if size != config.vocab_size:
            raise ValueError(
                f"{config.output_path} exists with {size} ids, not {config.vocab_size}; delete "
                "it or write to another file"
            )
        print(f"{config.output_path}: exists already with {size} ids, nothing to do")
        return
    if config.data_dir is not None:
        sources.set_data_dir(config.data_dir)
    prefix = config.output_path.removesuffix(".model")
    train_sentencepiece(config.mixture, prefix, config.vocab_size, split=config.split)


@dataclass(frozen=True)
class TrainedVocabulary:
    """The result of `train_sentencepiece`."""

    model_path: str  # the .model file; `load.load_vocabulary` takes it
    vocab_size: int  # special ids included
    tokens_per_byte: float  # over the text it was trained on; the byte vocabulary has 1.0


def mixture_texts(mixture: str, split: str = "train") -> Iterator[str]:
    """Every input and target text of a mixture's (or task's) split once, task after task.

    Of a task that works on ids and keeps no text, what its ids spell under its own vocabulary.

    Raises:
      ValueError: unknown name (the nearest are listed), or no task with that split.
    """
    import seqio

    tasks = seqio.get_subtasks(look_up(mixture))
    tasks = [task for task in tasks if split in task.splits]
    if not tasks:
        raise ValueError(f"no task of {mixture!r} has a split {split!r}")
    for task in tasks:
        dataset = task.get_dataset(None, split=split, shuffle=False, try_in_mem_cache=False)
        for example in dataset.as_numpy_iterator():
            for name in (INPUTS, TARGETS):
                if (text := example.get(name + PRETOKENIZED)) is not None:
                    yield text.decode("utf-8")
                else:
                    yield task.output_features[name].vocabulary.decode(example[name].tolist())


def _trainer_error(error: Exception, vocab_size: int, texts: int) -> ValueError:
    """SentencePiece's own messages name a source line of its C++; keep what the user can act on."""
    message = str(error)
    size = f"vocab_size {vocab_size}"
    if limit := re.search(r"too high.*<= (\d+)", message):
        return ValueError(f"{size} is too large for the {texts} texts: at most {limit[1]}")
    if limit := re.search(r"smaller than required_chars\D*\d+ vs (\d+)", message):
        return ValueError(
            f"{size} is too small for the characters of the text: more than {limit[1]}"
        )
    return ValueError(f"sentencepiece could not train with {size}: {message}")


def train_sentencepiece(
    mixture: str,
    output_prefix: str,
    vocab_size: int,
    *,
    split: str = "train",
    byte_fallback: bool = True,
    character_coverage: float = 0.9995,
) -> TrainedVocabulary:
    """Trains a unigram SentencePiece model on a mixture's inputs and targets; prints one line.

    Text is not normalised, so that decoding gives back what was encoded. Ids: 0 pad, 1 EOS, 2
    unknown, no BOS. One thread and no sampling: the same text gives the same file.

    Args:
      mixture: registered mixture or task.
      output_prefix: writes `<output_prefix>.model` and `.vocab`, making the folder.
      vocab_size: ids, special ones and (with `byte_fallback`) 256 bytes included.
      split: which split's text.
      byte_fallback: spell characters without a piece as bytes, so that nothing is unknown.
      character_coverage: share of the text's characters that get a piece of their own.

    Returns:
      The path, the size, and how many tokens a byte of the text takes.

    Raises:
      ValueError: vocab_size not between what the text needs and what it can give.
    """
    texts = [text for text in mixture_texts(mixture, split) if text]
    try:
        model = _train(texts, vocab_size, byte_fallback, character_coverage)
    except (RuntimeError, ValueError) as error:
        raise _trainer_error(error, vocab_size, len(texts)) from None
    processor = _write(model, output_prefix)
    tokens = sum(len(ids) for ids in processor.encode(texts, num_threads=1))
    ratio = tokens / sum(len(text.encode("utf-8")) for text in texts)
    trained = TrainedVocabulary(f"{output_prefix}.model", processor.vocab_size(), ratio)
    print(
        f"{trained.model_path}: {trained.vocab_size} ids, {ratio:.3f} tokens per byte of {mixture}"
    )
    return trained


def _train(
    texts: list[str], vocab_size: int, byte_fallback: bool, character_coverage: float
) -> bytes:
    """A serialised model that says nothing of where it was made, so that equal ones are equal."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    written = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        # Without any rule, TensorFlow's tokenizer prints a notice each time it is built; this one
        # maps a code point that Unicode keeps out of text to another such.
        rule = Path(folder, "rule.tsv")
        rule.write_text("FDD0\tFDD1\n")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            model_type="unigram",
            vocab_size=vocab_size,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            byte_fallback=byte_fallback,
            character_coverage=character_coverage,
            normalization_rule_tsv=str(rule),
            remove_extra_whitespaces=False,
            num_threads=1,
            max_sentence_length=1 << 16,
            minloglevel=2,
        )
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    model.normalizer_spec.ClearField("normalization_rule_tsv")  # a path in a folder now gone
    return model.SerializeToString(deterministic=True)


def _write(model: bytes, output_prefix: str):
    """Writes <prefix>.model and <prefix>.vocab (piece, tab, log-probability a line)."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = (
        f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in range(len(processor))
    )
    files.write_text(f"{output_prefix}.vocab", "".join(pieces))
    # Last: where the model is, the training was whole.
    with files.replacing(f"{output_prefix}.model") as temporary:
        temporary.write_bytes(model)
    return processor
