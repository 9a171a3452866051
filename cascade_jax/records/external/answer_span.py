"""Which of the tokens that a server lists are those of the answer.

Servers list everything that was generated: reasoning, the markers around it and the token that ends
the answer too; the message holds the answer alone. E.g. of the tokens "<think>", "hm", "</think>",
"Par", "is", "<|im_end|>" and the answer "Paris" the last three are. The token that ends an answer
is one of its tokens, here as everywhere in records.
"""

import collections
import re
from collections.abc import Sequence

from cascade_jax.records.external import notes as kinds
from cascade_jax.records.external.lines import Line, shown

_MARKER = re.compile(r"<[^<>]{1,60}>|\[/?[A-Z_]{2,20}\]")  # <|im_end|>, </s>, [EOS]
# What ends reasoning.
_REASONED = re.compile(
    rb"</(?:think|thinking|reasoning)>|\[/THINK\]|<\|channel\|>final<\|message\|>"
)
_OF_IDS = re.compile(r"token_id:\d+")
_LOST = "\ufffd"  # a part of a character, decoded by itself
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte in SentencePiece's pieces


def checked_span(
    line: Line,
    answer: str,
    pieces: Sequence[str],
    notes: collections.Counter,
    *,
    piece_bytes: Sequence[Sequence[int] | None] | None = None,
    has_reasoning: bool = False,
    name: str = "logprobs",
) -> tuple[int, int]:
    """First and past-the-end index of the answer's tokens; how many others there are is noted.

    Args:
      line: where they stand.
      answer: its text.
      pieces: text of each token that is listed.
      notes: gets the counts (`notes.KINDS`).
      piece_bytes: bytes of each token, or None.
      has_reasoning: whether the line says that there are other tokens too.
      name: of the field that lists the tokens.

    Raises:
      UnusableError: the answer is not found in them.
    """
    data = [None] * len(pieces) if piece_bytes is None else piece_bytes
    span = span_of_answer(answer, pieces, data)
    if span is None and are_ids(pieces) and not has_reasoning:
        notes[kinds.ONLY_IDS] += len(pieces)
        return 0, len(pieces)
    if span is None:
        raise line.unusable(
            kinds.OTHER_TOKENS,
            f"{name} have {len(pieces)} tokens, {shown(''.join(pieces))}, in which the answer "
            f"{shown(answer)} is not found; they must be those of the answer. --unusable drop "
            "leaves such examples out",
        )
    notes[kinds.NOT_ANSWER] += len(pieces) - (span[1] - span[0])
    return span


def span_of_answer(
    answer: str, pieces: Sequence[str], piece_bytes: Sequence[Sequence[int] | None]
) -> tuple[int, int] | None:
    """First and past-the-end index of the answer's tokens; None if they are not there.

    Args:
      answer: its text.
      pieces: text of each token that is listed.
      piece_bytes: its bytes, or None.
    """
    for form_fn in (_exact, _sentence_pieces, _byte_level):
        try:
            texts = form_fn(pieces, piece_bytes)
        except (TypeError, ValueError):
            continue  # not that form
        if (span := _span(answer.encode(), texts)) is not None:
            return span
    span = _span_of_damaged(answer, pieces)
    if span is None and len(answer.split()) > 1:
        # SentencePiece's pieces that were decoded one by one lack the space before them.
        bare = ["".join(piece.split()).encode() for piece in pieces]
        span = _span("".join(answer.split()).encode(), bare)
    return span


def are_ids(pieces: Sequence[str]) -> bool:
    """Whether they are "token_id:42", as vLLM writes them if asked: nothing can be compared."""
    return all(_OF_IDS.fullmatch(piece) for piece in pieces)


# ------------------------------------------------------------------ forms of pieces


def _exact(pieces: Sequence[str], piece_bytes: Sequence[Sequence[int] | None]) -> list[bytes]:
    return [
        piece.encode() if data is None else bytes(data)
        for piece, data in zip(pieces, piece_bytes, strict=True)
    ]


def _sentence_pieces(pieces: Sequence[str], _: Sequence) -> list[bytes]:
    """ "▁Paris" and "<0xC3>" as " Paris" and the byte."""
    return [
        bytes([int(match[1], 16)]) if (match := _BYTE.fullmatch(piece)) else
        piece.replace("▁", " ").encode()
        for piece in pieces
    ]  # fmt: skip


def _byte_level(pieces: Sequence[str], _: Sequence) -> list[bytes]:
    """ "ĠParis" as " Paris": a letter of GPT-2's alphabet for each byte."""
    return [
        piece.encode() if _MARKER.fullmatch(piece) else bytes(map(_BYTE_OF.__getitem__, piece))
        for piece in pieces
    ]


def _alphabet() -> dict[str, int]:
    """GPT-2's letter of every byte: itself where it prints, else the next one from U+0100 on."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in prints]
    return {chr(b): b for b in prints} | {chr(256 + i): b for i, b in enumerate(others)}


class _Letters(dict):
    def __missing__(self, letter: str) -> int:
        raise ValueError(f"{letter!r} is none of the alphabet")


_BYTE_OF = _Letters(_alphabet())


# ------------------------------------------------------------------ spans


def _span(answer: bytes, pieces: list[bytes]) -> tuple[int, int] | None:
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    joined = b"".join(pieces)
    answer = answer.strip()
    if not answer:
        # No token of an empty answer, unless there is nothing but its end.
        return (0, len(pieces)) if all(map(_is_end, pieces)) else (0, 0)
    place = _place(answer, joined, pieces, ends)
    if place is None:
        return None
    start = next(i for i, end in enumerate(ends[1:]) if end > place)
    stop = next(i for i, end in enumerate(ends) if end >= place + len(answer))
    if not b"".join(pieces[:start]).strip():
        start = 0  # white space that the server took off
    return start, _with_end(pieces, stop)


def _place(answer: bytes, joined: bytes, pieces: list[bytes], ends: list[int]) -> int | None:
    """Where the answer begins: at the end but for what ends it.

    Or, where a stop text follows that the server cut off, at the start or in its only place, both
    behind the reasoning.
    """
    for count in range(len(pieces), 0, -1):
        text = joined[: ends[count]].rstrip()
        if text.endswith(answer):
            return len(text) - len(answer)
        if not _is_end(pieces[count - 1]):
            break
    begin = 0 if _REASONED.search(answer) else _past_reasoning(joined)
    left = joined[begin:]
    is_first = left.lstrip().startswith(answer)
    return begin + left.find(answer) if is_first or left.count(answer) == 1 else None


def _past_reasoning(joined: bytes) -> int:
    return max((match.end() for match in _REASONED.finditer(joined)), default=0)


def _is_end(piece: bytes) -> bool:
    text = piece.decode(errors="replace").strip()
    return not text or bool(_MARKER.fullmatch(text))


def _with_end(pieces: list[bytes], stop: int) -> int:
    """Past the white space after an answer and the one token that ends it."""
    while stop < len(pieces) and pieces[stop] and not pieces[stop].strip():
        stop += 1
    return stop + (stop < len(pieces) and _is_end(pieces[stop]))


def _span_of_damaged(answer: str, pieces: Sequence[str]) -> tuple[int, int] | None:
    """Of pieces with U+FFFD for parts of characters: from the end, those match any such character.

    E.g. "\ufffd", "\ufffd", "!" are the answer "é!".
    """
    if not any(_LOST in piece for piece in pieces):
        return None
    start = stop = _without_end(pieces)
    left, lost = answer.strip(), 0
    while left and start:
        start -= 1
        piece = pieces[start].rstrip() if start == stop - 1 else pieces[start]
        for letter in reversed(piece):
            if letter == _LOST:
                lost += 1
                continue
            skipped = _skipped(left, letter, lost)
            if skipped is None:
                return None
            left, lost = left[: len(left) - skipped - 1], 0
            if not left:
                break
        if left and len(left) <= lost and not any(letter.isascii() for letter in left):
            left = ""
            while start and set(pieces[start - 1]) == {_LOST}:
                start -= 1
    if left:
        return None
    if not "".join(pieces[:start]).strip():
        start = 0
    return start, _with_end([piece.encode() for piece in pieces], stop)


def _without_end(pieces: Sequence[str]) -> int:
    stop = len(pieces)
    while stop and _is_end(pieces[stop - 1].encode()):
        stop -= 1
    return stop


def _skipped(text: str, letter: str, most: int) -> int | None:
    """How many characters stand after the last letter of that kind; None if it is not there.

    At most `most`, none of them ASCII; at least one if `most` is not 0.
    """
    for count in range(min(most, 1), min(most, len(text) - 1) + 1):
        between = text[len(text) - count :]
        if any(character.isascii() for character in between):
            return None
        if text[len(text) - count - 1] == letter:
            return count
    return None
