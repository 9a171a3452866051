"""Log-probs that are not of the answer: each token counts once, and no other number counts."""

import numpy as np
import pytest

from cascade_jax.deferral import scores
from cascade_jax.records.external.lines import LineError
from tests.support.server_lines import chat, convert, entry, token, vllm

PARIS = token("Paris", -0.1, [("Paris", -0.1), ("Lyon", -3.0)])


def log_probs(read, row=0):
    return read.student_log_probs[read.student_offsets[row] : read.student_offsets[row + 1]]


def of_lists(tmp_path, *tops):
    """Records of answers of one token, "Paris", whose likeliest tokens are these lists."""
    lines = [chat(f"q{i}", "Paris", [token("Paris", *top)]) for i, top in enumerate(tops)]
    return convert(tmp_path, lines)


# ------------------------------------------------------------------ a token twice


def test_a_token_that_is_listed_twice_counts_once(tmp_path):
    pair = [("Paris", -0.01), ("Paris", -0.01), ("Lyon", -5.0)]
    read, lines = of_lists(tmp_path, (-0.01, pair), (-0.6, [("Paris", -0.6), ("Nice", -0.9)]))
    np.testing.assert_allclose(read.student_top_log_probs, [[-0.01, -5.0], [-0.6, -0.9]])
    surest, other = scores.Margin()(read.student)
    assert surest < other  # higher = defer
    assert (
        "student: 1 tokens of 1 answers (q0) list a token twice among the likeliest; it counts"
        in (" ".join(lines))
    )


@pytest.mark.parametrize(
    ("second", "kept"),
    [
        (entry("Paris", -0.02), [-0.01, -5]),  # computed twice
        (entry("Paris", -0.01, bytes=None), [-0.01, -5]),
        ({"token": "Paris", "logprob": -0.01}, [-0.01, -5]),
        (entry("Paris", -4.8, bytes=[32, 80]), [-0.01, -4.8, -5]),  # another token of the same text
        (entry(" Paris", -4.8), [-0.01, -4.8, -5]),
        (entry("Paris", -4.8, id=7), [-0.01, -4.8, -5]),
    ],
)
def test_what_makes_two_entries_one_token(tmp_path, second, kept):
    read, _ = of_lists(tmp_path, (-0.01, [("Paris", -0.01), second, ("Lyon", -5.0)]))
    np.testing.assert_allclose(read.student_top_log_probs, [kept])


def test_an_id_that_a_table_lists_twice_counts_once(tmp_path):
    line = {"id": "q0", "answer": "Paris", "log_probs": [-0.01, -0.1]}
    line["top_ids"] = [[4, 4, 5], [7, 8, 9]]
    line["top_log_probs"] = [[-0.01, -0.01, -5], [-0.1, -3, -4]]
    read, lines = convert(tmp_path, [line])
    np.testing.assert_allclose(read.student_top_log_probs, [[-0.01, -5.0], [-0.1, -3.0]])
    assert read.student_top_ids.tolist() == [[4, 5], [7, 8]]
    assert "student: 1 tokens of 1 answers (q0) list a token twice" in " ".join(lines)


def test_parts_of_characters_are_told_apart_by_their_log_probs(tmp_path):
    top = [entry("\ufffd", -0.1), entry("\ufffd", -3.0), entry("\ufffd", -0.1), entry("", -4.0)]
    read, _ = convert(
        tmp_path, [chat("q0", "é", [token("\ufffd", -0.1, top), token("\ufffd", -0.1, top)])]
    )
    np.testing.assert_allclose(read.student_top_log_probs, [[-0.1, -3, -4]] * 2)


def test_an_id_counts_more_than_text(tmp_path):
    top = [entry("Paris", -0.01, id=4), entry("Paris", -0.01, id=4), entry("Paris", -5.0, id=5)]
    read, _ = of_lists(tmp_path, (-0.01, top))
    np.testing.assert_allclose(read.student_top_log_probs, [[-0.01, -5.0]])


# ------------------------------------------------------------------ a sampled token outside of K


def test_a_sampled_token_that_may_be_the_hundredth_is_not_the_second(tmp_path):
    """K = 2, and the list is the sampled token and the likeliest one: the second is not known."""
    outside = (-4.0, [("Paris", -4.0), ("Lyon", -0.3)])
    read, lines = of_lists(tmp_path, outside, (-0.2, [("Paris", -0.2), ("Lyon", -2.0)]))
    np.testing.assert_allclose(read.student_top_log_probs, [[-0.3], [-0.2]])
    assert log_probs(read).tolist() == pytest.approx([-4.0])
    assert "left out the sampled token of 1 lists" in " ".join(lines)
    assert (
        "cut student_top_log_probs to 1 at each token: 1 of 2 tokens have no more (q0)"
        in " ".join(lines)
    )


@pytest.mark.parametrize(
    ("log_prob", "top", "kept"),
    [
        (-4.0, [("Paris", -4.0), ("Lyon", -0.3), ("Nice", -2.0)], [-0.3, -2.0]),  # beside the two
        (-1.1, [("Paris", -1.1), ("Lyon", -0.5)], [-0.5, -1.1]),  # no room for a likelier one
        (-4.0, [("Lyon", -0.3), ("Paris", -4.0)], [-0.3, -4.0]),  # in its place
        (-0.3, [("Paris", -0.3), ("Lyon", -4.0)], [-0.3, -4.0]),  # the likeliest
    ],
)
def test_a_sampled_token_counts_where_it_is_known_to_belong(tmp_path, log_prob, top, kept):
    read, _ = of_lists(tmp_path, (log_prob, top))
    np.testing.assert_allclose(read.student_top_log_probs, [kept])


@pytest.mark.parametrize("rank", [40, None])
def test_ranks_of_vllm(tmp_path, rank):
    places = [{"9": {"logprob": -4.5, "rank": rank}, "7": {"logprob": -0.25, "rank": 1}, "8": -1.9}]
    read, _ = convert(tmp_path, [vllm("q0", "Paris", places)])
    assert read.student_top_ids.tolist() == [[7, 8]] and log_probs(read) == [-4.5]


@pytest.mark.parametrize("rank", [["x"], [], "1", -1, True, 1.0])
def test_ranks_that_are_none(tmp_path, rank):
    with pytest.raises(
        LineError, match=r":1 \(id 'q0'\): logprobs\[0\] has the rank .*; must be a w"
    ):
        convert(tmp_path, [vllm("q0", "Paris", [{"9": {"logprob": -0.5, "rank": rank}}])])


# ------------------------------------------------------------------ sentinels


@pytest.mark.parametrize(
    "sentinel",
    [-9999.0, -9999, -1e9, -3.4028235e38, -1000, -999.0, float("-inf"), None, float("nan")],
)
def test_a_sentinel_is_no_log_prob(tmp_path, sentinel):
    lines = [chat("q0", "Paris", [PARIS]), chat("q1", "Lima", [token("Lima"), token("", sentinel)])]
    with pytest.raises(
        LineError, match=r"student.jsonl:2 \(id 'q1'\): log_probs\[1\] is .*; must be f"
    ):
        convert(tmp_path, lines)
    read, said = convert(tmp_path, lines, unusable="drop")
    assert read.example_id.tolist() == ["q0"] and read.metadata["dropped_unusable"] == 1
    assert (
        "dropped 1 examples with null, NaN or a sentinel such as -9999 in place of a log-prob: q1"
        in said
    )


def test_sentinels_of_other_formats_and_of_the_teacher(tmp_path):
    with pytest.raises(LineError, match=r"log_probs\[0\] is -9999.0"):
        convert(tmp_path, [vllm("q0", "Paris", [{"9": -9999.0}])])
    with pytest.raises(LineError, match=r"log_probs\[1\] is -9999"):
        convert(tmp_path, [{"id": "q0", "answer": "Paris", "log_probs": [-1, -9999]}])
    teacher = [{"id": "q0", "answer": "Paris", "log_probs": [-9999]}]
    with pytest.raises(LineError, match=r"teacher.jsonl:1 \(id 'q0'\): log_probs\[0\] is -9999"):
        convert(tmp_path, [chat("q0", "Paris", [PARIS])], teacher)
    least = [{"id": "q0", "answer": "Paris", "log_probs": [-998.5]}]
    assert log_probs(convert(tmp_path, least)[0]) == [-998.5]


@pytest.mark.parametrize("sentinel", [-9999.0, float("-inf"), None])
def test_a_sentinel_among_the_likeliest_is_left_out(tmp_path, sentinel):
    top = [("Paris", -0.1), ("Lyon", -3.0), ("Nice", sentinel)]
    read, lines = of_lists(tmp_path, (-0.1, top))
    np.testing.assert_allclose(read.student_top_log_probs, [[-0.1, -3.0]])
    assert "left out 1 of the likeliest tokens of 1 answers (q0): a sentinel" in " ".join(lines)


# ------------------------------------------------------------------ reasoning and markers

THINKING = [token("<think>", -0.001), token(" Paris?", -2.0), token("</think>", -0.001)]
END = token("<|im_end|>", -0.5)


def tokens(*texts, **more):
    """Tokens with the log-probs -0.1, -0.2 and so on."""
    return [token(text, -0.1 * (i + 1), **more) for i, text in enumerate(texts)]


HARMONY = (
    *("<|channel|>", "analysis", "<|message|>", "Paris", "<|end|>", "<|start|>", "assistant"),
    *("<|channel|>", "final", "<|message|>", "Paris", "<|return|>"),
)


@pytest.mark.parametrize(
    ("content", "places", "span"),
    [
        ("Paris", [*THINKING, token("Paris")], (3, 4)),
        ("Paris", [*THINKING, *tokens("\n\n", "Par", "is")], (4, 6)),
        ("\n\nParis", [*THINKING, *tokens("\n\n", "Paris")], (4, 5)),
        ("Paris", [*THINKING, token("\n\nParis"), END], (3, 5)),
        ("Paris", tokens(*HARMONY), (10, 12)),
        ("Paris", tokens("Paris", "\n", "Question", ":"), (0, 2)),  # a stop text
        ("4", tokens("4", "+", "4", "x"), (0, 1)),
        ("Paris", tokens(" Paris", "</s>", "<|endoftext|>"), (0, 2)),
        ("Paris", tokens(" ", "Paris"), (0, 2)),  # stripped by the server
        ("a < b", tokens("a", " <", " b"), (0, 3)),
        ("<b>x</b>", tokens("<b>", "x", "</b>"), (0, 3)),
        ("", [END], (0, 1)),
        # Bytes, SentencePiece's pieces, GPT-2's letters, and parts of characters.
        ("né", [token("n"), token("?", bytes=[195]), token("?", bytes=[169])], (0, 3)),
        ("Paris né", tokens("<s>", "▁Paris", "▁n", "<0xC3>", "<0xA9>", bytes=None), (1, 5)),
        ("Paris né", tokens("<think>", "x", "Paris", "Ġn", "Ã©", bytes=None), (2, 5)),
        ("Hé 🙂!", [*THINKING, *tokens("H", "\ufffd", "\ufffd", " \ufffd", "\ufffd", "!")], (3, 9)),
        ("你好", [*tokens("\ufffd", "\ufffd", "好"), END], (0, 4)),
        ("Paris", tokens("token_id:4", bytes=None), (0, 1)),
    ],
)
def test_only_the_answers_tokens_count(tmp_path, content, places, span):
    read, lines = convert(tmp_path, [chat("q0", content, places)])
    kept = places[slice(*span)]
    np.testing.assert_allclose(log_probs(read), [place["logprob"] for place in kept], rtol=1e-6)
    assert read.pieces("student", 0) == [place["token"] for place in kept]
    cut = len(places) - len(kept)
    said = f"student: left out {cut} tokens of 1 answers (q0): not the answer's"
    assert any(line.startswith(said) for line in lines) == bool(cut)


@pytest.mark.parametrize(
    ("content", "places", "message"),
    [
        (
            "Lima",
            [*THINKING, token("Paris")],
            r'4 tokens, "<think> Paris\?</think>Paris", in which',
        ),
        ("4", tokens("x", "4", "+", "4", "y"), 'in which the answer "4" is not'),
        ("你好", [token("\ufffd"), token("坏")], "is not found"),
        ("Paris", [token("token_id:4", bytes=None)], "is not found"),
    ],
)
def test_an_answer_that_is_not_found_is_refused(tmp_path, content, places, message):
    line = chat("q0", content, places, reasoning_content="thinking")
    with pytest.raises(LineError, match=r"student.jsonl:1 \(id 'q0'\): logprobs have .*" + message):
        convert(tmp_path, [line])
    read, said = convert(tmp_path, [line, chat("q1", "Paris", [PARIS])], unusable="drop")
    assert "dropped 1 examples with tokens that are not those of the answer: q0" in said


@pytest.mark.parametrize("content", ["<think>hm</think>Paris", "\n<think> hm </think>\nParis"])
def test_reasoning_that_the_server_left_in_the_text_is_said(tmp_path, content):
    for line in (chat("q0", content, [token(content)]), vllm("q0", content, [{"9": -0.1}])):
        read, lines = convert(tmp_path, [line])
        assert read.student_answer.tolist() == [content] and len(read.student_log_probs) == 1
        assert "student: 1 answers (q0) have reasoning (<think>) in their text" in lines[0]


def test_all_that_belongs_to_a_token_is_cut_with_it(tmp_path):
    line = chat("q0", "Paris", [*THINKING, PARIS])
    line["choices"][0]["token_ids"] = [4, 5, 6, 7]
    read, _ = convert(tmp_path, [line])
    assert read.student_tokens.tolist() == [7] and read.pieces("student", 0) == ["Paris"]
    np.testing.assert_allclose(read.student_top_log_probs, [[-0.1, -3.0]])
    line["choices"][0]["token_ids"] = [4]
    with pytest.raises(LineError, match="token_ids has 1 tokens, logprobs 4"):
        convert(tmp_path, [line])


def test_only_reasoning_is_an_empty_answer(tmp_path):
    with pytest.raises(LineError, match="has an empty answer"):
        convert(tmp_path, [chat("q0", "", [*THINKING])])


# ------------------------------------------------------------------ null, nothing, and counts


@pytest.mark.parametrize("more", [{}, {"tool_calls": [{"id": 1}]}, {"reasoning_content": "hm"}])
def test_null_is_no_empty_answer(tmp_path, more):
    lines = [chat("q0", None, [PARIS], **more), chat("q1", "Paris", [PARIS])]
    beside = f".*has {next(iter(more))}" if more else ""
    with pytest.raises(
        LineError, match=r"\(id 'q0'\): choices\[0\].message.content is null" + beside
    ):
        convert(tmp_path, lines)
    _, said = convert(tmp_path, lines, unusable="drop")
    assert "dropped 1 examples with null in place of an answer: q0" in said
    teacher = [chat("q0", None, None)]
    with pytest.raises(LineError, match=r"teacher.jsonl:1 .*content is null"):
        convert(tmp_path, [chat("q0", "Paris", [PARIS])], teacher)


@pytest.mark.parametrize(
    "line",
    [
        chat("q0", "Paris", []),
        chat("q0", "Paris", None),
        vllm("q0", "Paris", []),
        {"id": "q0", "answer": "Paris", "log_probs": []},
    ],
)
def test_an_empty_list_beside_an_answer_is_no_log_probs(tmp_path, line):
    with pytest.raises(LineError, match=r":1 \(id 'q0'\): has no log-probs.* \(1 such\)"):
        convert(tmp_path, [line])
    read, _ = convert(tmp_path, [chat("q0", "Paris", [PARIS])], [line])
    assert len(read.teacher_log_probs) == 0 and read.teacher_answer.tolist() == ["Paris"]


def test_answers_without_log_probs_are_counted(tmp_path):
    lines = [chat(f"q{i}", "Paris", [] if i else [PARIS]) for i in range(3)]
    _, said = convert(tmp_path, lines, empty="drop")
    assert "dropped 2 examples with no log-probs: q1, q2" in said


@pytest.mark.parametrize(
    ("usage", "is_said"),
    [
        ({"completion_tokens": 1}, False),
        ({"completion_tokens": 2}, False),  # with the token that ends it
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 8}}, False),
        ({}, False),
        (None, False),
        ({"completion_tokens": 9}, True),
        ({"completion_tokens": 0}, True),
    ],
)
def test_a_usage_that_contradicts_the_log_probs_is_said(tmp_path, usage, is_said):
    _, lines = convert(tmp_path, [chat("q0", "Paris", [PARIS]) | {"usage": usage}])
    said = "student: usage.completion_tokens contradicts the number of log-probs of 1 answers (q0)"
    assert (said in lines) == is_said


@pytest.mark.parametrize("count", ["1", -1, 1.5, True])
def test_a_usage_that_is_no_number(tmp_path, count):
    line = chat("q0", "Paris", [PARIS]) | {"usage": {"completion_tokens": count}}
    with pytest.raises(LineError, match="usage.completion_tokens is .*; must be a whole number"):
        convert(tmp_path, [line])


@pytest.mark.parametrize("missing", [None, []])
def test_tokens_without_likeliest_ones_are_counted(tmp_path, missing):
    lines = [chat(f"q{i}", "Paris", [PARIS]) for i in range(3)]
    lines[1] = chat("q1", "Paris", [token("Par"), token("is")])
    for place in lines[1]["choices"][0]["logprobs"]["content"]:
        place["top_logprobs"] = missing
    read, said = convert(tmp_path, lines)
    assert read.student_top_log_probs is None
    assert "left out student_top_log_probs: 2 of 4 tokens lack it (q1)" in said
    lines[1] = chat("q1", "Paris", [token("Paris", -0.1, [("Paris", -0.1)])])
    read, said = convert(tmp_path, lines)
    assert read.student_top_log_probs.shape == (3, 1)
    cut = "cut student_top_log_probs to 1 at each token: 1 of 3 tokens have no more (q1), others"
    assert any(line.startswith(cut) for line in said)


def test_ids_that_break_lines_do_not(tmp_path):
    lines = [{"id": "a\u2028\nb", "answer": "Paris", "log_probs": []}]
    lines += [{"id": "c", "answer": "Paris", "log_probs": [-1]}]
    targets = [{"id": line["id"], "target": "Paris"} for line in lines]
    _, said = convert(tmp_path, lines, lines, targets, empty="drop")
    assert said == [r"dropped 1 examples with no log-probs: 'a\u2028\nb'"]


def test_nothing_is_said_where_nothing_is_left_out(tmp_path):
    _, said = convert(tmp_path, [chat(f"q{i}", "Paris", [PARIS]) for i in range(2)])
    assert said == []
