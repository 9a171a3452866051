"""Writes the data folder of the WMT22 tasks, which TFDS does not have.

    python -m tasks.wmt22_folder --out data --mtdata wmt22_train

makes data/wmt22_translate__en-ja/{newstest2020,validation,test,train}.jsonl, and so for the other
directions. The test sets come from sacrebleu, which downloads each once to ~/.sacrebleu (or
$SACREBLEU), with one reference a row, or all there are with --all_references. The training text is
what mtdata has put into the folder wmt22_train before:

    pip install mtdata
    mtdata get -l eng-jpn -tr Statmt-news_commentary-16-eng-jpn KECL-paracrawl-3-eng-jpn ... \\
      -o wmt22_train

with the ids of TRAIN_IDS; what the recipes wmt22-jaen, wmt22-ruen and wmt22-zhen get will do too.
The other corpora that WMT22 allowed (CCMT) have no id there.
"""

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cascade_jax import files, text_file
from cascade_jax.names import did_you_mean

PAIRS = ("en-ja", "en-ru", "en-zh", "ja-en", "ru-en", "zh-en")
# File -> sacrebleu's test set. The first is the public recipe's set for choosing things on.
TEST_SETS = {"newstest2020": "wmt20", "validation": "wmt21", "test": "wmt22"}
# Segments of newstest2021, which are those of the paper's figure 9, and of the general test 2022.
SEGMENTS = {
    "validation": dict(zip(PAIRS, (1000, 1002, 1002, 1005, 1000, 1948), strict=True)),
    "test": dict(zip(PAIRS, (2037, 2037, 2037, 2008, 2016, 1875), strict=True)),
}
# The paper's longest run on WMT22 sees 1,000 steps of 1,024 examples.
TRAIN_ROWS = 1_024_000
_ISO_639_3 = {"en": "eng", "ja": "jpn", "ru": "rus", "zh": "zho"}
TRAIN_IDS = {
    "ja": """
        Statmt-news_commentary-16-eng-jpn KECL-paracrawl-3-eng-jpn Statmt-wikititles-3-jpn-eng
        Facebook-wikimatrix-1-eng-jpn Statmt-ted-wmt20-eng-jpn StanfordNLP-jesc_train-1-eng-jpn
        Phontron-kftt_train-1-eng-jpn
    """.split(),
    "ru": """
        ParaCrawl-paracrawl-1_bonus-eng-rus Statmt-commoncrawl_wmt13-1-rus-eng
        Statmt-news_commentary-16-eng-rus Statmt-yandex-wmt22-eng-rus
        Statmt-wikititles-3-rus-eng OPUS-unpc-v1.0-eng-rus Facebook-wikimatrix-1-eng-rus
        Statmt-backtrans_ruen-wmt20-rus-eng Statmt-backtrans_enru-wmt20-eng-rus
        Tilde-airbaltic-1-eng-rus Tilde-czechtourism-1-eng-rus Tilde-worldbank-1-eng-rus
    """.split(),
    "zh": """
        ParaCrawl-paracrawl-1_bonus-eng-zho Statmt-news_commentary-16-eng-zho
        Statmt-wikititles-3-zho-eng OPUS-unpc-v1.0-eng-zho Facebook-wikimatrix-1-eng-zho
        Statmt-backtrans_enzh-wmt20-eng-zho
    """.split(),
}


def languages_of(pair: str) -> tuple[str, str]:
    """Source and target language of a direction: "en-ja" -> ("en", "ja").

    Raises:
      ValueError: not one of PAIRS (lists them, and the nearest).
    """
    if pair not in PAIRS:
        hint = did_you_mean(pair, PAIRS)
        raise ValueError(f"language pair is {pair!r}; must be one of {', '.join(PAIRS)}{hint}")
    source, target = pair.split("-")
    return source, target


def task_folder(folder: str | Path, pair: str) -> Path:
    """Where a direction's files are in a data folder."""
    return Path(folder) / f"wmt22_translate__{pair}"


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file or of its .gz."""
    return text_file.read_lines(path if path.is_file() else path.with_name(path.name + ".gz"))


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Writes a JSONL file whole or not at all; gives back the number of rows."""
    count = 0
    with files.replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
        if not count:
            raise ValueError(f"{path}: no row to write")
    return count


# ---- test sets


def write_test_set(
    folder: str | Path, pair: str, file: str, *, all_references: bool = False
) -> int:
    """Writes one test set of a direction by way of sacrebleu, and gives back its size.

    Args:
      folder: the data folder.
      pair: one of PAIRS.
      file: a key of TEST_SETS.
      all_references: whether a row's "references" are all that sacrebleu has (newstest2021 has a
        second one for en-zh, en-ru and ru-en), or A alone, as in sacrebleu's own scores. With more
        references BLEU is higher.

    Raises:
      ValueError: unequal numbers of lines, or another number than is published.
    """
    import sacrebleu.dataset

    source, target = languages_of(pair)
    dataset = sacrebleu.dataset.DATASETS[TEST_SETS[file]]
    paths = dict(zip(dataset.fieldnames(pair), dataset.get_files(pair), strict=True))
    names = sorted(name for name in paths if name.partition(":")[0] == "ref")
    # The first is "A" or, of the older wmt20, the only one: what sacrebleu takes by default.
    names = ["src", *names] if all_references else ["src", *names[:1]]
    columns = [list(_lines(Path(paths[name]))) for name in names]
    sizes = {Path(paths[name]).name: len(c) for name, c in zip(names, columns, strict=True)}
    expected = SEGMENTS.get(file, {}).get(pair, len(columns[0]))
    if set(sizes.values()) != {expected}:
        raise ValueError(
            f"{TEST_SETS[file]} {pair}: lines are {sizes}, must be {expected} each; remove "
            f"{Path(paths['src']).parent} to download it anew"
        )
    rows = (
        {source: text, target: references[0], "references": list(references)}
        for text, *others in zip(*columns, strict=True)
        # A reference may leave out segments.
        if (references := [other for other in others if other])
    )
    return _write(task_folder(folder, pair) / f"{file}.jsonl", rows)


# ---- training text


def _count(texts: Sequence[Path]) -> int:
    sizes = [sum(1 for _ in _lines(path)) for path in texts]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{texts[0]} has {sizes[0]} lines but {texts[1]} {sizes[1]}; the two belong together "
            "line by line"
        )
    return sizes[0]


def _corpus_files(mtdata: Path, dataset_id: str, languages: Sequence[str]) -> list[Path] | None:
    """An id's two files as mtdata names them, train-parts/<id>.<language>[.gz]; None if absent."""
    files = [mtdata / "train-parts" / f"{dataset_id}.{_ISO_639_3[name]}" for name in languages]
    there = [path.is_file() or path.with_name(path.name + ".gz").is_file() for path in files]
    return files if all(there) else None


def write_train(
    folder: str | Path,
    pair: str,
    mtdata: str | Path,
    *,
    ids: Sequence[str] | None = None,
    rows: int = TRAIN_ROWS,
    seed: int = 0,
) -> int:
    """Writes a direction's train.jsonl from what mtdata has downloaded; gives back its size.

    Args:
      folder: the data folder.
      pair: one of PAIRS.
      mtdata: the output folder of `mtdata get`.
      ids: which of mtdata's data sets; None for all of TRAIN_IDS.
      rows: the most rows, drawn evenly from all of them; a task's rows are held in memory.
      seed: of the draw.

    Raises:
      FileNotFoundError: files of an id are missing (which, all at once).
      ValueError: the two files of an id differ in length, a line is not UTF-8 (file and line), or
        rows is not positive.
    """
    languages = languages_of(pair)
    if rows < 1:
        raise ValueError(f"rows is {rows}; must be at least 1")
    (foreign,) = set(languages) - {"en"}
    ids = TRAIN_IDS[foreign] if ids is None else ids
    corpora = {name: _corpus_files(Path(mtdata), name, languages) for name in ids}
    missing = [name for name, texts in corpora.items() if texts is None]
    if missing:
        raise FileNotFoundError(
            f"{Path(mtdata) / 'train-parts'} lacks {', '.join(missing)} for {pair}: get them with "
            "`mtdata get -tr ...`, or name the ids to use"
        )
    total = sum(_count(texts) for texts in corpora.values())
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(total, rows, replace=False)) if total > rows else np.arange(total)
    pairs = itertools.chain.from_iterable(
        zip(_lines(texts[0]), _lines(texts[1]), strict=True) for texts in corpora.values()
    )
    pairs_of_lines = (
        {languages[0]: text, languages[1]: translation}
        for text, translation in _at(pairs, drawn)
        if text and translation
    )
    path = task_folder(folder, pair) / "train.jsonl"
    count = _write(path, pairs_of_lines)
    if count < len(drawn):
        print(
            f"{path}: left out {len(drawn) - count:,} pairs of lines, blank in a language or both"
        )
    return count


def _at(items: Iterator, places: Sequence[int]) -> Iterator:
    """The items at ascending places."""
    before = -1
    for place in places:
        yield next(itertools.islice(items, place - before - 1, None))
        before = place


# ---- all of it


def prepare(
    folder: str | Path,
    pair: str,
    *,
    mtdata: str | Path | None = None,
    ids: Sequence[str] | None = None,
    rows: int = TRAIN_ROWS,
    all_references: bool = False,
) -> dict[str, int]:
    """Writes all files of a direction, and gives back their sizes; arguments as above.

    Args:
      folder: the data folder, made if it is not there.
      pair: one of PAIRS.
      mtdata: see `write_train`; no train.jsonl if None.
      ids, rows: see `write_train`.
      all_references: see `write_test_set`.
    """
    languages_of(pair)
    sizes = {
        file: write_test_set(folder, pair, file, all_references=all_references)
        for file in TEST_SETS
    }
    if mtdata is not None:
        sizes["train"] = write_train(folder, pair, mtdata, ids=ids, rows=rows)
    return sizes


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; prints a line a direction."""
    parser = argparse.ArgumentParser(prog="python -m tasks.wmt22_folder")
    parser.add_argument("--out", required=True, help="data folder to write to")
    parser.add_argument("--pairs", default=",".join(PAIRS), help="directions, with commas")
    parser.add_argument("--mtdata", help="output folder of `mtdata get`, for train.jsonl")
    parser.add_argument("--ids", help="mtdata's ids to train on, with commas; all if left out")
    parser.add_argument("--rows", type=int, default=TRAIN_ROWS, help="training rows, at most")
    parser.add_argument(
        "--all_references",
        action="store_true",
        help="every reference of a row, for a higher BLEU, in place of sacrebleu's default one",
    )
    values = parser.parse_args(arguments)
    try:
        _prepare_all(values)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _prepare_all(values: argparse.Namespace) -> None:
    for pair in values.pairs.split(","):
        sizes = prepare(
            values.out,
            pair,
            mtdata=values.mtdata,
            ids=values.ids.split(",") if values.ids else None,
            rows=values.rows,
            all_references=values.all_references,
        )
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        print(f"{task_folder(values.out, pair)}: {counts}")


if __name__ == "__main__":
    main()
