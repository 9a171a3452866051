"""Log-probs, answers and contents that servers and tables give in forms of their own."""

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.records.external import from_jsonl, to_jsonl
from cascade_jax.records.external.lines import LineError
from tests.support.server_lines import chat, convert, entry, token, vllm

THINKING = [("<think>", -3.0), ("hm", -3.0), ("</think>", -3.0)]
BERLIN = [("Berlin", -0.1), ("</s>", -0.2)]


def vllm_line(*tokens, text="Berlin", **line):
    places = [
        {
            str(11 + i): {"logprob": value, "rank": 1, "decoded_token": piece},
            "7": {"logprob": -9.0, "rank": 2, "decoded_token": "x"},
        }
        for i, (piece, value) in enumerate(tokens)
    ]
    return vllm("q0", text, places, **line)


def table_line(*tokens, answer="Berlin", **more):
    pieces, log_probs = ([each[i] for each in tokens] for i in range(2))
    return {"id": "q0", "answer": answer, "pieces": pieces, "log_probs": log_probs, **more}


CUT = "student: left out 3 tokens of 1 answers (q0): not the answer's, but reasoning or markers"


@pytest.mark.parametrize("line_fn", [vllm_line, table_line])
def test_reasoning_is_not_the_answer(tmp_path, line_fn):
    read, said = convert(tmp_path, [line_fn(*THINKING, *BERLIN)])
    np.testing.assert_allclose(read.student_log_probs, [-0.1, -0.2])
    assert CUT in said and read.pieces("student", 0) == ["Berlin", "</s>"]
    if line_fn is vllm_line:
        assert read.student_tokens.tolist() == [14, 15]
        assert read.student_top_ids.tolist() == [[14, 7], [15, 7]]
    again, said = convert(tmp_path, [line_fn(*BERLIN)])
    assert said == [] and again.pieces("student", 0) == ["Berlin", "</s>"]


@pytest.mark.parametrize("line_fn", [vllm_line, table_line])
def test_pieces_of_another_answer_are_refused(tmp_path, line_fn):
    line = line_fn(("Bonn", -0.1), ("</s>", -0.2))
    with pytest.raises(
        LineError, match=r"student.jsonl:1 \(id 'q0'\): .*in which the answer \"Berlin\" is not fo"
    ):
        convert(tmp_path, [line])
    good = line_fn(*BERLIN) | {"id" if line_fn is table_line else "request_id": "q1"}
    _, said = convert(tmp_path, [line, good], unusable="drop")
    assert "dropped 1 examples with tokens that are not those of the answer: q0" in said


def test_lines_that_do_not_belong_together_are_named_first(tmp_path):
    student = vllm_line(*BERLIN, text="Bonn", prompt="Capital of Germany?")
    teacher = [vllm_line(*BERLIN, prompt="Capital of Peru?")]
    with pytest.raises(LineError, match="say different things of the same example"):
        convert(tmp_path, [student], teacher)


def test_all_columns_of_tokens_are_cut_alike(tmp_path):
    more = {"tokens": [1, 2, 3, 4, 5], "entropies": [0.1, 0.2, 0.3, 0.4, 0.5]}
    more |= {"top_ids": [[i, 9] for i in range(5)]}
    more |= {"top_log_probs": [[value, -9.0] for _, value in (*THINKING, *BERLIN)]}
    read, _ = convert(tmp_path, [table_line(*THINKING, *BERLIN, **more)])
    assert read.student_tokens.tolist() == [4, 5]
    np.testing.assert_allclose(read.student_entropies, [0.4, 0.5])
    assert read.student_top_ids.tolist() == [[3, 9], [4, 9]]


def test_an_answer_of_the_users_own_keeps_all_tokens(tmp_path):
    read, said = convert(tmp_path, [vllm_line(*THINKING, *BERLIN, text="x", answer="Berlin")])
    assert len(read.student_log_probs) == 5 and said == []


def test_a_table_made_of_records_stays_as_it_is(tmp_path):
    read, _ = convert(tmp_path, [vllm_line(*THINKING, *BERLIN, answer="Berlin")])
    to_jsonl.to_jsonl(tmp_path / "out.parquet", tmp_path / "table.jsonl")
    files = {name: str(tmp_path / name) for name in ("table.jsonl", "again.parquet")}
    made = from_jsonl.from_jsonl(from_jsonl.FromJsonlConfig(*files.values()))
    again = records.read(files["again.parquet"])
    assert again.pieces("student", 0) == read.pieces("student", 0) and made.lines() == []


@pytest.mark.parametrize(
    ("answer", "pieces"),
    [
        ("New York is big", ["New", "York", "is", "big", "</s>"]),  # decoded one by one
        ("New York", ["▁New", "▁York"]),
        ("New York", ["New", "ĠYork", "<|im_end|>"]),
        ("né", ["n", "\ufffd", "\ufffd"]),
    ],
)
def test_honest_pieces(tmp_path, answer, pieces):
    tokens = [(piece, -0.1) for piece in pieces]
    for line in (vllm_line(*tokens, text=answer), table_line(*tokens, answer=answer)):
        read, said = convert(tmp_path, [line])
        assert read.pieces("student", 0) == pieces and said == []


def test_tokens_of_which_only_ids_are_known_are_counted(tmp_path):
    places = [token(f"token_id:{i}", bytes=None) for i in range(9)]
    read, said = convert(tmp_path, [chat("q0", "Berlin", places)])
    assert len(read.student_log_probs) == 9
    assert (
        "student: 1 answers (q0) have tokens that are spelled as ids (token_id:42), 9 in all"
        in (" ".join(said))
    )


def test_a_log_prob_that_contradicts_its_own_among_the_likeliest(tmp_path):
    top = [("Berlin", -0.1), ("Bonn", -5.0)]
    bad = chat("q0", "Berlin", [token("Berlin", -4.0, top)])
    good = chat("q1", "Berlin", [token("Berlin", -0.105, top)])
    with pytest.raises(
        LineError,
        match=r"jsonl:1 \(id 'q0'\): choices\[0\].*has -0.1 for the chosen.*\"Berlin\".*is -4.0",
    ):
        convert(tmp_path, [bad, good])
    read, said = convert(tmp_path, [bad, good], unusable="drop")
    assert read.example_id.tolist() == ["q1"]
    assert said[0].startswith("dropped 1 examples with a log-prob that contradicts")
    other = chat("q0", "Berlin", [token("Berlin", -4.0, [entry("Berlin", -0.1, bytes=[32, 66])])])
    assert len(convert(tmp_path, [other])[0]) == 1  # another token of the same text


def test_a_log_prob_of_a_table_that_contradicts_its_own_among_the_likeliest(tmp_path):
    more = {"tokens": [4, 5], "top_ids": [[4, 9], [9, 5]], "top_log_probs": [[-0.1, -9], [-1, -2]]}
    good = [("Ber", -0.105), ("lin", -2.0)]
    assert len(convert(tmp_path, [table_line(*good, **more)])[0]) == 1
    for name, number in (("log_probs", [-0.1, -1.0]), ("tokens", [4, 9])):
        line = table_line(*good, **more, **{"id": "q0"})
        line[name] = number
        with pytest.raises(
            LineError, match=r"top_log_probs\[1\] has -\d.* token \d, whose log_prob"
        ):
            convert(tmp_path, [line])


@pytest.mark.parametrize("sentinel", [float("nan"), float("-inf"), None, -9999.0])
def test_no_log_prob_among_the_likeliest(tmp_path, sentinel):
    of_chat = chat("q0", "Berlin", [token("Berlin", -0.1, [("Berlin", -0.1), ("x", sentinel)])])
    of_engine = vllm_line(("Berlin", -0.1))
    of_engine["outputs"][0]["logprobs"][0]["7"]["logprob"] = sentinel
    for line in (of_chat, of_engine):
        read, said = convert(tmp_path, [line])
        np.testing.assert_allclose(read.student_top_log_probs, [[-0.1]])
        assert "left out 1 of the likeliest tokens of 1 answers (q0)" in " ".join(said)


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        (vllm_line(*BERLIN, text=None), vllm_line(*BERLIN) | {"request_id": "q1"}),
        (table_line(*BERLIN, answer=None), table_line(*BERLIN) | {"id": "q1"}),
    ],
)
def test_null_in_place_of_an_answer(tmp_path, bad, good):
    with pytest.raises(LineError, match=r":1 \(id 'q0'\): (text|answer) is null.*--unusable drop"):
        convert(tmp_path, [bad, good])
    read, said = convert(tmp_path, [bad, good], unusable="drop")
    assert read.example_id.tolist() == ["q1"]
    assert "dropped 1 examples with null in place of an answer: q0" in said


def test_content_in_parts(tmp_path):
    parts = [{"type": "text", "text": "Ber"}, {"type": "text", "text": "lin"}]
    read, said = convert(tmp_path, [chat("q0", parts, [token("Berlin")])])
    assert read.student_answer.tolist() == ["Berlin"] and said == []


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {}}, 'has the type "image_url"; must be a part of'),
        ({"type": "text", "text": None}, "is .*; must be a part of the type text"),
        ("Berlin", 'is "Berlin"; must be'),
    ],
)
def test_other_parts_of_a_content(tmp_path, part, message):
    line = chat("q0", [{"type": "text", "text": "a"}, part], [token("Berlin")])
    with pytest.raises(LineError, match=r"\(id 'q0'\): .*message.content\[1\] " + message):
        convert(tmp_path, [line])
