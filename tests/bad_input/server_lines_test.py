"""Lines without an answer, of another API, that are no JSON, or with sizes that can't be."""

import pytest

from cascade_jax.records.external.lines import LineError
from tests.support.server_lines import chat, convert, token

PARIS = token("Paris", -0.1, [("Paris", -0.1), ("Lyon", -3.0)])


def batch(custom_id, status, body, error=None):
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": custom_id, "response": response, "error": error}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            batch("q0", 400, {"error": {"message": "too\nlarge", "type": "invalid", "code": "v"}}),
            r"status 400: too large \(invalid, v\)",
        ),
        (batch("q0", 500, {"error": "overloaded"}), "status 500: overloaded"),
        (batch("q0", 503, "busy"), "status 503: busy"),
        (batch("q0", 429, None), "status 429: null"),
        (batch("q0", 200, {"error": {"message": "odd"}}), "status 200: odd"),
        (
            {"custom_id": "q0", "response": None, "error": {"code": "expired", "message": "late"}},
            r"late \(expired\)",
        ),
        (
            {"custom_id": "q0", "error": {"message": "no such model", "code": 404}},
            r"no such model \(404\)",
        ),
    ],
)
def test_a_request_that_failed_shows_status_and_words(tmp_path, line, words):
    with pytest.raises(LineError, match=r":1 \(id 'q0'\): the request has no answer; " + words):
        convert(tmp_path, [line])
    read, said = convert(tmp_path, [line, chat("q1", "Paris", [PARIS])], unusable="drop")
    assert "dropped 1 examples with a request that failed: q0" in said
    assert read.example_id.tolist() == ["q1"]


OLLAMA = {"custom_id": "q0", "model": "llama3", "created_at": "2025", "done": True}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (OLLAMA | {"message": {"role": "assistant", "content": "Paris"}}, "of Ollama's own API"),
        (OLLAMA | {"response": "Paris", "context": [1]}, "of Ollama's own API"),
        ({"id": "q0", "choices": [{"text": "Paris"}]}, "has no message: .* older completions API"),
        (
            {
                "id": "q0",
                "choices": [{"message": {"content": "a"}, "logprobs": {"token_logprobs": [-1]}}],
            },
            "logprobs has token_logprobs, as in the older completions API",
        ),
        ({"id": "q0", "choices": [{"delta": {"content": "P"}}]}, "has no message: .* of a stream"),
    ],
)
def test_lines_of_another_api_are_named(tmp_path, line, message):
    for form in (None, "openai"):
        with pytest.raises(LineError, match=message):
            convert(tmp_path, [line], format=form)


@pytest.mark.parametrize(
    "text",
    [
        '{"custom_id": "q1", "choices": "\\ud83d"}',
        b'{"custom_id": "q1", "choices": "\xed\xa0\xbd"}',
        '{"custom_id": "q1", "custom_id": "q1"}',
        '{"custom_id": "q1", "seconds": 1e999}',
        '{"custom_id": "q1", "choices": ' + "[" * 500 + "]" * 500 + "}",
    ],
)
def test_json_that_is_none_is_named_by_file_line_and_id(tmp_path, text):
    with pytest.raises(LineError, match=r'student.jsonl:2 \(id "q1"\): '):
        convert(tmp_path, [chat("q0", "Paris", [PARIS]), text])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"top_log_probs": [[-0.1, -0.2]]},
            r"top_log_probs\[0\] is .* add up to 1.724; must be at most 1",
        ),
        ({"entropies": [-0.5]}, r"entropies\[0\] is -0.5; must be finite and 0 or more"),
        ({"tokens": [-1]}, r"tokens\[0\] is -1; must be 0 or more"),
        ({"tokens": [True]}, r"tokens\[0\] is true; must be one of a list of whole numbers"),
        ({"tokens": [10**30]}, "tokens holds a number that is too large for int32"),
        ({"log_probs": [0.5]}, r"log_probs\[0\] is 0.5; must be finite and at most 0"),
        ({"input_tokens": 10**30}, "input_tokens"),
        ({"entropies": [1e300]}, r"entropies\[0\] is 1e\+300; must be finite and 0 or more"),
        ({"seconds": -1}, "seconds is -1; must be finite and 0 or more"),
    ],
)
def test_sizes_that_can_not_be(tmp_path, fields, message):
    line = {"id": "q0", "answer": "Paris", "log_probs": [-0.1]}
    with pytest.raises(LineError, match=message):
        convert(tmp_path, [line | fields])


def test_rounding_is_no_contradiction(tmp_path):
    line = {"id": "q0", "answer": "Paris", "log_probs": [1e-7], "entropies": [-1e-8]}
    read, _ = convert(tmp_path, [line | {"top_log_probs": [[1e-7, -9.0]]}])
    assert read.student_top_log_probs.shape == (1, 2)
