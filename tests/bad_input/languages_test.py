"""Texts without spaces between words under metrics of words: refused, or said with counts."""

import json

import pyarrow.parquet as pq
import pytest

from cascade_jax.cli.main import main

TARGETS = [
    "猫坐在垫子上。",
    "今天天气很好，我们去公园。",
    "他昨天买了一本新书。",
    "这家餐厅的菜很好吃。",
]
SMALL = [
    "猫坐在垫子上。",
    "今天天气不错，我们去公园。",
    "他昨天买了一本书。",
    "这家餐厅的食物很好吃。",
]
LARGE = [*TARGETS[:3], "这家餐厅菜很好吃。"]
THAI = ["แมวนั่งอยู่บนเสื่อ", "วันนี้อากาศดีมาก", "เขาซื้อหนังสือใหม่", "อาหารร้านนี้อร่อยมาก"]


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def imported(tmp_path, capfd):
    """Imports answers by a metric; status, what was printed, and the two models' mean quality."""

    def run(*flags, targets=TARGETS, small=SMALL, large=LARGE, task="m"):
        numbered = range(len(targets))
        small = [{"id": i, "answer": small[i], "log_probs": [-0.1 * (i + 1)]} for i in numbered]
        asked = [{"id": i, "target": targets[i], "task": task} for i in numbered]
        files = [
            *("--student", _write(tmp_path / "s.jsonl", small)),
            *(
                "--teacher",
                _write(tmp_path / "t.jsonl", [{"id": i, "answer": large[i]} for i in numbered]),
            ),
            *("--targets", _write(tmp_path / "targets.jsonl", asked)),
        ]
        argv = ["records", "from-jsonl", *files, "--name=s", "--mixture=m", "--split=test"]
        argv += ["--student_parameters=1B", "--teacher_parameters=70B"]
        output = tmp_path / "out.parquet"
        status = main([*argv, "--output", str(output), *flags])
        printed = capfd.readouterr()
        if status:
            (line,) = printed.err.splitlines()
            return status, line, None
        table = pq.read_table(output)
        means = [
            sum(table[f"{m}_quality"].to_pylist()) / len(targets) for m in ("student", "teacher")
        ]
        return status, printed.out, means

    return run


@pytest.mark.parametrize("metric", ["bleu", "token_f1", "rouge_l"])
def test_a_metric_of_words_without_a_tokenizer_is_refused(imported, metric):
    status, line, _ = imported(f"--metric={metric}")
    assert status == 2 and f"{metric} can't tell apart the words of 4 of 4 targets" in line
    assert "'猫坐在垫子上。'" in line and "give --tokenizer zh" in line
    status, line, _ = imported(f"--metric={metric}", targets=THAI, small=THAI, large=THAI)
    assert status == 2 and "give --tokenizer char" in line


@pytest.mark.parametrize(("metric", "tokenizer"), [("bleu", "zh"), ("token_f1", "char")])
def test_a_tokenizer_counts_what_is_right_in_part(imported, metric, tokenizer):
    status, printed, means = imported(f"--metric={metric}", f"--tokenizer={tokenizer}")
    assert status == 0 and "can't tell" not in printed
    # By words of 13a one and three of four are right, and nothing in part.
    assert 0.5 < means[0] < means[1] < 1


def test_a_tokenizer_that_can_not_read_the_texts_is_said_but_not_refused(imported):
    status, printed, means = imported("--metric=bleu", "--tokenizer=13a")
    assert status == 0 and means == [0.25, 0.75]
    assert "bleu can't tell apart the words of 4 of 4 targets by the tokenizer '13a'" in printed


def test_exact_matches_and_a_few_such_texts_are_said_with_counts(imported):
    status, printed, means = imported("--metric=squad")
    assert status == 0 and means == [0.25, 0.75]
    assert "squad can't tell apart the words of 4 of 4 targets" in printed
    mixed = ["a cat sat", "it is fine", TARGETS[2]]
    status, printed, _ = imported("--metric=rouge_l", targets=mixed, small=mixed, large=mixed)
    assert status == 0 and "words of 1 of 3 targets" in printed
    assert "can't tell" not in imported("--metric=chrf")[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric=accuracy", "--tokenizer=zh"], "accuracy takes no tokenizer"),
        (["--metric=judged", "--tokenizer=zh"], "only a metric that is computed and is of words"),
        (["--tokenizer=zh"], "tokenizer is 'zh' but metric None"),
        (["--metric=bleu", "--tokenizer=zhh"], "did you mean 'zh'"),
    ],
)
def test_tokenizers_that_will_not_do(imported, flags, message):
    status, line, _ = imported(*flags)
    assert status == 2 and message in line
