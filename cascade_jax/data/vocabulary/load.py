"""Loading, comparing and training vocabularies."""

import hashlib
import io
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import seqio

from cascade_jax import files
from cascade_jax.data.features import INPUTS, PRETOKENIZED, TARGETS
from cascade_jax.data.registry import look_up
from cascade_jax.data.vocabulary import tokenizer_json
from cascade_jax.data.vocabulary.tokenizer import TokenizerJsonVocabulary

BYTE = "byte"


def load_vocabulary(spec: str) -> seqio.Vocabulary:
    """Builds a vocabulary, with sentinel ids behind its own if asked for.

    Sentinels stand for what a text leaves out (tasks/denoising.py). They are the last ids, the
    first sentinel the very last: "byte+100" has ids 259..358 for them, 358 first. T5's public model
    with "+100" has the 32,100 ids that its checkpoints were trained with.

    Args:
      spec: "byte" (ids 3..258 are the bytes), the path of a SentencePiece .model file, or that of
        a tokenizer.json, with its special tokens behind it if the files beside it do not say them
        ("model/tokenizer.json?eos=</s>", see `tokenizer_json`); then, for n sentinels, "+n".

    Raises:
      FileNotFoundError: if `spec` is none of these.
      ValueError: if the file is not what its name says, a SentencePiece model's pad id is not 0, a
        tokenizer.json's special tokens are not known, or n is 0.
    """
    name, sentinels = _without_sentinels(spec)
    if name == BYTE:
        return seqio.ByteVocabulary(extra_ids=sentinels)
    path = Path(name)
    if tokenizer_json.is_spec(name):
        return TokenizerJsonVocabulary(name, extra_ids=sentinels)
    if not path.is_file():
        raise FileNotFoundError(
            f"vocabulary {spec!r} does not exist; give {BYTE!r} or the path of a tokenizer.json or "
            "a SentencePiece .model file (`cascade-jax vocab` trains one), and "
            '"+100" behind it for 100 sentinels'
        )
    vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids=sentinels)
    try:
        tokenizer = vocabulary.tokenizer
    except Exception as error:  # protobuf, RuntimeError or OSError, by version
        raise ValueError(f"vocabulary {spec!r} is not a SentencePiece model: {error}") from None
    if tokenizer.pad_id() != 0 or tokenizer.eos_id() < 1:
        raise ValueError(
            f"vocabulary {spec!r} has pad id {tokenizer.pad_id()} and EOS id "
            f"{tokenizer.eos_id()}; pad must be 0 and EOS above it"
        )
    return vocabulary


def _without_sentinels(spec: str) -> tuple[str, int]:
    """ "byte+100" -> ("byte", 100); a file whose own name ends so is that file."""
    found = re.fullmatch(r"(.+)\+(\d+)", spec)
    if not found or Path(spec).is_file():
        return spec, 0
    if not int(found[2]):
        raise ValueError(f"vocabulary {spec!r} asks for 0 sentinels; leave '+0' out")
    return found[1], int(found[2])


def fingerprint(vocabulary: seqio.Vocabulary) -> str:
    """A text that two vocabularies share exactly if they give the same ids.

    "byte-259" for the byte vocabulary, "sentencepiece-<sha256 of the model>-<size>" for a
    SentencePiece one; sentinels count among the size, and as pieces of the model. "tokenizer-..."
    for a tokenizer.json: a hash of what decides on ids, then size, sentinels, padding and EOS.

    Raises:
      ValueError: for any other vocabulary.
    """
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return f"{BYTE}-{vocabulary.vocab_size}"
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        digest = hashlib.sha256(vocabulary.sp_model).hexdigest()
        return f"sentencepiece-{digest}-{vocabulary.vocab_size}"
    if isinstance(vocabulary, TokenizerJsonVocabulary):
        return vocabulary.fingerprint
    raise ValueError(
        f"cannot tell {type(vocabulary).__name__} from others; must be ByteVocabulary, "
        "SentencePieceVocabulary or TokenizerJsonVocabulary"
    )


@dataclass(frozen=True)
class TrainedVocabulary:
    """What `train_sentencepiece` made.

    Attributes:
      model_path: the .model file; `load_vocabulary` takes it.
      vocab_size: number of ids, special ones included.
      tokens_per_byte: over the text it was trained on; the byte vocabulary has 1.0.
    """

    model_path: str
    vocab_size: int
    tokens_per_byte: float


def mixture_texts(mixture: str, split: str = "train") -> Iterator[str]:
    """Every input and target text of a mixture's (or task's) split once, task after task.

    Of a task that works on ids and keeps no text, what its ids spell under its own vocabulary.

    Raises:
      ValueError: unknown name (the nearest are listed), or no task with that split.
    """
    tasks = seqio.get_subtasks(look_up(mixture))
    tasks = [task for task in tasks if split in task.splits]
    if not tasks:
        raise ValueError(f"no task of {mixture!r} has a split {split!r}")
    for task in tasks:
        dataset = task.get_dataset(None, split=split, shuffle=False, try_in_mem_cache=False)
        for example in dataset.as_numpy_iterator():
            for name in (INPUTS, TARGETS):
                text = example.get(name + PRETOKENIZED)
                if text is None:
                    own = task.output_features[name].vocabulary
                    yield own.decode(example[name].tolist())
                else:
                    yield text.decode("utf-8")


def _trainer_error(error: Exception, vocab_size: int, texts: int) -> ValueError:
    """SentencePiece's own messages name a source line of its C++; keep what the user can act on."""
    message = str(error)
    if limit := re.search(r"too high.*<= (\d+)", message):
        return ValueError(
            f"vocab_size {vocab_size} is too large for the {texts} texts: at most {limit[1]}"
        )
    if limit := re.search(r"smaller than required_chars\D*\d+ vs (\d+)", message):
        return ValueError(
            f"vocab_size {vocab_size} is too small for the characters of the text: "
            f"more than {limit[1]}"
        )
    return ValueError(f"sentencepiece could not train with vocab_size {vocab_size}: {message}")


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
