"""Vocabularies: training one on the demo mixture, round trip, and what a bad one says."""

import dataclasses
from pathlib import Path

import pytest
import seqio

import tasks.demo
from cascade_jax.data import pipeline
from cascade_jax.data.vocabulary import load, training

TASK = tasks.demo.TASKS[0]  # one task's text is enough to train on


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("vocabulary") / "inner" / "demo"
    return training.train_sentencepiece(TASK, str(prefix), 400, split="validation")


def test_a_trained_vocabulary_gives_text_back(trained):
    loaded = load.load_vocabulary(trained.model_path)
    assert (loaded.pad_id, loaded.eos_id, loaded.unk_id) == (0, 1, 2)
    assert loaded.vocab_size == trained.vocab_size == 400
    for text in ("last cafe", " two  spaces ", "日本語 é？", "line\nbreak"):
        ids = loaded.encode(text)
        assert loaded.decode(ids) == text and 2 not in ids
        assert loaded.encode_tf(text).numpy().tolist() == list(ids)


def test_tokens_per_byte_is_what_encoding_gives(trained):
    loaded = load.load_vocabulary(trained.model_path)
    texts = list(training.mixture_texts(TASK, "validation"))
    rows = tasks.demo.make_rows("last", "validation")
    assert texts == [text for row in rows for text in (row["inputs"], row["targets"])]
    tokens = sum(len(loaded.encode(text)) for text in texts)
    assert trained.tokens_per_byte == pytest.approx(tokens / sum(map(len, texts)))
    assert trained.tokens_per_byte < 1


def test_training_twice_gives_the_same_file_and_fingerprint(trained, tmp_path):
    again = training.train_sentencepiece(TASK, str(tmp_path / "x"), 400, split="validation")
    other = training.train_sentencepiece(TASK, str(tmp_path / "y"), 380, split="validation")
    prints = [load.fingerprint(load.load_vocabulary(v.model_path)) for v in (trained, again, other)]
    assert prints[0] == prints[1] != prints[2]
    assert load.fingerprint(seqio.ByteVocabulary()) == "byte-259"
    with pytest.raises(ValueError, match="PassThroughVocabulary"):
        load.fingerprint(seqio.PassThroughVocabulary(10))


def test_a_mixture_can_be_read_with_another_vocabulary(trained):
    config = pipeline.DataConfig(tasks.demo.MIXTURE, 16, 8, 8)
    own = pipeline.open_mixture(config)
    other = pipeline.open_mixture(dataclasses.replace(config, vocabulary=trained.model_path))
    assert (own.vocab_size, other.vocab_size) == (259, 400)
    assert list(own.tasks) == list(other.tasks) == sorted(tasks.demo.TASKS)
    assert own.fingerprint != other.fingerprint
    config = dataclasses.replace(config, vocabulary=trained.model_path)
    example = next(pipeline.decode_examples(config, TASK, "validation"))
    assert other.vocabulary.decode([i for i in example.inputs.tolist() if i > 1]) == (
        example.inputs_text
    )


def test_sentinels_are_the_last_ids(trained):
    byte = load.load_vocabulary("byte+100")
    assert (byte.vocab_size, byte.extra_ids) == (359, 100)
    pieces = load.load_vocabulary(f"{trained.model_path}+100")
    assert (pieces.vocab_size, pieces.extra_ids) == (500, 100)
    assert pieces.decode([499, 400]).split() == ["<extra_id_0>", "<extra_id_99>"]
    for text in ("last cafe", "日本語"):
        for plain, more in [("byte", byte), (trained.model_path, pieces)]:
            assert more.encode(text) == load.load_vocabulary(plain).encode(text)


def test_sentinels_change_the_fingerprint(trained):
    specs = [name + more for name in ("byte", trained.model_path) for more in ("", "+1", "+100")]
    prints = [load.fingerprint(load.load_vocabulary(spec)) for spec in specs]
    assert len(set(prints)) == 6 and prints[:3] == ["byte-259", "byte-260", "byte-359"]
    assert prints[4].endswith("-401") and prints[5].endswith("-500")


def test_a_model_may_be_named_as_sentinels_are(trained, tmp_path):
    odd = tmp_path / "v.model+7"
    odd.write_bytes(Path(trained.model_path).read_bytes())
    assert load.load_vocabulary(str(odd)).vocab_size == 400
    assert load.load_vocabulary(f"{odd}+3").vocab_size == 403
    with pytest.raises(ValueError, match="'byte\\+0' asks for 0 sentinels"):
        load.load_vocabulary("byte+0")
    with pytest.raises(FileNotFoundError, match="'none.model\\+100' does not exist"):
        load.load_vocabulary("none.model+100")
    with pytest.raises(FileNotFoundError, match="'byte\\+x' does not exist"):
        load.load_vocabulary("byte+x")


def test_impossible_sizes_say_the_limit(tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size 100000 is too large for .*: at most \d+"):
        training.train_sentencepiece(TASK, str(tmp_path / "x"), 100000, split="validation")
    with pytest.raises(ValueError, match=r"vocab_size 50 is too small .*: more than \d+"):
        training.train_sentencepiece(TASK, str(tmp_path / "x"), 50, split="validation")
    with pytest.raises(ValueError, match="unknown mixture or task 'demo_lost_v1'.*demo_last_v1"):
        training.train_sentencepiece("demo_lost_v1", str(tmp_path / "x"), 300)


def test_a_missing_or_broken_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give 'byte' or the path"):
        load.load_vocabulary(str(tmp_path / "none.model"))
    broken = tmp_path / "broken.model"
    for content in (b"not a model", b"", b"\0" * 100, b"\x0a\x0e\x0a\x05<unk>"):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match="broken.model' is not a SentencePiece model"):
            load.load_vocabulary(str(broken))
