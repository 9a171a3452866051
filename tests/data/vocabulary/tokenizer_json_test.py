"""tokenizer.json as a vocabulary: the library's ids but for the exchange, round trip, states."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import tasks.demo
from cascade_jax.data import pipeline
from cascade_jax.data.vocabulary import load, tokenizer_json
from cascade_jax.data.vocabulary.tokenizer import TokenizerJsonVocabulary

# As SmolLM2's: the token with id 0 ends documents, and there is none for padding alone.
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"]
CHAT = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>"}  # fmt: skip
TEXTS = ["the cat sat on the mat", "a dog, and 12 cats: thé chat", "the the the and and", "日本語"]
MORE = ["seventy large models deferred to smaller ones, again and again, whatever was asked"]


def byte_level(special=SPECIAL, pieces=300):
    """A BPE over bytes, which can spell every text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *MORE], trainer)
    return tokenizer


def write(folder, tokenizer, named=CHAT, **numbered):
    """tokenizer.json, tokenizer_config.json, and by name other files of JSON values."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {"tokenizer_config": named, **numbered}
    for name, values in files.items():
        if values is not None:
            (folder / f"{name}.json").write_text(json.dumps(values))
    return str(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    tokenizer = byte_level()
    # What a post-processor would add, and a text be cut to or filled up to, must not matter.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    return write(tmp_path_factory.mktemp("chat"), tokenizer)


def library(path):
    """The file as the library has it, for ids without anything around them."""
    tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def exchanged(ids, pad):
    table = np.arange(1000)
    table[[0, pad]] = [pad, 0]
    return table[ids].tolist()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.lists(st.sampled_from([*SPECIAL, " ", "cat", "the", "<|", "|>", "\n", "1", "é"]))


@hypothesis.given(texts | words.map("".join))
def test_ids_are_the_librarys_with_0_and_padding_exchanged(chat, text):
    loaded, plain = load.load_vocabulary(chat), library(chat)
    assert tokenizer_json.padding_id(chat) == SPECIAL.index("<repo_name>") == 3
    ids = list(loaded.encode(text))
    assert 0 not in ids
    assert loaded.encode_tf(tf.constant(text)).numpy().tolist() == ids
    if "<repo_name>" not in text:
        assert ids == exchanged(plain(text), 3)
    if "<|im_end|>" not in text:  # where seqio stops decoding
        assert loaded.decode(ids) == text
        assert loaded.decode([*ids, 2, 0, 0]) == text
        assert loaded.decode_tf(tf.constant([*ids, 2, 0], tf.int32)).numpy().decode() == text


@hypothesis.given(texts)
def test_ids_and_texts_are_those_of_transformers(chat, text):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=chat, **CHAT)
    loaded = load.load_vocabulary(chat)
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert exchanged(ids, 3) == loaded.encode(text)
    assert loaded.decode(exchanged(ids, 3)) == theirs.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def test_special_ids_and_size_are_after_the_exchange(chat):
    loaded = load.load_vocabulary(chat)
    assert (loaded.pad_id, loaded.eos_id, loaded.bos_id, loaded.unk_id) == (0, 2, 1, 3)
    assert loaded.vocab_size == tokenizers.Tokenizer.from_file(chat).get_vocab_size() == 300
    more = load.load_vocabulary(f"{chat}+20")
    assert (more.vocab_size, more.extra_ids) == (320, 20)
    assert more.encode("the cat") == loaded.encode("the cat")
    assert loaded.encode("") == [] and loaded.decode([]) == "" and loaded.decode([0, 2]) == ""


def test_tensors_of_texts_and_ids(chat):
    loaded = load.load_vocabulary(chat)
    rows = [list(loaded.encode(text)) for text in TEXTS]
    ragged = loaded.encode_tf(tf.constant(TEXTS))
    assert ragged.to_list() == rows
    assert [t.decode() for t in loaded.decode_tf(ragged).numpy()] == TEXTS
    square = ragged.to_tensor()[None]
    assert [t.decode() for t in loaded.decode_tf(square).numpy()[0]] == TEXTS
    assert loaded.decode_tf(tf.zeros([3, 0], tf.int32)).numpy().tolist() == [b""] * 3
    invalid = loaded.encode_tf(tf.constant(b"a\xffb")).numpy()
    assert loaded.decode(invalid) == "a\ufffdb"
    with pytest.raises(ValueError, match="rank 2"):
        loaded.encode_tf(tf.constant([["a"]]))


@pytest.mark.parametrize(
    ("special", "named", "generation", "pad", "eos"),
    [
        # Gemma and T5: a padding token with id 0, nothing to exchange.
        (["<pad>", "<eos>", "<bos>"], {"pad_token": "<pad>", "eos_token": "<eos>"}, None, 0, 1),
        # Qwen: a padding token elsewhere; as an object, as older versions write it.
        (["<a>", "<eos>", "<x>"], {"pad_token": {"content": "<x>"}, "eos_token": "<eos>"}, None,
         2, 1),
        # Chat models have several ends; none of them is padding.
        (["<a>", "<eos>", "<x>"], {"pad_token": "<x>", "eos_token": "<eos>"}, [1, 2], 0, 1),
        # A name that says it comes before others (Llama 3), whatever its place.
        (["<b>", "<e>", "<x>", "<|right_PAD_id|>"], {"bos_token": "<b>", "eos_token": "<e>"}, None,
         3, 1),
        # SmolLM2's base model: one token for all three.
        (["<e>", "<x>", "<y>"], {"bos_token": "<e>", "eos_token": "<e>", "unk_token": "<e>"}, None,
         1, 1),
        # Llama 2: nothing but the unknown token is left.
        (["<unk>", "<s>", "</s>"], {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
         None, 0, 2),
        # No file names the end; one numbers it.
        (["<a>", "<b>", "<c>"], None, 2, 0, 2),
        (["<a>", "<b>", "<c>"], {"pad_token": None, "eos_token": None}, [0, 2], 1, 1),
    ],
)  # fmt: skip
def test_which_token_is_padding(tmp_path, special, named, generation, pad, eos):
    numbered = {} if generation is None else {"generation_config": {"eos_token_id": generation}}
    path = write(tmp_path, byte_level(special, 280), named, **numbered)
    assert tokenizer_json.padding_id(path) == pad
    loaded = load.load_vocabulary(path)
    assert loaded.eos_id == eos and loaded.pad_id == 0
    for text in TEXTS:
        assert loaded.encode(text) == exchanged(library(path)(text), pad)


def test_names_behind_the_path_come_first(tmp_path):
    path = write(tmp_path, byte_level(), CHAT, special_tokens_map={"eos_token": "<file_sep>"})
    assert load.load_vocabulary(path).eos_id == 2  # tokenizer_config.json comes first
    spec = f"{path}?eos=<|endoftext|>&pad=<file_sep>&bos=<repo_name>"
    assert tokenizer_json.padding_id(spec) == 4
    loaded = load.load_vocabulary(spec)
    assert (loaded.eos_id, loaded.bos_id) == (4, 3)
    assert load.load_vocabulary(f"{spec}+7").vocab_size == 307
    assert loaded.fingerprint != load.load_vocabulary(path).fingerprint
    (tmp_path / "tokenizer_config.json").unlink()
    assert load.load_vocabulary(path).eos_id == SPECIAL.index("<file_sep>")


def test_a_model_may_have_fewer_ids_than_its_tokenizer(tmp_path):
    tokenizer = byte_level(SPECIAL, 300)
    tokenizer.add_special_tokens(["<image>"])
    path = write(tmp_path, tokenizer)
    whole = load.load_vocabulary(path)
    assert (whole.vocab_size, whole.encode("<image>")) == (301, [300])
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 300}}))
    fewer = load.load_vocabulary(path)
    assert fewer.vocab_size == 300 == load.load_vocabulary(f"{path}?ids=300").vocab_size
    ids = fewer.encode("a cat<image>.")
    assert max(ids) < 300 and fewer.decode(ids) == "a cat<image>."
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 512}))
    assert load.load_vocabulary(path).vocab_size == 301
    with pytest.raises(ValueError, match=r"10 pieces of text .*ids=290.*first with id 290"):
        load.load_vocabulary(f"{path}?ids=290")
    for wrong in ("302", "-1", "many"):
        with pytest.raises(ValueError, match=f"ids={wrong}; must be .* from 1 to 301"):
            load.load_vocabulary(f"{path}?ids={wrong}")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 99}))
    with pytest.raises(ValueError, match="201 pieces of text.*config.json.*vocab_size 99"):
        load.load_vocabulary(path)


def test_padding_that_cannot_be_spelt_is_left_out(tmp_path):
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    loaded = load.load_vocabulary(write(tmp_path, tokenizer, named))
    assert loaded.encode("a <pad> cat dog") == [3, 4, 2]
    assert loaded.unk_id == 2


def test_a_unigram_model_with_normalisation_is_as_in_the_library(tmp_path):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0), ("▁cat", -3.0)]
    pieces += [(letter, -4.0 - i / 9) for i, letter in enumerate("abcdefghijklmnop")]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    path = write(tmp_path, tokenizer, named)
    loaded = load.load_vocabulary(path)
    for text in ("cat", "A CAT can", "ｃａｔ", "zebra cat"):
        assert loaded.encode(text) == library(path)(text)
    assert loaded.decode(loaded.encode("A CAT")) == "a cat"


def test_the_fingerprint_tells_ids_apart_and_not_files(chat, tmp_path):
    data = json.loads(Path(chat).read_text())

    def fingerprint(name, change=lambda data: None, named=CHAT):
        changed = json.loads(json.dumps(data))
        change(changed)
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(changed))
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(named))
        loaded = load.load_vocabulary(str(tmp_path / name / "tokenizer.json"))
        return load.fingerprint(loaded)

    def older(data):  # the same as other versions of the library write it
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
        data["model"].pop("ignore_merges", None)
        data |= {"truncation": None, "padding": None, "post_processor": None}

    def fewer_merges(data):
        data["model"]["merges"].pop()

    def digits(data):
        first = {"type": "Digits", "individual_digits": True}
        old = data["pre_tokenizer"]
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, old]}

    same = fingerprint("same")
    assert same == load.fingerprint(load.load_vocabulary(chat))
    assert same == fingerprint("older", older)
    others = [
        fingerprint("merges", fewer_merges),
        fingerprint("digits", digits),
        fingerprint("eos", named={**CHAT, "eos_token": "<file_sep>"}),
        fingerprint("pad", named={**CHAT, "pad_token": "<file_sep>"}),
        load.fingerprint(load.load_vocabulary(f"{chat}+1")),
    ]
    assert len({same, *others}) == 6
    loaded = load.load_vocabulary(chat)
    assert loaded == pickle.loads(pickle.dumps(loaded)) == TokenizerJsonVocabulary(chat)
    assert loaded != load.load_vocabulary(f"{chat}+1")
    assert loaded != load.load_vocabulary("byte")


def test_a_model_that_drops_merges_at_random_does_not_do_so_here(tmp_path):
    tokenizer = byte_level()
    tokenizer.model.dropout = 0.5
    path = write(tmp_path, tokenizer)
    tokenizer.model.dropout = None
    loaded = load.load_vocabulary(path)
    for text in TEXTS * 3:
        assert loaded.encode(text) == exchanged(
            tokenizer.encode(text, add_special_tokens=False).ids, 3
        )


# ------------------------------------------------------------------ reading data with it


def test_a_mixture_is_read_with_it(chat):
    config = pipeline.DataConfig(tasks.demo.MIXTURE, 32, 8, 8, vocabulary=chat)
    mixture = pipeline.open_mixture(config)
    assert (mixture.vocab_size, mixture.eos_id) == (300, 2)
    assert mixture.fingerprint.startswith("tokenizer-")
    example = next(pipeline.decode_examples(config, tasks.demo.TASKS[0], "validation"))
    assert mixture.vocabulary.decode(example.inputs.tolist()) == example.inputs_text


def _batches(iterator, count):
    return [next(iterator) for _ in range(count)]


_CHILD = """
import pickle, sys
import seqio
import tasks.demo
from cascade_jax.data import pipeline
state, output, vocabulary, cache_rows = sys.argv[1:]
config = pipeline.DataConfig("demo_last_v1", 24, 8, 4, vocabulary=vocabulary, seed=1, pack=True,
                             cache_rows=int(cache_rows))
batches = pipeline.HostBatches(config, "train", seqio.ShardInfo(0, 1))
batches.set_state(open(state, "rb").read())
pickle.dump([next(batches) for _ in range(3)], open(output, "wb"))

# A data set that reads ahead is still busy when Python ends.
import tensorflow as tf
from cascade_jax.data.vocabulary.load import load_vocabulary
long = tf.data.Dataset.from_tensors("a cat, " * 3000).repeat()
long = long.map(load_vocabulary(vocabulary).encode_tf, num_parallel_calls=4).batch(50).prefetch(2)
busy = iter(long)
next(busy)
"""


# Each starts another process; tests/data/token_cache_test.py restores positions with a cache.
@pytest.mark.slow
@pytest.mark.parametrize("cache_rows", [0, 100_000])
def test_a_saved_position_is_restored_here_and_in_a_new_process(
    chat, tmp_path, repository, cache_rows
):
    """With the token ids kept in memory no Python is left to run; without, a process must end."""
    config = pipeline.DataConfig(
        "demo_last_v1", 24, 8, 4, vocabulary=chat, seed=1, pack=True, cache_rows=cache_rows
    )
    shard = seqio.ShardInfo(0, 1)
    batches = pipeline.HostBatches(config, "train", shard)
    before = _batches(batches, 4)
    saved = batches.get_state()
    expected = _batches(batches, 3)
    assert not np.array_equal(
        before[-1]["encoder_input_tokens"], expected[0]["encoder_input_tokens"]
    )
    fresh = pipeline.HostBatches(config, "train", shard)
    fresh.set_state(saved)
    np.testing.assert_equal(_batches(fresh, 3), expected)
    if cache_rows:
        return
    state, output = tmp_path / "state", tmp_path / "batches"
    state.write_bytes(saved)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", _CHILD, str(state), str(output), chat, str(cache_rows)]
    subprocess.run(command, check=True, env=environment, cwd=repository, timeout=600)
    np.testing.assert_equal(pickle.loads(output.read_bytes()), expected)


def test_a_position_is_not_restored_on_another_tokenizer(chat, tmp_path):
    config = pipeline.DataConfig("demo_last_v1", 24, 8, 4, vocabulary=chat, cache_rows=0)
    shard = seqio.ShardInfo(0, 1)
    state = pipeline.HostBatches(config, "train", shard).get_state()
    other = write(tmp_path, byte_level(pieces=290))
    config = dataclasses.replace(config, vocabulary=other)
    with pytest.raises(ValueError, match="state has vocabulary 'tokenizer-.*this run has"):
        pipeline.HostBatches(config, "train", shard).set_state(state)


# ------------------------------------------------------------------ bad input


def test_no_end_of_sequence_says_how_to_name_one(tmp_path):
    path = write(tmp_path, byte_level(), None)
    with pytest.raises(ValueError) as caught:
        load.load_vocabulary(path)
    message = str(caught.value)
    for part in (path, "tokenizer_config.json", "eos_token", f"'{path}?eos=...'", "<|im_end|>"):
        assert part in message
    assert load.load_vocabulary(f"{path}?eos=<|im_end|>").eos_id == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?eos=<|im_edn|>", r"no token '<\|im_edn\|>', which eos names; did you mean '<\|im_end"),
        ("?eos=qqqq", r"no token 'qqqq'.*special tokens: <\|endoftext\|>, <\|im_start\|>"),
        ("?eso=<|im_end|>", "'eso=.*must be one of eos=..., pad=.*did you mean 'eos'"),
        ("?eos", "'eos' behind the path; must be one of eos=..."),
        ("?", "'' behind the path; must be one of eos=..."),
        ("?pad=<|im_end|>", "padding must not be what starts or ends a sequence"),
        ("?ids=", "'ids=' behind the path"),
        ("+0", "asks for 0 sentinels"),
    ],
)
def test_options_that_cannot_be(chat, options, message):
    with pytest.raises(ValueError, match=message):
        load.load_vocabulary(f"{chat}{options}")


def test_files_beside_that_do_not_fit(tmp_path):
    path = write(tmp_path, byte_level(), {"eos_token": "<|im_enb|>"})
    with pytest.raises(ValueError, match="eos_token of tokenizer_config.json.*did you mean"):
        load.load_vocabulary(path)
    write(tmp_path, byte_level(), None, generation_config={"eos_token_id": 300})
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="has eos id 300; must be 0 to 299"):
        load.load_vocabulary(path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer_config.json: not JSON"):
        load.load_vocabulary(path)


def test_no_token_for_padding_says_how_to_name_one(tmp_path):
    path = write(tmp_path, byte_level(["<|endoftext|>"], 280), {"eos_token": "<|endoftext|>"})
    with pytest.raises(ValueError, match=r"no token can stand for padding.*\?pad=\.\.\.'"):
        tokenizer_json.padding_id(path)
    assert tokenizer_json.padding_id(f"{path}?pad=~") == library(path)("~")[0]
    loaded = load.load_vocabulary(f"{path}?pad=~")
    assert loaded.decode(loaded.encode("a ~ b")) == "a  b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "tokenizer.json: not JSON"),
        ("[1, 2]", "tokenizer.json: is .1, 2.; must be an object"),
        ('{"model_type": "llama"}', "has no model with a vocabulary"),
        ('{"model": {"type": "Sorcery", "vocab": {"a": 0, "b": 1}}}', "model is refused"),
    ],
)
def test_another_file_is_no_tokenizer(tmp_path, content, message):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        load.load_vocabulary(f"{file}?eos=a&pad=b")


def test_a_missing_file_or_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*none.json"):
        load.load_vocabulary(f"{tmp_path}/none.json")
    with pytest.raises(FileNotFoundError, match="there is no file .*none.json$"):
        load.load_vocabulary(f"{tmp_path}/none.json?eos=</s>+100")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(FileNotFoundError, match="is a folder; give its tokenizer.json"):
        load.load_vocabulary(f"{tmp_path}/folder.json")
