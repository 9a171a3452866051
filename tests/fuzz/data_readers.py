"""Readers of data: JSONL of tasks, corpora of text, and the caches that commands keep."""

import functools
import gzip
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.container_mutations import change_zip
from tests.fuzz.json_mutations import JSON, JSONL, change_bytes, change_text
from tests.fuzz.model_readers import t5_config
from tests.fuzz.reader import Reader, command, write_json, write_lines

# Folder of a data folder, the split that is shown, and a row.
_TASKS = {
    "glue__cola": ("validation", {"sentence": "a cat", "label": 1, "idx": 0}),
    "super_glue__copa": (
        "validation",
        {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 0, "idx": 0},
    ),
    "super_glue__multirc": (
        "validation",
        {"paragraph": "p. q.", "question": "why", "answer": "so", "label": 1,
         "idx": {"paragraph": 0, "question": 0, "answer": 0}},
    ),
    "gsm8k": ("test", {"question": "1 + 1?", "answer": "1 + 1 = 2 #### 2"}),
    "ai2_arc__ARC-Easy": (
        "test",
        {"id": "x", "question": "q", "answerKey": 0,
         "choices": {"text": ["a", "b", "c", "d"], "label": [0, 1, 2, 3]}},
    ),
    "wmt22_translate__en-ja": (
        "validation",
        {"en": "Good.", "ja": "良い。", "references": ["良い。"]},
    ),
}  # fmt: skip


def _rows_of(folder_name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        row = _TASKS[folder_name][1]
        for split in ("train", "validation", "test"):
            write_lines(folder / folder_name / f"{split}.jsonl", [row] * 4)

    return make


@functools.cache
def _registered() -> None:
    import tasks.all  # noqa: F401


def _task(folder_name: str) -> str | None:
    """The first registered task of a folder, whatever version it has."""
    import seqio

    _registered()
    for name in sorted(seqio.TaskRegistry.names()):
        source = seqio.TaskRegistry.get(name).source
        here = getattr(source, "name", "").replace("/", "__") == folder_name
        if here and _TASKS[folder_name][0] in source.splits:
            return name
    return None


def _show_rows(folder_name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        name = _task(folder_name)
        flags = ["--data_dir", folder, "--split", _TASKS[folder_name][0], "--vocabulary", "byte"]
        command("tasks", name, *flags)

    return read


# ---------------------------------------------------------------- corpora


def _corpus(folder: Path) -> None:
    parts = folder / "train-parts"
    parts.mkdir()
    english, japanese = "a cat\na dog\nan owl\n", "猫\n犬\n梟\n"
    (parts / "one.eng").write_text(english, "utf-8")
    (parts / "one.jpn").write_text(japanese, "utf-8")
    (parts / "two.eng.gz").write_bytes(gzip.compress(english.encode(), mtime=0))
    (parts / "two.jpn.gz").write_bytes(gzip.compress(japanese.encode(), mtime=0))


def _write_train(folder: Path) -> None:
    from tasks import wmt22_folder

    options = {"ids": ["one", "two"], "rows": 4}
    wmt22_folder.write_train(folder / "written", "en-ja", folder, **options)


# ---------------------------------------------------------------- caches


_ROWS = 6


def _cached_rows() -> dict[str, Any]:
    """A batch under seqio's names, of ids that differ from row to row."""
    import numpy as np

    inputs = np.arange(_ROWS * 5).reshape(_ROWS, 5) % 200 + 3
    targets = np.arange(_ROWS * 4).reshape(_ROWS, 4) % 190 + 4
    targets[:, 3] = np.arange(_ROWS) % 2 * 9  # some are shorter
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    return {
        "encoder_input_tokens": inputs.astype(np.int32),
        "decoder_input_tokens": shifted.astype(np.int32),
        "decoder_target_tokens": targets.astype(np.int32),
        "decoder_loss_weights": (targets > 0).astype(np.int32),
    }


@functools.cache
def _user(folder: str) -> Any:
    """A run that reads the cache."""
    from cascade_jax.data import pipeline
    from cascade_jax.losses import variants

    return types.SimpleNamespace(
        name="student",
        data=pipeline.DataConfig("demo_last_v1", input_length=5, target_length=4, batch_size=_ROWS),
        loss=variants.CATDist(),
        teacher=t5_config(),
        teacher_run="teacher",
        teacher_checkpoint="best",
        teacher_cache=folder,
        eval_split=None,
        eval_batches=1,
    )


_DATA = {
    **{"mixture": "demo_last_v1", "input_length": 5, "target_length": 4},
    **{"architecture": "encoder_decoder", "vocabulary": "byte-259"},
    **{"rows": {"train": {"demo_last_v1": "rows-12"}}, "examples": {"demo_last_v1": "34"}},
}
_MIXTURE = types.SimpleNamespace(
    name="demo_last_v1", vocabulary=types.SimpleNamespace(decode=str), fingerprint="byte-259"
)


def _teacher_cache(dtype: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import numpy as np

        from cascade_jax.data import example_keys
        from cascade_jax.runs import run_folder
        from cascade_jax.teacher_cache import identity, shards
        from cascade_jax.teacher_cache.format import Holding, TokenFacts

        holding = Holding(384, 3, dtype)
        teacher = run_folder.describe(t5_config())
        for field in identity._IGNORED_MODEL_FIELDS:
            teacher.pop(field, None)
        fingerprint = {
            "format": identity.FORMAT,
            "version": "0.1.0",
            "teacher": {"folder": "/x", "model": teacher, "step": 4, "saved_at": 7},
            "data": _DATA,
            "holding": vars(holding) | {},
            "batch_size": _ROWS,
            "shard_rows": _ROWS,
            "eval_rows": 0,
        }
        write_json(folder / shards.FINGERPRINT, fingerprint)
        digest = identity.digest(fingerprint)
        examples = list(example_keys.examples_of(_cached_rows(), "encoder_decoder"))
        for group, half in enumerate((examples[:3], examples[3:])):
            with shards.ShardWriter(
                folder, shards.Shard("train", group, 0, 1), holding, digest
            ) as writer:
                for example in half:
                    rng, tokens = np.random.default_rng(example.row), len(example.places)
                    top = np.sort(-rng.exponential(3, (tokens, 3)), 1)[:, ::-1].astype(np.float32)
                    is_best, ids = rng.random(tokens) < 0.5, rng.integers(0, 384, (tokens, 3))
                    facts = TokenFacts(is_best, top[:, 0], ids, top, top[:, -1] - 1)
                    writer.add(example.key, facts, facts.label_log_probs)
        there = shards.shards_in(folder, digest)
        sizes = {name: facts["bytes"] for name, facts in there.items()}
        write_json(folder / shards.COMPLETE, {"shards": sizes, "splits": {}})

    return make


def _look_up(folder: Path) -> Any:
    from cascade_jax.teacher_cache import batches, identity, shards
    from cascade_jax.teacher_cache.format import Holding

    run = _user(str(folder))
    # What a run compares its data with takes seconds, and does not read the cache.
    identity.data_identity = lambda *_: _DATA
    there = identity.check_run(run, folder / "runs", _MIXTURE)
    shards.shards_in(folder, identity.digest(there))
    holding = Holding(**there["holding"])
    return batches.Lookup(run, _MIXTURE, holding)(_cached_rows(), "train")


def _answer_store(folder: Path) -> None:
    _open_store(folder)[0].add(*_answers())


def _answers() -> tuple[Any, Any]:
    import numpy as np

    from cascade_jax.calibration.pool import CascadeAnswers

    rng = np.random.default_rng(0)
    ends = np.sort(rng.random((2, 6, 1)).astype(np.float32), axis=0)
    answers = CascadeAnswers(
        cost=rng.random(6),
        quality={"rouge1": rng.random(6)},
        holds_from=ends[0],
        holds_below=ends[1],
        is_deferred=rng.random((6, 3)) < 0.5,
        lengths=rng.integers(1, 4, 6),
    )
    return np.arange(6), answers


def _open_store(folder: Path) -> tuple[Any, Any]:
    import numpy as np

    from cascade_jax.calibration.answer_store import AnswerStore

    store, rows = AnswerStore(folder, {"model": 1}, 6), np.arange(6)
    found = store.find(np.full((6, 1), 0.5, np.float32), rows)
    return store, store.take(found[found >= 0]) if np.any(found >= 0) else None


def _read_store(folder: Path) -> Any:
    return _open_store(folder)[1]


def _token_cache(folder: Path) -> None:
    import numpy as np

    from cascade_jax.data import token_cache

    rng = np.random.default_rng(0)
    values = {name: rng.integers(3, 200, 12).astype(np.uint8) for name in ("inputs", "targets")}
    splits = {name: np.array([0, 3, 7, 12]) for name in values}
    tokens = token_cache.CachedTokens(np.array([0, 1, 1, 3]), values, splits)
    token_cache._write(folder / "tokens.npz", "key", tokens)


def _read_tokens(folder: Path) -> Any:
    import seqio

    from cascade_jax.data import token_cache

    tokens = token_cache._read(folder / "tokens.npz", "key")
    if tokens is not None:
        tokens.order(0, seqio.ShardInfo(0, 1))
        [tokens.lengths(name) for name in tokens.values]
    return tokens


def readers() -> list[Reader]:
    """All of them."""
    cache = {"*.json": JSON, "*.npz": (change_zip,), "*.array_record": (change_bytes,)}
    texts = {"train-parts/one*": (change_text,), "train-parts/two*": (change_bytes,)}
    return [
        *(
            Reader(
                f"tasks.{name}",
                _rows_of(name),
                _show_rows(name),
                {f"{name}/{_TASKS[name][0]}.*": JSONL},
                0.4,
            )
            for name in _TASKS
        ),
        Reader("corpus", _corpus, _write_train, texts, 2),
        Reader("teacher_cache", _teacher_cache("float32"), _look_up, cache, 4, True),
        Reader("teacher_cache.uint8", _teacher_cache("uint8"), _look_up, cache, 2, True),
        # A file that is damaged is made anew, which needs no refusal.
        Reader("answer_store", _answer_store, _read_store, {"*.npz": (change_zip,)}, 1, True),
        Reader("token_cache", _token_cache, _read_tokens, {"*.npz": (change_zip,)}, 1),
    ]
