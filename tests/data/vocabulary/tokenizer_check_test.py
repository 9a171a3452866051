"""A tokenizer.json, or a file beside it, that is damaged: refused by file and key."""

import copy
import json

import pytest

from cascade_jax.data.vocabulary.tokenizer_json import TokenizerFile, padding_id

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


def token(number, content, special=True):
    return {"id": number, "content": content, "special": special, **FLAGS}


PAD, END = token(0, "<pad>"), token(1, "</s>")
WORDS = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [PAD, END],
    "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None, "decoder": None,
    "model": {
        "type": "WordLevel", "unk_token": "<unk>",
        "vocab": {"<pad>": 0, "</s>": 1, "<unk>": 2, "cat": 3, "dog": 4},
    },
}  # fmt: skip
PIECES = WORDS | {
    "model": {
        "type": "Unigram", "unk_id": 2, "byte_fallback": False,
        "vocab": [["<pad>", 0.0], ["</s>", 0], ["<unk>", 0.0], ["c", -1.5], ["at", -2.5]],
    },
}  # fmt: skip
NAMES = {"eos_token": "</s>", "pad_token": {"content": "<pad>"}, "unk_token": None}


def write(folder, values=WORDS, **beside):
    files = {"tokenizer.json": values, "tokenizer_config.json": NAMES}
    files |= {f"{name}.json": content for name, content in beside.items()}
    for name, content in files.items():
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(content)
    return str(folder / "tokenizer.json")


def changed(path, value, values=WORDS):
    result = place = copy.deepcopy(values)
    *keys, last = path
    for key in keys:
        place = place[key]
    place[last] = value
    return result


@pytest.mark.parametrize("values", [WORDS, PIECES])
def test_what_is_right_is_read(values, tmp_path):
    file = TokenizerFile(write(tmp_path, values))
    assert (file.special_ids().pad, file.special_ids().eos, file.special_ids().size) == (0, 1, 5)
    assert file.tokenizer().encode("dog cat c at", add_special_tokens=False).ids
    # What adds to a text is not read, whatever it is.
    for key in ("truncation", "padding", "post_processor"):
        TokenizerFile(write(tmp_path, values | {key: 7})).tokenizer()


VOCAB, ADDED = ("model", "vocab"), ("added_tokens",)
DAMAGED = [
    (b"{", "tokenizer.json: not JSON"),
    (b"\xff\xfe{\0}\0", "tokenizer.json: not UTF-8"),
    (b'{"version": "1.0", "version": "1.0"}', 'tokenizer.json: has the key "version" twice'),
    (b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", "tokenizer.json: nested too deeply"),
    ([], "tokenizer.json: is []; must be an object"),
    ({}, "has no model with a vocabulary"),
    (WORDS | {"model": "BPE"}, "has no model with a vocabulary"),
    (changed(VOCAB, {}), "has no model with a vocabulary"),
    (changed(VOCAB, 7), "model.vocab is 7; must be an object or a list"),
    (changed((*VOCAB, "cat"), "3"), "model.vocab['cat'] is '3'; must be an id, 0 to 2147483646"),
    (changed((*VOCAB, "cat"), True), "model.vocab['cat'] is true"),
    (changed((*VOCAB, "cat"), -1), "model.vocab['cat'] is -1"),
    (changed((*VOCAB, "cat"), 3.0), "model.vocab['cat'] is 3.0"),
    (changed((*VOCAB, "cat"), 2**31), "model.vocab['cat'] is 2147483648"),
    (changed((*VOCAB, "dog"), 3), "model.vocab['dog'] is 3; must be another id than that of 'cat'"),
    (changed((*VOCAB, 3), "c", PIECES), "model.vocab[3] is 'c'; must be a piece of text with"),
    (changed((*VOCAB, 3), ["c"], PIECES), "model.vocab[3] is ['c']"),
    (changed((*VOCAB, 3), ["c", "-1"], PIECES), "model.vocab[3] is ['c', '-1']"),
    (changed((*VOCAB, 3), [7, -1.0], PIECES), "model.vocab[3] is [7, -1.0]"),
    (changed((*VOCAB, 4), ["c", -1.0], PIECES), "model.vocab[4] is 'c'; must be another piece"),
    (changed(("model", "merges"), "a b"), "model.merges is 'a b'; must be a list"),
    (changed(ADDED, {"0": PAD}), "added_tokens is {'0': "),
    (changed((*ADDED, 1), None), "added_tokens[1] is null; must be an object"),
    (changed((*ADDED, 1, "content"), ["</s>"]), "added_tokens[1].content is ['</s>']; must be a"),
    (changed((*ADDED, 1, "content"), ""), "added_tokens[1].content is ''"),
    (changed((*ADDED, 1, "id"), "a" * 10**5), "added_tokens[1].id is 'aaa"),
    (changed((*ADDED, 1, "id"), None), "added_tokens[1].id is null"),
    (changed((*ADDED, 1, "id"), 10**30), "added_tokens[1].id is 1"),
    (changed((*ADDED, 1, "id"), 0), "added_tokens[1].id is 0; must be another than that of added"),
    (
        changed((*ADDED, 1), token(7, "<pad>")),
        "added_tokens[1].content is '<pad>'; must be another",
    ),
    (changed((*ADDED, 1, "special"), "yes"), "added_tokens[1].special is 'yes'; must be true or"),
    # What the library refuses, with the part that it is in.
    (changed((*ADDED, 1, "lstrip"), "no"), "added_tokens is refused by the tokenizers library: "),
    (WORDS | {"version": "7"}, "version is refused by the tokenizers library: Unknown tokenizer"),
    (WORDS | {"normalizer": {"type": "X"}}, "normalizer {'type': 'X'} is refused"),
    (WORDS | {"pre_tokenizer": 7}, "pre_tokenizer 7 is refused"),
    (WORDS | {"pre_tokenizer": {"type": "Sequence"}}, "pre_tokenizer {'type': 'Sequence'} is"),
    (WORDS | {"decoder": {"type": "ByteLevels"}}, "decoder {'type': 'ByteLevels'} is refused"),
    (changed(("model", "type"), "Markov"), "model is refused by the tokenizers library: "),
    (changed(("model", "unk_id"), 99, PIECES), "model is refused by the tokenizers library: "),
    # What it takes, and gives other ids or no id for.
    (changed((*ADDED, 1), token(9, "<new>")), "token '<new>' has id 9 in the file, 5 in the"),
    (changed(("model", "unk_token"), "<no>"), "no token for texts that it can't spell"),
    (changed(("model", "unk_id"), None, PIECES), "no token for texts that it can't spell"),
]


@pytest.mark.parametrize("values, message", DAMAGED)
def test_a_damaged_file_is_refused_by_file_and_key(values, message, tmp_path):
    spec = write(tmp_path, values)
    with pytest.raises(ValueError) as error:
        TokenizerFile(spec).tokenizer()
    assert spec in str(error.value), error.value
    assert message.replace('"', "'") in str(error.value).replace('"', "'"), (
        error.value
    )  # values are shown as JSON
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("tokenizer_config", [], "is []; must be an object"),
        ("tokenizer_config", b"{", "not JSON"),
        ("tokenizer_config", {"eos_token": 1}, "eos_token is 1; must be a token's name or null"),
        ("tokenizer_config", {"eos_token": ["</s>"]}, "eos_token is ['</s>']"),
        ("tokenizer_config", {"eos_token": {"content": 7}}, "eos_token is 7"),
        ("tokenizer_config", NAMES | {"pad_token": False}, "pad_token is false"),
        ("generation_config", {"eos_token_id": "1"}, "eos_token_id is '1'; must be an id, a list"),
        ("generation_config", {"eos_token_id": [True]}, "eos_token_id is [true]"),
        ("generation_config", {"eos_token_id": {"0": 1}}, "eos_token_id is {'0': 1}"),
        ("config", {"vocab_size": "5"}, "vocab_size is '5'; must be an integer of at least 1"),
        ("config", {"vocab_size": 0}, "vocab_size is 0"),
        ("config", {"vocab_size": True}, "vocab_size is true"),
        ("config", {"text_config": "x"}, "text_config is 'x'; must be an object"),
        ("config", 7, "is 7; must be an object"),
    ],
)
def test_a_damaged_file_beside_it_is_refused_by_file_and_key(name, content, message, tmp_path):
    spec = write(tmp_path, **{name: content})
    with pytest.raises(ValueError) as error:
        padding_id(spec)
    assert str(error.value).startswith(str(tmp_path / f"{name}.json: ")), error.value
    assert message.replace('"', "'") in str(error.value).replace('"', "'")
