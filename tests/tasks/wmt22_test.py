"""WMT22: real rows, references, metrics and rates, and the folder that is written for it."""

import gzip
import json
import re

import jax
import numpy as np
import pytest
import sacrebleu.dataset
import seqio

import tasks.wmt22 as wmt22
from cascade_jax.data import catalog, jsonl, pipeline, sources
from cascade_jax.task_metrics import quality, translation
from tasks import wmt22_folder
from tests.support.rows import write

ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
PAIRS = ["en-ja", "en-ru", "en-zh", "ja-en", "ru-en", "zh-en"]
# Tokenizers of sacrebleu's own defaults for these targets.
TOKENIZERS = {"ja": "ja-mecab", "zh": "zh", "ru": "13a", "en": "13a"}


def _name(pair):
    return f"cascade_wmt22_{pair.replace('-', '_')}_v1"


def _config(name):
    return pipeline.DataConfig(name, 64, 64, 4, vocabulary="byte", shuffle_buffer=4)


def _examples(pair, split, limit=None):
    return list(pipeline.decode_examples(_config(_name(pair)), _name(pair), split, limit))


def _write(folder, pair, rows, file="validation"):
    write(folder, f"wmt22_translate__{pair}", rows, file)


# ---- the tasks

FIRST_ROWS = {
    "en-ja": (
        "translate English to Japanese: India's PM to attend temple groundbreaking at disputed "
        "site",
        "インドの首相、係争地の寺院で定礎式に出席",
    ),
    "en-ru": (
        "translate English to Russian: Dominic Raab: Government can't make apologies for Spain "
        "quarantine decision",
        "Доминик Рааб: Правительство не может извиниться за решение о карантине по прибытии из "
        "Испании",
    ),
    "en-zh": (
        "translate English to Chinese: Dominic Raab: Government can't make apologies for Spain "
        "quarantine decision",
        "Dominic Raab：政府不能为隔离西班牙的决定道歉",
    ),
    "ja-en": (
        "translate Japanese to English: ほのかが【田中みな実さん風ヘア】になる！",
        "Honoka's New [Tanaka Minami hairstlye] Look!",
    ),
    "ru-en": (
        "translate Russian to English: Не нужно демонизировать народ Хабаровска",
        "Don't demonize the people of Khabarovsk",
    ),
    "zh-en": (
        "translate Chinese to English: 新华时评：把优秀返乡农民工打造成乡村振兴生力军-新华网",
        "Xinhua Commentary: Outstanding returning rural migrant workers can be a rural "
        "revitalization army - Xinhuanet",
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_real_row_reads_as_it_should(data_folder, pair):
    sources.set_data_dir(data_folder)
    assert catalog.card_of(_name(pair)) == catalog.TaskCard("wmt22", "translation")
    (actual,) = _examples(pair, "newstest2021", 1)
    assert (actual.inputs_text, actual.target_text) == FIRST_ROWS[pair]
    assert actual.target == [actual.target_text]
    assert _examples(pair, "validation", 1)[0].inputs_text == actual.inputs_text


@pytest.mark.parametrize("pair", PAIRS)
def test_bleu_takes_the_tokenizer_of_the_language(pair):
    first, second = seqio.TaskRegistry.get(_name(pair)).metric_fns
    assert first == translation.Bleu(tokenize=TOKENIZERS[pair[-2:]])
    assert second == translation.Chrf()


@pytest.mark.parametrize("pair", ["en-ru", "en-zh", "ja-en"])
def test_the_target_as_answer_is_worth_1(data_folder, pair):
    sources.set_data_dir(data_folder)
    result = _examples(pair, "validation", 5)
    targets, answers = [e.target for e in result], [e.target_text for e in result]
    metrics = seqio.TaskRegistry.get(_name(pair)).metric_fns
    name, values = quality.per_example_quality(metrics, targets, answers)
    assert name == "sentence_bleu" and values == pytest.approx([1.0] * 5)
    assert metrics[0](targets, answers)["bleu"] == pytest.approx(1.0)
    assert metrics[1](targets, answers)["corpus_chrf"] == pytest.approx(1.0)


def test_all_references_of_a_row_count(tmp_path):
    _write(tmp_path, "en-zh", [{"en": "dog", "zh": "狗", "references": ["狗", "犬"]}])
    (actual,) = _examples("en-zh", "newstest2021")
    assert (actual.target_text, actual.target) == ("狗", ["狗", "犬"])
    chrf = seqio.TaskRegistry.get(_name("en-zh")).metric_fns[1]
    assert [chrf([actual.target], [answer])["corpus_chrf"] for answer in "狗犬猫"] == [
        1.0,
        1.0,
        0.0,
    ]


def test_the_splits_are_files_of_the_folder(data_folder):
    sources.set_data_dir(data_folder)
    source = seqio.TaskRegistry.get(_name("en-ru")).source
    assert source.num_input_examples("newstest2021") == 997
    assert source.num_input_examples("generaltest2022") == 2037
    assert not source.is_available("newstest2020")
    batch = next(pipeline.train_batches(_config(_name("en-ru")), ONE_DEVICE))
    assert np.asarray(batch.inputs).shape == (4, 64)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("cascade_wmt22_v1", [5, 3000, 5, 5, 5, 5]),
        ("cascade_wmt22_cap_30000_v1", [5, 30000, 5, 5, 5, 5]),
        ("cascade_wmt22_proportional_v1", [5, 30001, 5, 5, 5, 5]),
        ("cascade_wmt22_equal_v1", [1] * 6),
    ],
)
def test_mixtures_hold_the_six_directions_at_these_rates(tmp_path, name, rates):
    for pair in PAIRS:
        row = dict.fromkeys(pair.split("-"), "a")
        _write(tmp_path, pair, [row] * (30001 if pair == "en-ru" else 5), "train")
    opened = pipeline.open_mixture(_config(name))  # a copy, as every run has it
    actual = {task: opened.provider.get_rate(copy) for task, copy in opened.tasks.items()}
    assert actual == {_name(pair): rate for pair, rate in zip(PAIRS, rates, strict=True)}


def test_an_unknown_pair_is_answered_with_the_six():
    message = "language pair is 'en-jp'; must be one of en-ja, en-ru, en-zh, ja-en, ru-en, zh-en; "
    for refuse in (wmt22.translation_task, wmt22_folder.languages_of, wmt22.TranslationSource):
        with pytest.raises(ValueError, match=message + "did you mean 'en-"):
            refuse("en-jp")
    with pytest.raises(ValueError, match="language pair is 'de-en'"):
        wmt22_folder.prepare("nowhere", "de-en")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"en": "a"}, "lacks field 'ja'"),
        ({"en": " ", "ja": "a"}, "'en' is ' ', must have text"),
        ({"en": "a", "ja": 1}, "'ja' is 1, must be a string"),
        ({"en": "a", "ja": "a", "references": []}, "'references' is \\[\\], must have text"),
        ({"en": "a", "ja": "a", "references": "a"}, "must be a list of strings"),
    ],
)
def test_a_bad_row_is_named_with_folder_split_and_line(tmp_path, row, message):
    good = {"en": "a", "ja": "a"} | ({"references": ["a"]} if "references" in row else {})
    _write(tmp_path, "en-ja", [good, row])
    with pytest.raises(ValueError, match=f"wmt22_translate__en-ja/validation.jsonl:2: .*{message}"):
        _examples("en-ja", "newstest2021")


def test_without_a_folder_it_says_what_to_set():
    sources.set_data_dir(None)
    with pytest.raises(ValueError, match="not in TFDS.*wmt22_translate__en-ja/<split>.jsonl"):
        _examples("en-ja", "train")


# ---- test sets by way of sacrebleu

XML = """<?xml version='1.0' encoding='UTF-8'?>
<dataset id="newstest2021">
  <doc origlang="en" id="one">
    <src lang="en"><p><seg id="1">A dog.</seg><seg id="2">Two  cats.</seg></p></src>
    <ref lang="zh" translator="B"><p><seg id="1">犬。</seg></p></ref>
    <ref lang="zh" translator="A"><p><seg id="1">狗。</seg><seg id="2">两只猫。</seg></p></ref>
    <hyp system="X" language="zh"><p><seg id="1">x</seg><seg id="2">x</seg></p></hyp>
  </doc>
</dataset>
"""


@pytest.fixture
def sacrebleu_cache(tmp_path, monkeypatch):
    """Two segments where sacrebleu keeps what it has downloaded and unpacked."""
    for name, xml, archive in [
        ("wmt21", "test/newstest2021.en-zh.xml", "wmt21.test.tgz"),
        ("wmt22", "wmt22-news-systems-1.1/xml/wmttest2022.en-zh.all.xml", "wmt22.v1.1.tar.gz"),
    ]:
        raw = tmp_path / "sacrebleu" / name / "raw"
        (raw / xml).parent.mkdir(parents=True)
        (raw / xml).write_text(XML, "utf-8")
        (raw / archive).write_bytes(b"downloaded")
    texts = {"src": "A bird.\nA fish.\n", "ref": "鸟。\n鱼。\n"}
    for field in ("src", "ref", "docid", "genre", "origlang"):
        path = tmp_path / "sacrebleu" / "wmt20" / f"wmt20.en-zh.{field}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(texts.get(field, "-\n-\n"), "utf-8")
    for name in ("wmt20", "wmt21", "wmt22"):
        dataset = sacrebleu.dataset.DATASETS[name]
        monkeypatch.setattr(dataset, "_outdir", str(tmp_path / "sacrebleu" / name))
        monkeypatch.setattr(dataset, "_rawdir", str(tmp_path / "sacrebleu" / name / "raw"))
    for file in ("validation", "test"):
        monkeypatch.setitem(wmt22_folder.SEGMENTS[file], "en-zh", 2)
    return tmp_path / "sacrebleu"


def _rows(folder, pair, file):
    path = folder / f"wmt22_translate__{pair}" / f"{file}.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_folder_is_written_that_the_tasks_read(tmp_path, sacrebleu_cache, capsys):
    out = tmp_path / "data"
    wmt22_folder.main(["--out", str(out), "--pairs", "en-zh", "--all_references"])
    assert "wmt22_translate__en-zh: newstest2020 2, validation 2, test 2" in capsys.readouterr().out
    expected = [
        {"en": "A dog.", "zh": "狗。", "references": ["狗。", "犬。"]},
        {"en": "Two cats.", "zh": "两只猫。", "references": ["两只猫。"]},
    ]
    assert _rows(out, "en-zh", "validation") == _rows(out, "en-zh", "test") == expected
    assert _rows(out, "en-zh", "newstest2020")[1] == {
        "en": "A fish.", "zh": "鱼。", "references": ["鱼。"],
    }  # fmt: skip
    assert not (out / "wmt22_translate__en-zh" / "train.jsonl").exists()
    sources.set_data_dir(out)
    targets = {
        split: _examples("en-zh", split)[0].target for split in wmt22.SPLITS if "20" in split
    }
    assert targets == {
        "newstest2020": ["鸟。"],
        "newstest2021": ["狗。", "犬。"],
        "generaltest2022": ["狗。", "犬。"],
    }


def test_a_row_has_the_one_reference_of_sacrebleus_own_scores(tmp_path, sacrebleu_cache):
    out = tmp_path / "data"
    wmt22_folder.main(["--out", str(out), "--pairs", "en-zh"])
    for file, name in (("validation", "wmt21"), ("test", "wmt22"), ("newstest2020", "wmt20")):
        (path,) = sacrebleu.dataset.DATASETS[name].get_reference_files("en-zh")
        with open(path, encoding="utf-8") as lines:
            expected = [[line.strip()] for line in lines]
        assert [row["references"] for row in _rows(out, "en-zh", file)] == expected
    assert expected == [["鸟。"], ["鱼。"]]
    assert _rows(out, "en-zh", "test")[0]["references"] == ["狗。"]


def test_a_test_set_of_another_size_is_refused_and_not_written(
    tmp_path, sacrebleu_cache, monkeypatch
):
    monkeypatch.setitem(wmt22_folder.SEGMENTS["test"], "en-zh", 2037)
    with pytest.raises(ValueError, match="wmt22 en-zh: lines are .*2.*, must be 2037 each"):
        wmt22_folder.write_test_set(tmp_path / "data", "en-zh", "test")
    (sacrebleu_cache / "wmt20" / "wmt20.en-zh.ref").write_text("鸟。\n", "utf-8")
    with pytest.raises(ValueError, match="'wmt20.en-zh.src': 2, 'wmt20.en-zh.ref': 1}, must be 2"):
        wmt22_folder.write_test_set(tmp_path / "data", "en-zh", "newstest2020")
    assert not (tmp_path / "data").exists()


def test_the_published_sizes_are_those_of_complete_files(data_folder):
    # The data folder has the whole general test of four directions.
    for pair in ("en-ru", "en-zh", "ru-en", "zh-en"):
        path = jsonl.jsonl_path(data_folder, f"wmt22_translate/{pair}", "test")
        assert jsonl.count_rows(path) == wmt22_folder.SEGMENTS["test"][pair]
    # The sizes that the paper prints in figure 9.
    paper = [1000, 1002, 1002, 1005, 1000, 1948]
    assert [wmt22_folder.SEGMENTS["validation"][pair] for pair in PAIRS] == paper


# ---- training text as mtdata leaves it

IDS = ["Statmt-one-1-eng-jpn", "KECL-two-3-eng-jpn"]


@pytest.fixture
def mtdata(tmp_path):
    folder = tmp_path / "mtdata"
    (folder / "train-parts").mkdir(parents=True)
    for language in ("eng", "jpn"):
        first = "".join(f"{language} {i}\n" for i in range(40)) + "\n"
        (folder / "train-parts" / f"{IDS[0]}.{language}").write_text(first, "utf-8")
        with gzip.open(folder / "train-parts" / f"{IDS[1]}.{language}.gz", "wt") as out:
            # U+2028 ends no line.
            out.write(f"{language}\u2028more\nlast {language}")
    return folder


@pytest.mark.parametrize("pair", ["en-ja", "ja-en"])
def test_training_text_is_read_from_all_parts(tmp_path, mtdata, pair):
    assert wmt22_folder.write_train(tmp_path / "data", pair, mtdata, ids=IDS) == 42
    rows = _rows(tmp_path / "data", pair, "train")
    assert rows[39:] == [
        {"en": "eng 39", "ja": "jpn 39"},
        {"en": "eng\u2028more", "ja": "jpn\u2028more"},
        {"en": "last eng", "ja": "last jpn"},
    ]
    assert list(rows[0]) == pair.split("-")


def test_a_sample_is_drawn_from_all_of_it(tmp_path, mtdata):
    wmt22_folder.write_train(tmp_path / "all", "en-ja", mtdata, ids=IDS)
    every = _rows(tmp_path / "all", "en-ja", "train")
    actual = set()
    for seed in range(80):
        count = wmt22_folder.write_train(
            tmp_path / "few", "en-ja", mtdata, ids=IDS, rows=5, seed=seed
        )
        few = _rows(tmp_path / "few", "en-ja", "train")
        places = [every.index(row) for row in few]
        assert 4 <= len(few) == count <= 5 and places == sorted(set(places))  # one line is blank
        actual |= set(places)
    assert actual == set(range(42))


def test_missing_or_unequal_parts_are_named(tmp_path, mtdata):
    with pytest.raises(FileNotFoundError, match="lacks KECL-paracrawl-3-eng-jpn, Phontron-kftt"):
        some = ["KECL-paracrawl-3-eng-jpn", IDS[0], "Phontron-kftt_train-1-eng-jpn"]
        wmt22_folder.write_train(tmp_path / "data", "en-ja", mtdata, ids=some)
    with pytest.raises(FileNotFoundError, match="lacks ParaCrawl-.*Statmt-backtrans_enzh-wmt20"):
        wmt22_folder.write_train(tmp_path / "data", "zh-en", mtdata)
    (mtdata / "train-parts" / f"{IDS[0]}.jpn").write_text("one\n")
    with pytest.raises(ValueError, match=f"{IDS[0]}.eng has 41 lines but .*{IDS[0]}.jpn 1;"):
        wmt22_folder.write_train(tmp_path / "data", "en-ja", mtdata, ids=IDS)
    with pytest.raises(ValueError, match="rows is 0; must be at least 1"):
        wmt22_folder.write_train(tmp_path / "data", "en-ja", mtdata, ids=IDS, rows=0)
    assert not (tmp_path / "data").exists()


BOM = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_text_and_blank_lines_are_counted(tmp_path, mtdata, capsys):
    path = mtdata / "train-parts" / f"{IDS[0]}.eng"
    path.write_bytes(BOM + path.read_bytes().replace(b"\n", b"\r\n"))
    assert wmt22_folder.write_train(tmp_path / "data", "en-ja", mtdata, ids=IDS) == 42
    assert _rows(tmp_path / "data", "en-ja", "train")[0] == {"en": "eng 0", "ja": "jpn 0"}
    assert "train.jsonl: left out 1 pairs of lines, blank in a language" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ncaf\xe9\n", r":2: not UTF-8 \(0xe9 at byte 4\); save it as UTF-8"),
        (
            "one\n".encode("utf-16"),
            r":1: not UTF-8 \(UTF-16, or no text at all, by its zero bytes\)",
        ),
        (b"one\ntwo\n" + "drei\n".encode("utf-16-le"), r":3: not UTF-8 \(UTF-16, or no text"),
        (b"one\n" * 3, r"has 3 lines but .*jpn 41; the two belong together"),
    ],
)
def test_a_corpus_that_can_not_be_read_is_named_by_file_and_line(
    tmp_path, mtdata, capsys, content, message
):
    path = mtdata / "train-parts" / f"{IDS[0]}.eng"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        wmt22_folder.write_train(tmp_path / "data", "en-ja", mtdata, ids=IDS)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("content", [b"no gzip", None])
def test_a_damaged_part_is_named(tmp_path, mtdata, content):
    path = mtdata / "train-parts" / f"{IDS[1]}.jpn.gz"
    path.write_bytes(path.read_bytes()[:-12] if content is None else content)
    with pytest.raises(ValueError, match=rf"{path.name}:\d+: the file is damaged or cut off"):
        wmt22_folder.write_train(tmp_path / "data", "en-ja", mtdata, ids=IDS)


def test_the_command_ends_in_one_line(tmp_path, sacrebleu_cache, mtdata, capsys):
    (mtdata / "train-parts" / f"{IDS[0]}.eng").write_bytes(b"\xff\n")
    argv = ["--out", str(tmp_path / "data"), "--pairs", "en-jp"]
    with pytest.raises(SystemExit) as ended:
        wmt22_folder.main(argv)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and "did you mean 'en-ja'" in line
