"""Checks of a tokenizer.json; the `tokenizers` library does not say where a mistake is."""

import json
from collections.abc import Mapping
from typing import Any

from cascade_jax.checks import LARGEST
from cascade_jax.json_text import require, shown

# Steps that the library reads on its own, each of one of its types.
_STEPS = ("normalizer", "pre_tokenizer", "decoder")
# Some tokens must stand for texts like these.
_PROBES = ("\U0010fffd", "\u65e5\u672c", "\xe9", "a")


def check_values(data: Mapping[str, Any]) -> None:
    """Refuses tokens and ids of other kinds, and ids that two pieces of text share.

    Raises:
      ValueError: with the key and the value.
    """
    model = data["model"]
    vocab = model["vocab"]
    require(isinstance(vocab, dict | list), "model.vocab", vocab, "an object or a list")
    if isinstance(vocab, dict):
        _check_ids(vocab)
    else:
        _check_scores(vocab)
    merges = model.get("merges")
    if merges is not None:
        require(isinstance(merges, list), "model.merges", merges, "a list")
    added = data.get("added_tokens") or []
    require(isinstance(added, list), "added_tokens", added, "a list")
    places = {}
    for number, token in enumerate(added):
        place = f"added_tokens[{number}]"
        require(isinstance(token, dict), place, token, "an object")
        content, token_id = token.get("content"), token.get("id")
        is_name = isinstance(content, str) and content != ""
        require(is_name, f"{place}.content", content, "a text that is not empty")
        _check_id(f"{place}.id", token_id)
        special = token.get("special", False)
        require(isinstance(special, bool), f"{place}.special", special, "true or false")
        for key, value in (("content", content), ("id", token_id)):
            other = places.setdefault((key, value), place)
            require(other == place, f"{place}.{key}", value, f"another than that of {other}")


def _check_id(place: str, value: Any) -> None:
    require(type(value) is int and 0 <= value < LARGEST, place, value, f"an id, 0 to {LARGEST - 1}")


def _check_ids(vocab: Mapping[str, Any]) -> None:
    pieces = {}
    for piece, token_id in vocab.items():
        place = f"model.vocab[{shown(piece)}]"
        _check_id(place, token_id)
        other = pieces.setdefault(token_id, piece)
        require(other == piece, place, token_id, f"another id than that of {shown(other)}")


def _check_scores(vocab: list) -> None:
    places = {}
    for number, entry in enumerate(vocab):
        place = f"model.vocab[{number}]"
        is_pair = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        is_pair = is_pair and type(entry[1]) in (int, float)
        require(is_pair, place, entry, "a piece of text with its score")
        other = places.setdefault(entry[0], place)
        require(other == place, place, entry[0], f"another piece than that of {other}")


def build(data: Mapping[str, Any], text: str, ids: Mapping[str, int]) -> Any:
    """The library's tokenizer of a file's values.

    Args:
      data, text: the values, and as JSON.
      ids: token -> id by the file.

    Raises:
      ValueError: the library refuses a part, which is named; gives a token another id than the file
        does; or can't spell every text.
    """
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more special
        key = _refused_part(data)
        value = f" {shown(data[key])}" if key in _STEPS else ""
        raise ValueError(f"{key}{value} is refused by the tokenizers library: {error}") from None
    if (actual := tokenizer.get_vocab(with_added_tokens=True)) != ids:
        token = next(name for name in {**ids, **actual} if ids.get(name) != actual.get(name))
        raise ValueError(
            f"token {shown(token)} has id {ids.get(token)} in the file, {actual.get(token)} in the "
            "tokenizers library"
        )
    try:
        for probe in _PROBES:
            tokenizer.encode(probe, add_special_tokens=False)
    except Exception as error:
        raise ValueError(
            f"model has no token for texts that it can't spell ({error}); an unk_token (unk_id) of "
            "its vocabulary must be one"
        ) from None
    return tokenizer


def _refused_part(data: Mapping[str, Any]) -> str:
    """The key without whose value the library takes the rest."""
    import tokenizers

    for key, empty in (*dict.fromkeys(_STEPS).items(), ("added_tokens", []), ("version", "1.0")):
        try:
            tokenizers.Tokenizer.from_str(json.dumps({**data, key: empty}))
        except Exception:
            continue
        return key
    return "model"
