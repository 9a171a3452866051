"""Options of a row, the texts of its possible answers, as ids; two that are alike are refused."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import seqio

OPTIONS = "options"  # the feature that holds them


def option_ids(
    texts: Iterable[bytes], vocabulary: "seqio.Vocabulary", target_length: int | None, where: str
) -> dict[str, tuple[int, ...]]:
    """Ids of options by their text, each as a target: cut to length, EOS at its end.

    A text that comes twice is one option.

    Args:
      texts: of one row.
      vocabulary: of targets.
      target_length: with EOS; None cuts nothing off.
      where: the row, for messages.

    Raises:
      ValueError: no options, or two texts with the same ids, which no ranking can tell apart.
    """
    ids_of: dict[str, tuple[int, ...]] = {}
    text_of: dict[tuple[int, ...], str] = {}
    for encoded in texts:
        text = encoded.decode("utf-8")
        whole = vocabulary.encode(text)
        end = None if target_length is None else target_length - 1
        ids = (*whole[:end], vocabulary.eos_id)
        if (other := text_of.setdefault(ids, text)) != text:
            reason = "in this vocabulary"
            if end is not None and len(whole) > end:
                reason = f"when cut to target_length {target_length}; "
                reason += f"they need {len(whole) + 1} tokens"
            raise ValueError(f"{where}: options {other!r} and {text!r} are the same ids {reason}")
        ids_of[text] = ids
    if not ids_of:
        raise ValueError(f"{where} has no options to rank")
    return ids_of


def checked(
    rows: Iterable[Mapping[str, Any]],
    vocabulary: "seqio.Vocabulary",
    target_length: int | None,
    place: str,
) -> Iterator[Mapping[str, Any]]:
    """The rows as they are; `option_ids` refuses those whose options can't be told apart.

    Args:
      rows: examples, with or without options.
      vocabulary, target_length: as in `option_ids`.
      place: task and split, for messages: "demo_v1/test".
    """
    known: set[tuple[bytes, ...]] = set()
    for index, row in enumerate(rows):
        texts = tuple(row.get(OPTIONS, ()))
        if texts and texts not in known:
            known.add(texts)
            option_ids(texts, vocabulary, target_length, f"example '{place}/{index}'")
        yield row
