"""A tokenizer.json of the `tokenizers` library: which tokens are special, and which is padding.

A vocabulary is spelt as the path of the file, then, if the files beside it do not say them, its
special tokens: "model/tokenizer.json?eos=</s>&pad=<pad>". Options: eos, pad, bos and unk name a
token, ids is the number of ids where the model has fewer than its tokenizer; chat_template and
chat.NAME say how inputs are rendered, see `chat_template`.

Id 0 is padding in this project. Where a tokenizer has another token there, this token and the
padding token (`padding_id`) exchange their ids; a checkpoint's rows are exchanged alike when it is
imported.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_jax import json_file
from cascade_jax.data.vocabulary import chat_template, tokenizer_check
from cascade_jax.json_text import require
from cascade_jax.names import did_you_mean

NAMES = ("eos", "pad", "bos", "unk")
OPTIONS = (*NAMES, "ids", chat_template.OPTION)
_NAMING_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_NUMBERING_FILES = ("generation_config.json", "config.json")


@dataclass(frozen=True)
class SpecialIds:
    """The special tokens of a tokenizer, by its own ids."""

    eos: int  # ends a sequence
    pad: int  # no text has it; exchanges its id with 0
    bos: int | None  # starts a sequence
    unk: int | None  # for text that cannot be spelt
    size: int  # number of ids


def padding_id(spec: str) -> int:
    """The tokenizer's own id of the token that is padding here, and so exchanges ids with 0.

    It is the tokenizer's padding token, unless that ends or starts a sequence too. Then it is a
    special token that does neither and is not the unknown token: the first that has "pad" in its
    name, or else the first of all; the unknown token where there is no other.

    Args:
      spec: path of a tokenizer.json, options behind it as in the module's docstring.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not a tokenizer.json, no token ends a sequence, or none can be padding.
    """
    return TokenizerFile(spec).special_ids().pad


def renders_chats(spec: str) -> bool:
    """Whether a vocabulary's name asks for its chat template; the file is not read.

    Raises:
      ValueError: see `split_spec`.
    """
    return is_spec(spec) and chat_template.OPTION in split_spec(spec)[1]


def is_spec(spec: str) -> bool:
    """Whether a vocabulary's name means a tokenizer.json, by its ending."""
    return _split(spec)[0].endswith(".json")


def split_spec(spec: str) -> tuple[Path, dict[str, str]]:
    """ "a/tokenizer.json?eos=</s>" -> (a/tokenizer.json, {"eos": "</s>"}).

    Raises:
      ValueError: for an unknown option, or one without a value.
    """
    name, rest = _split(spec)
    options = {}
    for part in rest.split("&") if rest is not None else ():
        key, _, value = part.partition("=")
        is_known = key in OPTIONS or chat_template.is_variable(key)
        if not is_known or not value:
            hint = "" if is_known else did_you_mean(key, OPTIONS)
            raise ValueError(
                f"vocabulary {spec!r} has {part!r} behind the path; must be one of "
                f"{', '.join(f'{option}=...' for option in OPTIONS)}, "
                f"{chat_template.VARIABLE}NAME=...{hint}"
            )
        options[key] = value
    return Path(name), options


def _split(spec: str) -> tuple[str, str | None]:
    """Path and options; a file whose own name has a question mark is that file."""
    name, mark, rest = (spec, "", "") if Path(spec).is_file() else spec.partition("?")
    return name, rest if mark else None


class TokenizerFile:
    """A tokenizer.json, without the steps that add special tokens, truncate or pad.

    Attributes:
      spec: as given.
      path: of the file.
      ids: token -> id, of all tokens.
      added: token -> id, of those that are not pieces of the tokenizer's model.
      special: token -> id, of those among `added` that are called special, lowest id first.
    """

    def __init__(self, spec: str):
        """Reads the file; see `padding_id`."""
        self.spec = spec
        self.path, self._options = split_spec(spec)
        self._data = data = _read(spec, self.path)
        vocab, added = data["model"]["vocab"], data["added_tokens"]
        # Unigram models list their pieces, with a score each; the others map them to ids.
        listed = isinstance(vocab, list)
        pieces = {piece: i for i, (piece, _) in enumerate(vocab)} if listed else vocab
        self.added = {token["content"]: token["id"] for token in added}
        self.special = {token["content"]: token["id"] for token in added if token.get("special")}
        self.ids = {**pieces, **self.added}

    def tokenizer(self):
        """A new `tokenizers.Tokenizer`.

        Raises:
          ValueError: see `tokenizer_check.build`.
        """
        try:
            return tokenizer_check.build(self._data, json.dumps(self._data), self.ids)
        except ValueError as error:
            raise ValueError(f"vocabulary {self.spec!r}: {error}") from None

    def digest(self) -> str:
        """A hash of all that determines ids, independent of the version that wrote the file."""
        model = {
            key: value
            for key, value in self._data["model"].items()
            if not (value is None or value is False or value == "")  # defaults
        }
        if "merges" in model:
            model["merges"] = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        parts = ("normalizer", "pre_tokenizer", "added_tokens")
        whole = {"model": model, **{name: self._data.get(name) for name in parts}}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def chat_template(self) -> chat_template.ChatTemplate | None:
        """The template that the options name, or None.

        Raises:
          ValueError: there is no such template, or it will not do; see `ChatTemplate`.
        """
        try:
            return chat_template.find(self.path, self._options, self._special_names())
        except ValueError as error:
            raise ValueError(f"vocabulary {self.spec!r}: {error}") from None

    def _special_names(self) -> dict[str, str]:
        """Special tokens under the names that templates have for them: bos_token, eos_token, ..."""
        names = {}
        for file in reversed(_NAMING_FILES):
            for key, name in self._settings[file].items():
                name = name.get("content") if isinstance(name, dict) else name
                if key.endswith("_token") and isinstance(name, str):
                    names[key] = name
        return names | {f"{key}_token": self._options[key] for key in NAMES if key in self._options}

    def special_ids(self) -> SpecialIds:
        """The special tokens, from the options and the files beside.

        Raises:
          ValueError: see `padding_id`.
        """
        size = self._size()
        named = {key: self._named(key) for key in NAMES}
        if named["eos"] is None and self._end_ids:
            named["eos"] = self._end_ids[0]
        if named["eos"] is None:
            raise ValueError(
                f"vocabulary {self.spec!r}: no token is known that ends a sequence; "
                f"{_NAMING_FILES[0]} or {_NAMING_FILES[1]} beside it may name an eos_token, "
                f"{_NUMBERING_FILES[0]} an eos_token_id, or write it behind the path: "
                f"'{self.path}?eos=...'; special tokens: {self._some_special()}"
            )
        for key, value in named.items():
            # Padding that the model lacks is chosen anew, unless the user has named it.
            if value is not None and not 0 <= value < size and not self._may_choose(key):
                raise ValueError(
                    f"vocabulary {self.spec!r} has {key} id {value}; must be 0 to {size - 1}"
                )
        pad = self._padding(named, size)
        return SpecialIds(named["eos"], pad, named["bos"], named["unk"], size)

    # -------------------------------------------------------------- parts of special_ids

    @functools.cached_property
    def _settings(self) -> dict[str, dict[str, Any]]:
        names = (*_NAMING_FILES, *_NUMBERING_FILES)
        return {name: _read_json_beside(self.path, name) for name in names}

    @functools.cached_property
    def _end_ids(self) -> list[int]:
        """End-of-sequence ids by the files that number tokens; chat models have several."""
        for file in _NUMBERING_FILES:
            eos = self._settings[file].get("eos_token_id")
            if eos is not None:
                ids = eos if isinstance(eos, list) else [eos]
                is_right = all(type(each) is int and each >= 0 for each in ids)
                place = f"{self.path.parent / file}: eos_token_id"
                require(is_right, place, eos, "an id, a list of ids or null")
                return ids
        return []

    def _some_special(self) -> str:
        return ", ".join(list(self.special)[:8]) or "none"

    def _may_choose(self, key: str) -> bool:
        return key == "pad" and "pad" not in self._options

    def _named(self, key: str) -> int | None:
        """A special token from the options, or the first file that names it."""
        if key in self._options:
            return self._find(self._options[key], f"which {key} names")
        for file in _NAMING_FILES:
            name = self._settings[file].get(f"{key}_token")
            name = name.get("content") if isinstance(name, dict) else name
            if name is not None:
                place = f"{self.path.parent / file}: {key}_token"
                require(isinstance(name, str), place, name, "a token's name or null")
                return self._find(name, f"the {key}_token of {file} beside it")
        return None

    def _find(self, name: str, where: str) -> int:
        if name in self.ids:
            return self.ids[name]
        hint = did_you_mean(name, self.special) or f"; special tokens: {self._some_special()}"
        raise ValueError(f"vocabulary {self.spec!r} has no token {name!r}, {where}{hint}")

    def _padding(self, named: Mapping[str, int | None], size: int) -> int:
        """See `padding_id`."""
        pad, ends = named["pad"], (named["eos"], named["bos"])
        where = f"vocabulary {self.spec!r}"
        if "pad" in self._options:
            if pad in ends:
                raise ValueError(f"{where}: padding must not be what starts or ends a sequence")
            return pad
        taken = {*ends, *self._end_ids}
        if pad is not None and pad < size and pad not in taken:
            return pad
        free = {name: i for name, i in self.special.items() if i not in taken and i < size}
        others = {name: i for name, i in free.items() if i != named["unk"]}
        padding = {name: i for name, i in others.items() if "pad" in name.lower()}
        for candidates in (padding, others, free):
            if candidates:
                return next(iter(candidates.values()))
        raise ValueError(
            f"{where}: no token can stand for padding, as each special token "
            f"starts or ends a sequence; name one that no text has: '{self.path}?pad=...'"
        )

    def _size(self) -> int:
        """Number of ids: the tokenizer's, or the model's if it has fewer."""
        whole = max(self.ids.values()) + 1
        if "ids" in self._options:
            text = self._options["ids"]
            if not text.isdecimal() or not 0 < int(text) <= whole:
                raise ValueError(
                    f"vocabulary {self.spec!r} has ids={text}; must be a whole number from 1 to "
                    f"{whole}, the tokenizer's"
                )
            size, source = int(text), f"ids={text}"
        else:
            config = self._settings["config.json"]
            text = config.get("text_config") or {}
            place = f"{self.path.parent / 'config.json'}: "
            require(isinstance(text, dict), f"{place}text_config", text, "an object")
            size = (text or config).get("vocab_size")
            is_size = size is None or (type(size) is int and size > 0)
            require(is_size, f"{place}vocab_size", size, "an integer of at least 1")
            size = whole if size is None else min(size, whole)
            source = f"config.json beside it has vocab_size {size}"
        pieces = [i for token, i in self.ids.items() if i >= size and token not in self.added]
        if pieces:
            raise ValueError(
                f"vocabulary {self.spec!r} has {len(pieces)} pieces of text past the model's ids "
                f"({source}), the first with id {min(pieces)}; only added tokens may be left out"
            )
        return size


def _read(spec: str, path: Path) -> dict[str, Any]:
    """The file's values, without the steps that add to a text or vary from text to text."""
    if path.is_dir():
        raise FileNotFoundError(f"vocabulary {spec!r} is a folder; give its tokenizer.json")
    if not path.is_file():
        raise FileNotFoundError(f"vocabulary {spec!r}: there is no file {path}")
    data = json_file.read_object(path)
    model = data.get("model")
    if not isinstance(model, dict) or not model.get("vocab"):
        raise ValueError(
            f"vocabulary {spec!r} is not a tokenizer.json of the tokenizers library: it has no "
            "model with a vocabulary"
        )
    try:
        tokenizer_check.check_values(data)
    except ValueError as error:
        raise ValueError(f"vocabulary {spec!r}: {error}") from None
    data |= dict.fromkeys(("truncation", "padding", "post_processor"))
    if model.get("dropout"):
        model["dropout"] = None  # it would leave merges out at random
    data["added_tokens"] = sorted(data.get("added_tokens") or [], key=lambda token: token["id"])
    return data


def _read_json_beside(path: Path, name: str) -> dict[str, Any]:
    beside = path.parent / name
    if not beside.is_file():
        return {}
    return json_file.read_object(beside)
