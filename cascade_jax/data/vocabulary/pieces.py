"""Token ids as readable text, with names for sentinels and special tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported at its first use: it takes seconds, and not every command reads text
    import seqio


def text_of(vocabulary: seqio.Vocabulary, ids: list[int]) -> str:
    """Text of ids, sentinels by name."""
    parts, run = [], []
    for token_id in ids:
        name = _sentinel(vocabulary, token_id)
        if name is None:
            run.append(token_id)
        else:
            parts += [vocabulary.decode(run), name]
            run = []
    return "".join([*parts, vocabulary.decode(run)])


def piece_of(vocabulary: seqio.Vocabulary, token_id: int) -> str:
    """What one id stands for: "▁the", "e", "\\xe4" for a byte of a longer character, "</s>".

    A model may have more ids than its vocabulary; such an id gives its number, "<384>".
    """
    import seqio

    if token_id >= vocabulary.vocab_size:
        return f"<{token_id}>"
    special = {vocabulary.pad_id: "<pad>", vocabulary.eos_id: "</s>", vocabulary.unk_id: "<unk>"}
    name = special.get(token_id) or _sentinel(vocabulary, token_id)
    if name:
        return name
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return vocabulary.tokenizer.id_to_piece(token_id)
    if isinstance(vocabulary, seqio.ByteVocabulary):
        byte = token_id - 3
        return chr(byte) if byte < 128 else f"\\x{byte:02x}"
    return vocabulary.decode([token_id])


def _sentinel(vocabulary: seqio.Vocabulary, token_id: int) -> str | None:
    """Name of one of the ids behind the vocabulary's own, the last of which is number 0."""
    number = vocabulary.vocab_size - 1 - token_id
    return f"<extra_id_{number}>" if 0 <= number < vocabulary.extra_ids else None
