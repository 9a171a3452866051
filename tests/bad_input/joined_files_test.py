"""Answers joined to another question: what several files say of one example is compared."""

import pytest

from cascade_jax.records.external import formats
from cascade_jax.records.external.answer_span import span_of_answer
from cascade_jax.records.external.lines import Line, LineError
from tests.support.server_lines import chat, convert, token, vllm

QUESTIONS = ["capital of France?", "capital of Peru?", "capital of Norway?", "capital of Italy?"]
N = len(QUESTIONS)
ORDER = [3, 0, 1, 2]  # of the large model's outputs


def outputs(questions, before="", after="", **more):
    """Outputs of vLLM that are numbered as they come."""
    return [
        vllm(f"q{i}", "Paris", [{"9": -0.1}], prompt=f"{before}{question}{after}", **more)
        for i, question in enumerate(questions)
    ]


def targets(questions=QUESTIONS, field="inputs"):
    return [{"id": f"q{i}", "target": "Paris", field: text} for i, text in enumerate(questions)]


SHUFFLED = [QUESTIONS[i] for i in ORDER]


@pytest.mark.parametrize(
    ("student", "teacher", "of_targets"),
    [
        (outputs(QUESTIONS), outputs(SHUFFLED), None),
        (outputs(QUESTIONS, "<u>", "</u>"), outputs(SHUFFLED, "Q: ", "\nA:"), None),
        (outputs(QUESTIONS, "<u>"), None, targets(SHUFFLED)),
        (outputs(SHUFFLED, "<u>"), outputs(QUESTIONS, "Q: "), targets()),
        (outputs(QUESTIONS), None, targets(SHUFFLED, "question")),
        (
            outputs(QUESTIONS),
            [
                {"id": f"q{i}", "answer": "Paris", "messages": [{"role": "user", "content": text}]}
                for i, text in enumerate(SHUFFLED)
            ],
            None,
        ),
    ],
)
def test_questions_in_another_order(tmp_path, student, teacher, of_targets):
    message = (
        r"of 'q0', .*jsonl:1 has \w+ .*France.* and .*jsonl:1 has \w+ .*Italy.*; of 'q1', .* "
        r"\(4 such\).*custom_id"
    )
    swapped = message.replace("France", "X").replace("Italy", "France").replace("X", "Italy")
    with pytest.raises(LineError, match=f"{message}|{swapped}"):
        convert(tmp_path, student, teacher, of_targets)


def test_one_question_that_differs(tmp_path):
    other = [*QUESTIONS[:3], "capital of Kenya?"]
    with pytest.raises(LineError, match=r"of 'q3', .*Italy.* and .*Kenya.* \(1 such\)"):
        convert(tmp_path, outputs(QUESTIONS), outputs(other))


@pytest.mark.parametrize(
    ("student", "teacher", "of_targets"),
    [
        (outputs(QUESTIONS), outputs(QUESTIONS), targets()),
        (outputs(QUESTIONS, "<u>", "</u>"), outputs(QUESTIONS, "Q: ", "\nA:"), None),
        (outputs(QUESTIONS, "<u>", "</u>"), outputs(QUESTIONS, "Q: ", "\nA:"), targets()),
        (outputs(QUESTIONS), outputs(QUESTIONS), targets([f"  {q}\n" for q in QUESTIONS])),
        (outputs(QUESTIONS), outputs(QUESTIONS), targets([*QUESTIONS, "Who wrote it?"])),
        (outputs(QUESTIONS), None, targets([""] * N)),
    ],
)
def test_the_same_questions_in_other_templates(tmp_path, student, teacher, of_targets):
    read, _ = convert(tmp_path, student, teacher, of_targets)
    assert len(read) == N


def test_prompts_of_which_only_the_ids_are_known(tmp_path):
    def made(order, ids=range(N)):
        lines = [vllm(f"q{i}", "Paris", [{"9": -0.1}]) for i in range(N)]
        for line, number, i in zip(lines, order, ids, strict=True):
            line |= {"prompt": None, "prompt_token_ids": [1, 2 + number, 3 + i - i]}
        return lines

    with pytest.raises(LineError, match=r"of 'q0', .*:1 has other prompt_token_ids .*\(4 such\)"):
        convert(tmp_path, made(range(N)), made(ORDER))
    assert len(convert(tmp_path, made(range(N)), made(range(N)))[0]) == N
    others = made([n + 50 for n in ORDER])  # of another vocabulary: nothing to compare
    assert len(convert(tmp_path, made(range(N)), others)[0]) == N


def answers(**fields):
    """Answers to each question; a field has a value for each."""
    of_line = [
        dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)
    ]
    return [
        {"example_id": f"q{i}", "answer": "Paris", "log_probs": [-1], **f}
        for i, f in enumerate(of_line)
    ]


CUSTOM = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            [{"custom_id": f"q{i}", "answer": "Paris", "log_probs": [-1]} for i in range(N)],
            answers(custom_id=[f"q{i}" for i in ORDER]),
            r'of .q0., .*:1 has custom_id "q0" and .*:1 has custom_id "q3"; of .q1.*\(4 such\)',
        ),
        (
            answers(task=["t"] * N),
            answers(task=["t", "u", "t", "u"]),
            r'of .q1., .*"t" .*"u".*\(2 su',
        ),
        (
            answers(target=["Paris"] * N),
            answers(target=["Paris", "Lima", ["Oslo", "oslo"], "paris "]),
            r'of .q1., .*target "Paris" and .*target "Lima"; of .q2., .*\["Oslo", .*\(2 such\)',
        ),
    ],
)
def test_other_facts_that_differ(tmp_path, student, teacher, message):
    with pytest.raises(LineError, match=message):
        convert(tmp_path, student, teacher, [{"id": f"q{i}"} for i in range(N)], metric="q")


@pytest.mark.parametrize(
    ("field", "values", "others"),
    [
        ("custom_id", CUSTOM, [f"{text}-large" for text in CUSTOM]),
        ("custom_id", CUSTOM, [CUSTOM[i] for i in ORDER]),  # each run's running numbers
        ("request_id", ["0", "1", "2", "3"], ["3", "0", "1", "2"]),  # a service's own
        ("id", ["0", "1", "2", "3"], ["3", "0", "1", "2"]),
        ("target", ["Paris"] * N, [["paris", "x"], "Paris | y", " Paris", "PARIS"]),
        ("target", ["Paris"] * N, [None, "", None, "Paris"]),
    ],
)
def test_what_may_differ(tmp_path, field, values, others):
    named = [{"example_id": f"q{i}", "target": "Paris"} for i in range(N)]
    others = answers(**{field: others})
    read, _ = convert(tmp_path, answers(**{field: values}), others, named)
    assert len(read) == N


def test_one_line_that_contradicts_itself(tmp_path):
    """Questions that were put beside outputs in another order."""
    lines = outputs(QUESTIONS, "<u>")
    for line, question in zip(lines, SHUFFLED, strict=True):
        line["inputs"] = question
    with pytest.raises(
        LineError, match=r"student.jsonl:1 has inputs .*Italy.* has prompt .*France"
    ):
        convert(tmp_path, lines)
    for line, question in zip(lines, QUESTIONS, strict=True):
        line |= {"inputs": question, "input": "a file's name"}
    assert convert(tmp_path, lines)[0].inputs.tolist() == QUESTIONS


def test_chat_completions_joined_by_their_custom_id(tmp_path):
    lines = [
        chat(f"q{i}", "Paris", [token("Paris")]) | {"prompt": q} for i, q in enumerate(QUESTIONS)
    ]
    read, _ = convert(tmp_path, lines, lines[::-1], targets())
    assert read.inputs.tolist() == QUESTIONS


def test_an_error_that_is_null_says_nothing_of_the_format():
    table = {"id": "q0", "answer": "Paris", "log_probs": [-0.1], "error": None}
    output = vllm("q0", "Paris", [{"9": -0.1}]) | {"error": None}
    forms = [formats.recognised(Line("a:1", row), ()) for row in (table, output)]
    assert forms == [formats.TABLE, formats.VLLM]
    failed = {"id": "q0", "error": {"message": "busy"}}
    assert formats.recognised(Line("a:1", failed), ()) == formats.OPENAI


def test_the_answer_is_not_sought_in_the_reasoning():
    pieces = ["4 is", " my guess", "</think>", "4", "\n\nQ:", " x"]
    assert span_of_answer("4", pieces, [None] * 6) == (3, 4)
    pieces = ["4", "</think>", "so", " 4", " or", " 4", " x"]
    assert span_of_answer("4", pieces, [None] * 7) is None


def test_prompts_of_other_shots_under_one_example_id(tmp_path):
    shots = ["2 + 2?", "Who wrote it?", "Why?", "Is it far?"]
    student = answers(prompt=[f"{a} b. {q}" for a, q in zip(shots, QUESTIONS, strict=True)])
    teacher = answers(prompt=[f"{a} c. {q}" for a, q in zip(shots[::-1], QUESTIONS, strict=True)])
    _, lines = convert(tmp_path, student, teacher)
    assert "4 examples have prompts that differ under the same example_id" in " ".join(lines)
    for line in teacher:
        line["id"] = line.pop("example_id")
    with pytest.raises(LineError, match=r"say different things .* has prompt .*\(4 such\)"):
        convert(tmp_path, student, teacher)
