"""Vocabularies of the `tokenizers` library: a model's tokenizer.json as a seqio vocabulary."""

import atexit
import copy
import functools
import gc
import math
import re
from collections.abc import Iterable

import numpy as np
import seqio
import tensorflow as tf

from cascade_jax.data.vocabulary import chat_template
from cascade_jax.data.vocabulary.tokenizer_json import TokenizerFile


@functools.cache
def _end_data_sets_at_exit() -> None:
    """Ends every data set before Python does.

    A data set that reads ahead would otherwise deadlock with the exiting interpreter: each waits
    for the other.
    """

    def end() -> None:
        for tracked in gc.get_objects():
            if isinstance(tracked, tf.data.Iterator):
                vars(tracked).clear()  # the last reference to its threads

    atexit.register(end)


class TokenizerJsonVocabulary(seqio.Vocabulary):
    """A tokenizer.json as a seqio vocabulary; no special token is added to a text.

    Special tokens that a text spells become their ids, as in the `transformers` library; the
    padding token's name is spelt out as text instead (and dropped where that cannot be done), so
    that no id of a text is 0. Decoding leaves out padding and the end of sequence.
    """

    def __init__(self, spec: str, extra_ids: int = 0):
        """Reads the file.

        Args:
          spec: path of a tokenizer.json, options behind it as in `tokenizer_json`.
          extra_ids: number of ids behind the tokenizer's own.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: see `tokenizer_json.padding_id`.
        """
        super().__init__(extra_ids)
        file = TokenizerFile(spec)
        self._spec = spec
        self._special = special = file.special_ids()
        self._digest = file.digest()
        self._chat = file.chat_template()
        self._tokenizer = file.tokenizer()
        # Names that a text must not turn into one id: padding, and those that the model lacks.
        withheld = [n for n, i in file.added.items() if i == special.pad or i >= special.size]
        names = "|".join(re.escape(name) for name in sorted(withheld, key=len, reverse=True))
        self._withheld = re.compile(f"({names})") if withheld else None

    def __reduce__(self):
        return type(self), (self._spec, self.extra_ids)

    def __eq__(self, other) -> bool:
        if not isinstance(other, TokenizerJsonVocabulary):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._spec!r}, extra_ids={self.extra_ids})"

    @property
    def fingerprint(self) -> str:
        """The same for two vocabularies that give the same ids; see `load.fingerprint`."""
        ids = (self.vocab_size, self.extra_ids, self._special.pad, self._special.eos)
        ours = "-".join(map(str, ("tokenizer", self._digest, *ids)))
        return ours if self._chat is None else chat_template.marked(ours, self._chat.digest)

    def for_inputs(self) -> "ChatInputs | None":
        """The vocabulary of inputs, where a chat template renders them."""
        return None if self._chat is None else ChatInputs(self._spec, self.extra_ids)

    @property
    def eos_id(self) -> int:
        """Id that ends a sequence, after the exchange."""
        return self._exchange(self._special.eos)

    @property
    def bos_id(self) -> int | None:
        """Id at the start of the model's training sequences, or None."""
        return None if self._special.bos is None else self._exchange(self._special.bos)

    @property
    def unk_id(self) -> int | None:
        """Id of text that cannot be spelt; None also if that token has another meaning too."""
        special = self._special
        if special.unk in (None, special.eos, special.bos, special.pad):
            return None
        return self._exchange(special.unk)

    @property
    def tokenizer(self):
        """The `tokenizers.Tokenizer`, on its own ids."""
        return self._tokenizer

    @property
    def _base_vocab_size(self) -> int:
        return self._special.size

    def _exchange(self, token_id: int) -> int:
        """From the tokenizer's ids to ours and back."""
        pad = self._special.pad
        return {0: pad, pad: 0}.get(token_id, token_id)

    @functools.cached_property
    def _spelling(self):
        """A tokenizer to which names of special tokens are plain text."""
        spelling = copy.deepcopy(self._tokenizer)
        spelling.encode_special_tokens = True
        return spelling

    def _encode(self, s: str) -> list[int]:
        ids = []
        # Every second part is one of the names withheld.
        for number, part in enumerate(self._withheld.split(s) if self._withheld else [s]):
            tokenizer = self._spelling if number % 2 else self._tokenizer
            ids += tokenizer.encode(part, add_special_tokens=False).ids
        pad, size = self._special.pad, self._special.size
        return [i or pad for i in ids if i != pad and i < size]

    def _decode(self, ids: Iterable[int]) -> str:
        eos_id, size = self.eos_id, self._special.size
        kept = [self._exchange(int(i)) for i in ids if i not in (0, eos_id) and i < size]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    # A stateless function of Python leaves the position of a data set restorable.

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """A scalar gives [n]; [N] texts give a ragged [N, n]."""

        def encode(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = [self._encode(text.decode("utf-8", "replace")) for text in texts.reshape(-1)]
            values = np.fromiter((i for row in rows for i in row), np.int32)
            return values, np.array([len(row) for row in rows], np.int64)

        _end_data_sets_at_exit()
        s = tf.convert_to_tensor(s)
        if s.shape.rank not in (0, 1):
            raise ValueError(f"texts of rank {s.shape.rank}; must be one text or a list of texts")
        flat = tf.reshape(s, [-1])
        values, lengths = tf.numpy_function(encode, [flat], (tf.int32, tf.int64), stateful=False)
        values.set_shape([None])
        lengths.set_shape([None])
        return tf.RaggedTensor.from_row_lengths(values, lengths) if s.shape.rank else values

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """[..., L] ids give [...] texts."""

        def decode(rows: np.ndarray) -> np.ndarray:
            shape, length = rows.shape[:-1], rows.shape[-1]
            rows = rows.reshape(math.prod(shape), length).tolist()
            return np.array([self._decode(row).encode() for row in rows], object).reshape(shape)

        _end_data_sets_at_exit()
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor()
        ids = tf.convert_to_tensor(ids)
        texts = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        texts.set_shape(ids.shape[:-1])
        return texts


class ChatInputs(TokenizerJsonVocabulary):
    """The vocabulary of inputs that a chat template renders, each as the user's one message.

    The template says where an input ends, so that no EOS follows it. A text that starts with the
    token that starts a text loses it: decoder-only models put it before every example.
    """

    def rendered(self, text: str) -> str:
        """An input as the template renders it."""
        return self._chat.render(text)

    def spelt(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens by their names."""
        return self._tokenizer.decode([self._exchange(i) for i in ids], skip_special_tokens=False)

    @functools.cached_property
    def ending_length(self) -> int:
        """Ids of the end of an input: of its message, and the start of the answer."""
        return len(super()._encode(self._chat.ending))

    @functools.cached_property
    def template_length(self) -> int:
        """Ids of an input without a text."""
        return len(self._without_start(self._chat.opening)) + self.ending_length

    def _without_start(self, text: str) -> list[int]:
        ids = super()._encode(text)
        return ids[1:] if ids and ids[0] == self.bos_id else ids

    def _encode(self, s: str) -> list[int]:
        return self._without_start(self.rendered(s))
