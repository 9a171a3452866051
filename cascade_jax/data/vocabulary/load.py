"""Vocabularies by name: loading them, and fingerprints that tell them apart."""

import hashlib
import re
from pathlib import Path

import seqio

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
    match = re.fullmatch(r"(.+)\+(\d+)", spec)
    if not match or Path(spec).is_file():
        return spec, 0
    if not int(match[2]):
        raise ValueError(f"vocabulary {spec!r} asks for 0 sentinels; leave '+0' out")
    return match[1], int(match[2])


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
