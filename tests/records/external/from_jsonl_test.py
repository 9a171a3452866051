"""Records of answers that other systems wrote: every format, round trips, every refusal."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.records.external import from_jsonl, to_jsonl
from cascade_jax.records.external.from_jsonl import FromJsonlConfig
from cascade_jax.records.external.lines import LineError
from cascade_jax.task_metrics import quality
from cascade_jax.task_metrics.translation import Bleu
from tests.support import records_statistics, records_table
from tests.support.reports import evaluate_and_write

RNG = np.random.default_rng(0)
N = 12
TARGETS = [f"word{i} right" for i in range(N)]
ANSWERS = {
    "student": [t if i % 3 else "word0 wrong" for i, t in enumerate(TARGETS)],
    "teacher": [t if i % 5 else "wrong" for i, t in enumerate(TARGETS)],
}
LOG_PROBS = {
    model: [-RNG.exponential(size=2 + i % 3).round(3) for i in range(N)] for model in ANSWERS
}


def ids():
    return [f"q{i}" for i in range(N)]


def others(log_prob, count=2):
    """Log-probs of `count` tokens less likely than one, of the probability that it leaves."""
    left = np.log(max(-np.expm1(log_prob), 1e-3))
    return [round(float(min(log_prob - k / 2, left - 0.7 * k)), 3) for k in range(1, count + 1)]


def pieces(model, i):
    """The answer as that many tokens."""
    count = len(LOG_PROBS[model][i])
    return [*ANSWERS[model][i][: count - 1], ANSWERS[model][i][count - 1 :]]


def openai_line(model, i):
    content = [
        {
            "token": piece,
            "logprob": float(value),
            "bytes": None,
            "top_logprobs": [
                {"token": piece, "logprob": float(value), "bytes": None},
                *({"token": f"x{x}", "logprob": x, "bytes": None} for x in others(value)),
            ],
        }
        for piece, value in zip(pieces(model, i), LOG_PROBS[model][i], strict=True)
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": ANSWERS[model][i]},
        "logprobs": {"content": content, "refusal": None},
        "finish_reason": "stop",
    }
    return {
        "id": f"chatcmpl-{model}{i}",
        "custom_id": f"q{i}",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": 7 + i, "completion_tokens": len(content)},
    }


def batch_line(model, i):
    """As a line of the output of a batch."""
    body = openai_line(model, i)
    custom_id = body.pop("custom_id")
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": f"batch_{i}", "custom_id": custom_id, "response": response, "error": None}


def vllm_line(model, i):
    def of_token(place, value):
        entries = {str(100 + place): [value, 1]}
        entries |= {str(200 + k): [other, k + 2] for k, other in enumerate(others(value))}
        return {
            key: {
                "logprob": float(value),
                "rank": rank,
                "decoded_token": pieces(model, i)[place] if rank == 1 else f"t{key}",
            }
            for key, (value, rank) in entries.items()
        }

    values = LOG_PROBS[model][i]
    output = {
        "index": 0,
        "text": ANSWERS[model][i],
        "token_ids": [100 + place for place in range(len(values))],
        "cumulative_logprob": float(np.sum(values)),
        "logprobs": [of_token(place, value) for place, value in enumerate(values)],
        "finish_reason": "stop",
    }
    return {
        "request_id": f"q{i}",
        "prompt": f"question {i}",
        "prompt_token_ids": [5] * (7 + i),
        "prompt_logprobs": None,
        "outputs": [output],
        "finished": True,
    }


def answer_line(model, i):
    return {"id": f"q{i}", "answer": ANSWERS[model][i], "log_probs": LOG_PROBS[model][i].tolist()}


def table_line(i):
    of = {model: {k: v for k, v in answer_line(model, i).items() if k != "id"} for model in ANSWERS}
    return {
        "id": f"q{i}",
        "task": f"t{i % 2}",
        "inputs": f"question {i}",
        "target": TARGETS[i],
        **of,
    }


LINES = {"openai": openai_line, "batch": batch_line, "vllm": vllm_line, "table": answer_line}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return str(path)


def files(folder, student="openai", teacher="openai", changes=()):
    """Files of both models and of targets; `changes` alter the student's lines."""
    lines = [LINES[student]("student", i) for i in range(N)]
    for change in changes:
        change(lines)
    return {
        "student": write(folder / "student.jsonl", lines),
        "teacher": write(
            folder / "teacher.jsonl", [LINES[teacher]("teacher", i) for i in reversed(range(N))]
        ),
        "targets": write(
            folder / "targets.jsonl",
            [
                {"id": f"q{i}", "target": f"word{i} right", "task": f"t{i % 2}"}
                for i in range(N + 3)
            ],
        ),
    }


def config(folder, arguments=None, **settings):
    defaults = {
        "metric": "accuracy",
        "name": "small",
        "mixture": "trivia",
        "split": "test",
        "student_parameters": 1e6,
        "teacher_parameters": 5e6,
    }
    arguments = files(folder) if arguments is None else arguments
    return FromJsonlConfig(**arguments, output=str(folder / "r.parquet"), **(defaults | settings))


def convert(folder, arguments=None, **settings):
    made = config(folder, arguments, **settings)
    from_jsonl.from_jsonl(made)
    return records.read(made.output)


def of_rows(read, name, model="student"):
    offsets = getattr(read, f"{model}_offsets")
    return np.split(getattr(read, f"{model}_{name}"), offsets[1:-1])


@pytest.mark.parametrize("student", LINES)
@pytest.mark.parametrize("teacher", ["openai", "vllm"])
def test_every_format_gives_records_that_evaluate(tmp_path, student, teacher):
    read = convert(tmp_path, files(tmp_path, student, teacher))
    assert read.example_id.tolist() == ids() and read.name == "small"
    for model in ANSWERS:  # the teacher's file is in another order
        assert getattr(read, f"{model}_answer").tolist() == ANSWERS[model]
        right = [a == t for a, t in zip(ANSWERS[model], TARGETS, strict=True)]
        assert getattr(read, f"{model}_quality").tolist() == right
        for actual, expected in zip(
            of_rows(read, "log_probs", model), LOG_PROBS[model], strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert read.student_entropies is None and read.student.entropies is None
    assert set(read.student_flops_per_token) == {2e6} and set(read.metric) == {"accuracy"}
    assert read.metadata["figures"]["t0"]["accuracy"]["student"] == pytest.approx(4 / 6)
    result = evaluate_and_write(tmp_path / "r.parquet", tmp_path / "report", bootstrap_samples=5)
    assert result.pooled.num_examples == N and set(result.tasks) == {"t0", "t1"}
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize("student", ["openai", "batch", "vllm"])
def test_top_log_probs_pieces_and_input_tokens_come_along(tmp_path, student):
    read = convert(tmp_path, files(tmp_path, student, "vllm"))
    assert read.metadata["top_k"] == 3
    expected = [[v, *others(v)] for values in LOG_PROBS["student"] for v in values]
    np.testing.assert_allclose(read.student_top_log_probs, expected, rtol=1e-6)
    assert read.student_input_tokens.tolist() == [7 + i for i in range(N)]
    assert read.pieces("student", 1) == pieces("student", 1)
    assert (read.student_tokens is None) == (student != "vllm")
    if student == "vllm":
        assert read.student_tokens[:2].tolist() == [100, 101]
        assert read.student_top_ids[0].tolist() == [100, 200, 201]
        assert read.inputs[3] == "question 3"


def test_a_chosen_token_beside_the_largest_is_not_among_them(tmp_path):
    def change(lines):
        # Token 9 was drawn though it is the 40th: vLLM adds it to the two largest.
        output = lines[4]["outputs"][0]
        output["token_ids"][0] = 9
        output["logprobs"][0] = {
            "9": {"logprob": -4.5, "rank": 40, "decoded_token": pieces("student", 4)[0]},
            "7": {"logprob": -0.25, "rank": 1, "decoded_token": "a"},
            "8": {"logprob": -1.5, "rank": 2, "decoded_token": "b"},
        }

    read = convert(tmp_path, files(tmp_path, "vllm", changes=[change]))
    at = read.student_offsets[4]
    assert read.metadata["top_k"] == 2 and read.student_log_probs[at] == -4.5
    assert read.student_top_ids[at].tolist() == [7, 8]
    assert read.student_top_log_probs[at].tolist() == [-0.25, -1.5]


def test_an_answer_that_was_scored_as_the_end_of_a_prompt(tmp_path):
    def change(lines):
        for line in lines:
            output = line.pop("outputs")[0]
            line["answer"], line["answer_tokens"] = output["text"], len(output["token_ids"])
            line["prompt_token_ids"] += output["token_ids"]
            line["prompt_logprobs"] = [None] * (
                len(line["prompt_token_ids"]) - len(output["token_ids"])
            ) + output["logprobs"]

    scored = convert(tmp_path, files(tmp_path, "vllm", changes=[change]))
    written = convert(tmp_path, files(tmp_path, "vllm"))
    for name in ("log_probs", "tokens", "top_log_probs", "input_tokens", "answer"):
        np.testing.assert_array_equal(
            getattr(scored, f"student_{name}"), getattr(written, f"student_{name}")
        )


def test_a_teacher_of_which_only_the_text_is_known(tmp_path):
    arguments = files(tmp_path)
    lines = [openai_line("teacher", i) for i in range(N)]
    for line in lines:
        line["choices"][0]["logprobs"] = None
    arguments["teacher"] = write(tmp_path / "teacher.jsonl", lines)
    read = convert(tmp_path, arguments)
    assert len(read.teacher_log_probs) == 0 and set(read.teacher_offsets) == {0}
    assert read.pieces("teacher", 0) is None and len(read.pieces("student", 0)) == 2


def test_a_plain_table_of_both_models(tmp_path):
    lines = [table_line(i) for i in range(N)]
    lines[2]["target"] = ["no", lines[2]["target"]]
    arguments = {"student": write(tmp_path / "table.jsonl", lines)}
    read = convert(tmp_path, arguments, metric="token_f1")
    assert read.inputs[3] == "question 3" and read.task.tolist() == ["t0", "t1"] * (N // 2)
    assert read.target[2] == "no | word2 right" and read.student_quality[2] == 1
    assert read.student_quality[3] == quality.token_f1(TARGETS[3:4], ["word0 wrong"])["token_f1"]


def test_a_field_of_the_lines_is_the_quality(tmp_path):
    lines = [table_line(i) for i in range(N)]
    for i, line in enumerate(lines):
        for model in ANSWERS:
            line[model]["judged"] = line[model]["quality"] = i / N
        line["student"]["judged"] = 0.5
    arguments = {"student": write(tmp_path / "table.jsonl", lines)}
    read = convert(tmp_path, arguments, metric="judged")
    assert set(read.student_quality) == {0.5} and set(read.metric) == {"judged"}
    read = convert(tmp_path, arguments, metric=None)
    assert read.student_quality.tolist() == [i / N for i in range(N)]
    assert set(read.metric) == {"quality"}


def test_a_corpus_metric_brings_its_counts(tmp_path):
    made = config(tmp_path, metric="bleu")
    assert from_jsonl.from_jsonl(made).lines() == []  # of a live cascade, which is not there
    read = records.read(made.output)
    rows = list(range(0, N, 2))
    expected = Bleu().statistics([TARGETS[i] for i in rows], [ANSWERS["student"][i] for i in rows])
    np.testing.assert_array_equal(read.statistics("t0").student, expected)
    assert set(read.metric) == {"sentence_bleu"}


def full_rows():
    """Rows with everything that records can hold."""
    rows = records_statistics.make_rows(8)
    for i, row in enumerate(rows):
        count = len(row["student_tokens"])
        row["student_log_probs"] = (-RNG.exponential(size=count)).astype(np.float32).tolist()
        top = -np.sort(2 + RNG.exponential(size=(count, 3)), axis=1).astype(np.float32)
        row |= {
            "student_top_log_probs": top.ravel().tolist(),
            "student_top_ids": list(range(3 * count)),
            "student_pieces": [f"é{k}" for k in range(count)],
            "teacher_pieces": ["<b>"] * len(row["teacher_tokens"]),
            "student_embedding": RNG.normal(size=4).astype(np.float32).tolist(),
            "student_quality": float(RNG.random()),
        }
        for model, scale in (("student", 1), ("teacher", 7)):
            row |= {
                f"{model}_input_tokens": 3 + i,
                f"{model}_flops": scale * 1e9 / 3,
                f"{model}_seconds": scale * float(RNG.random()),
            }
    return rows


@pytest.mark.parametrize("has_all", [True, False])
def test_records_come_back_from_a_plain_table_as_they_were(tmp_path, has_all):
    described = {"corpus_metrics": records_statistics.DESCRIBED}
    metadata = {**records_table.METADATA, **(described | {"top_k": 3} if has_all else {})}
    records.write(tmp_path / "a", full_rows() if has_all else records_table.make_rows(8), metadata)
    assert to_jsonl.to_jsonl(tmp_path / "a", tmp_path / "a.jsonl") == 8
    from_jsonl.from_jsonl(FromJsonlConfig(str(tmp_path / "a.jsonl"), str(tmp_path / "b")))
    first, second = (pq.read_table(tmp_path / name) for name in "ab")
    assert set(first.column_names) == set(second.column_names)
    for name in first.column_names:
        assert first[name].to_pylist() == second[name].to_pylist(), name
    read = [records.read(tmp_path / name).metadata for name in "ab"]
    assert read[0] == read[1]


def test_several_targets_do_not_come_back_as_one(tmp_path):
    lines = [table_line(i) | {"target": [TARGETS[i], "other"]} for i in range(N)]
    arguments = {"student": write(tmp_path / "both.jsonl", lines)}
    assert convert(tmp_path, arguments).student_quality.tolist() == [
        float(bool(i % 3)) for i in range(N)
    ]
    to_jsonl.to_jsonl(tmp_path / "r.parquet", tmp_path / "back.jsonl")
    again = FromJsonlConfig(str(tmp_path / "back.jsonl"), str(tmp_path / "c"), metric="accuracy")
    with pytest.raises(LineError, match="several targets.* give them anew with --targets"):
        from_jsonl.from_jsonl(again)
    targets = [{"id": f"q{i}", "target": lines[i]["target"]} for i in range(N)]
    file = write(tmp_path / "targets.jsonl", targets)
    from_jsonl.from_jsonl(dataclasses.replace(again, targets=file))
    read = [records.read(tmp_path / name).student_quality for name in ("r.parquet", "c")]
    np.testing.assert_array_equal(*read)


def test_what_is_read_is_not_written_over(tmp_path):
    made = config(tmp_path)
    with pytest.raises(ValueError, match="is what is read"):
        from_jsonl.from_jsonl(dataclasses.replace(made, output=made.student))
    from_jsonl.from_jsonl(made)
    with pytest.raises(ValueError, match="is what is read"):
        to_jsonl.to_jsonl(made.output, made.output)
    assert len(records.read(made.output)) == N


def test_a_split_that_is_given_is_that_of_all_rows(tmp_path):
    lines = [table_line(i) | {"split": "test", "mixture": "old"} for i in range(N)]
    arguments = {"student": write(tmp_path / "both.jsonl", lines)}
    read = convert(tmp_path, arguments, split="calibration", mixture="new")
    assert set(read.split) == {"calibration"} and set(read.mixture) == {"new"}


def test_empty_answers_are_refused_or_dropped(tmp_path):
    def change(lines):
        for i in (3, 5):
            choice = lines[i]["choices"][0]
            choice["message"]["content"], choice["logprobs"]["content"] = "", []

    arguments = files(tmp_path, changes=[change])
    message = r"student.jsonl:4 \(id 'q3'\): has an empty answer.* \(2 such\).*--empty drop"
    with pytest.raises(LineError, match=message):
        convert(tmp_path, arguments)
    made = from_jsonl.from_jsonl(config(tmp_path, arguments, empty="drop"))
    read = records.read(tmp_path / "r.parquet")
    assert made.dropped == {"an empty answer": ["q3", "q5"]} and made.rows == len(read) == N - 2
    assert read.metadata["dropped_empty"] == 2


def in_content(i, place, **changes):
    def change(lines):
        lines[i]["choices"][0]["logprobs"]["content"][place] |= changes

    return change


def in_line(i, **changes):
    def change(lines):
        lines[i] |= changes

    return change


def drop(i):
    def change(lines):
        del lines[i]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            in_content(2, 1, logprob=float("nan")),
            r"student.jsonl:3 \(id 'q2'\): log_probs\[1\] is nan; must be finite and at most 0",
        ),
        (in_content(2, 1, logprob=float("-inf")), r"\(id 'q2'\): log_probs\[1\] is -inf; must be"),
        (in_content(2, 1, logprob=0.8), r"log_probs\[1\] is 0.8; .* at most 0, the natural log"),
        (in_content(0, 0, logprob=None), r":1 \(id 'q0'\): log_probs\[0\] is null; must be fin"),
        (in_content(0, 0, logprob="-1"), r'log_probs\[0\] is "-1"'),
        (in_content(0, 0, token=None), r"pieces\[0\] is null; must be one of a list of texts"),
        (in_line(1, choices=[]), r":2 \(id 'q1'\): choices has 0 answers; must have one"),
        (in_line(1, custom_id=["q1"]), r':2: custom_id is \["q1"\]; must be a text or a whole num'),
        (in_line(1, custom_id="q0"), "student.jsonl:2: id 'q0' came before, in .*student.jsonl:1"),
        (in_line(1, usage={"prompt_tokens": "3"}), 'input_tokens is "3"; must be a whole number'),
        (
            in_line(1, custom_id="other"),
            "teacher.jsonl: lacks 1 ids: 'other'",
        ),
        (drop(4), "student.jsonl: lacks 1 ids: 'q4'"),
    ],
)
def test_lines_that_are_refused(tmp_path, change, message):
    arguments = files(tmp_path, changes=[change])
    with pytest.raises(LineError, match=message):
        convert(tmp_path, arguments)
    assert not (tmp_path / "r.parquet").exists()


def in_output(i, **changes):
    def change(lines):
        lines[i]["outputs"][0] |= changes

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_output(0, token_ids=[100]), "logprobs has 2 tokens, token_ids 1"),
        (in_output(0, token_ids=[100, 999]), r"logprobs\[1\] has no log-prob of .* token 999"),
        (in_output(0, logprobs=[[], {}]), r"logprobs\[0\] is \[\]; must be log-probs by token id"),
        (in_output(0, logprobs=[{"x": 1}, {}]), r'logprobs\[0\] has \{"x": 1\}; must be a token'),
        (in_output(0, logprobs=None), r"\(id 'q0'\): has no log-probs: the service gives them"),
        (in_output(0, text=None), "text is null, which is no empty answer"),
    ],
)
def test_outputs_of_vllm_that_are_refused(tmp_path, change, message):
    arguments = files(tmp_path, "vllm", changes=[change])
    with pytest.raises(LineError, match=message):
        convert(tmp_path, arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a.jsonl:1: not JSON"),
        ("\n[1]", r"a.jsonl:2: is \[1\]; must be an object"),
        ("\xff", "a.jsonl:1: not UTF-8"),
        ("", "a.jsonl: holds no answer"),
        ('{"text": "a"}', "a.jsonl:1: has text; must be a chat completion"),
        ('{"answer": "a"}', "a.jsonl:1: has no id to join by; must have one of example_id"),
        ('{"id": 1, "anwser": "a", "student": 1}', "student is 1; must be an object"),
        ('{"id": "a", "answer": "", "log_probs": 3}', "log_probs is 3; must be a list of numbers"),
        (
            '{"id": "a", "answer": "", "log_probs": [-1], "tokens": [1, 2]}',
            "tokens has 2 values, log_probs 1",
        ),
        (
            '{"id": "a", "answer": "", "log_probs": [-1], "top_log_probs": [[-2, -1]]}',
            r"top_log_probs\[0\] is \[-2, -1\]; must go down",
        ),
        (
            '{"id": "a", "answer": "", "log_probs": [-1, -1], "top_log_probs": [[-2], [-3, -1]]}',
            r"top_log_probs\[1\] is \[-3, -1\]; must go down",
        ),
        (
            '{"id": "a", "answer": "", "log_probs": [-1, -1], "top_log_probs": [[-2], [NaN]]}',
            r"top_log_probs end to end\[1\] is nan; must be finite and at most 0",
        ),
        (
            '{"id": "a", "answer": "", "log_probs": [0], "top_log_probs": [[]], "top_ids": [[3]]}',
            "top_log_probs and top_ids must have as many values at each token",
        ),
        (
            '{"id": "a", "answer": "", "log_probs": [], "top_log_probs": [], "tokens": []}',
            "--teacher names the file",
        ),
        ('{"id": "a", "answer": "", "log_probs": [-1]}', "--teacher names the file of the other"),
        ('{"id": "a", "answer": "", "target": 3}', "target is 3; must be a text or a list"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(LineError, match=message):
        convert(tmp_path, {"student": str(tmp_path / "a.jsonl")})


def test_what_is_missing_beside_the_answers(tmp_path):
    arguments = files(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone.jsonl: no such file"):
        convert(tmp_path, arguments | {"student": str(tmp_path / "gone.jsonl")})
    with pytest.raises(LineError, match="has no target to compare with"):
        convert(tmp_path, arguments | {"targets": None})
    with pytest.raises(LineError, match="no split is given; --split says it"):
        convert(tmp_path, arguments, split=None)
    with pytest.raises(LineError, match="the teacher's cost is not known: give --teacher_para"):
        convert(tmp_path, arguments, teacher_parameters=None)
    with pytest.raises(LineError, match=r"student's acuracy is null; .*mean 'accuracy'\?"):
        convert(tmp_path, arguments, metric="acuracy")
    with pytest.raises(LineError, match="student's quality is null; must be a number in"):
        convert(tmp_path, arguments, metric=None)
    write(tmp_path / "few.jsonl", [{"id": f"q{i}", "target": "x"} for i in range(3)])
    with pytest.raises(LineError, match="lacks 9 ids: 'q3', 'q4', 'q5', 'q6', 'q7' and 4 more"):
        convert(tmp_path, arguments | {"targets": str(tmp_path / "few.jsonl")})
    with pytest.raises(ValueError, match="format is 'vlm'; .*did you mean 'vllm'"):
        config(tmp_path, arguments, format="vlm")
    with pytest.raises(ValueError, match="student_parameters is 0; must be a number above 0"):
        config(tmp_path, arguments, student_parameters=0)


def test_ids_of_a_service_join_nothing_and_the_message_says_so(tmp_path):
    arguments = files(tmp_path)
    for model in ANSWERS:
        lines = [openai_line(model, i) for i in range(N)]
        for line in lines:
            del line["custom_id"]
        arguments[model] = write(tmp_path / f"{model}.jsonl", lines)
    with pytest.raises(LineError, match="lacks 12 ids: 'chatcmpl-.*need the same custom_id"):
        convert(tmp_path, arguments)


def test_a_column_that_only_some_lines_have_is_left_out_and_said(tmp_path):
    def change(lines):
        del lines[0]["usage"]

    made = from_jsonl.from_jsonl(config(tmp_path, files(tmp_path, changes=[change])))
    assert made.left_out == {"student_input_tokens": 1, "teacher_input_tokens": 1}
    assert records.read(tmp_path / "r.parquet").student_input_tokens is None


def test_figures_of_a_table_go_when_examples_are_dropped(tmp_path):
    metadata = {"name": "n", "mixture": "m", "split": "v", "student_parameters": 1}
    metadata |= {"teacher_parameters": 2}
    metadata["figures"] = {"t": {"bleu": {"student": 0.3, "teacher": 0.4}}}
    answer = {"answer": "a", "log_probs": [-0.1], "quality": 1}
    rows = [{"id": i, "task": "t", "student": answer, "teacher": answer} for i in range(3)]
    for dropped in (0, 1):
        rows[0]["student"] = answer | {"log_probs": [-0.1][dropped:]}
        lines = [{"cascade_jax": metadata}, *rows]
        (tmp_path / "t").write_text("\n".join(map(json.dumps, lines)))
        file = tmp_path / "made"
        from_jsonl.from_jsonl(
            from_jsonl.FromJsonlConfig(str(tmp_path / "t"), str(file), empty="drop")
        )
        assert ("figures" in records.read(file).metadata) == (not dropped)


@pytest.mark.parametrize("value", ["x", [], True, 0, -1])
def test_parameters_in_the_first_line_are_a_number_above_0(tmp_path, value):
    metadata = {**records_table.METADATA, "teacher_parameters": 8, "student_parameters": value}
    answer = {"answer": "a", "log_probs": [-0.1], "quality": 1}
    lines = [{"cascade_jax": metadata}, {"id": 1, "student": answer, "teacher": answer}]
    (tmp_path / "t").write_text("\n".join(map(json.dumps, lines)))
    config = from_jsonl.FromJsonlConfig(str(tmp_path / "t"), str(tmp_path / "made"))
    said = r"/t:2.*student_parameters of the table's first line is .*; must be a number above 0"
    with pytest.raises(ValueError, match=said):
        from_jsonl.from_jsonl(config)
