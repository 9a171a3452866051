"""Lines as servers write them: chat completions with log-probs, and outputs of vLLM."""

import json
from pathlib import Path

from cascade_jax import records
from cascade_jax.records.external import from_jsonl


def token(text, log_prob=-0.1, top=(), **more):
    """One place of a chat completion's log-probs; `top` are (text, log-prob) or whole entries."""
    entries = [t if isinstance(t, dict) else entry(*t) for t in top] if top is not None else None
    return entry(text, log_prob) | {"top_logprobs": entries} | more


def entry(text, log_prob, **more):
    return {"token": text, "logprob": log_prob, "bytes": list(text.encode())} | more


def chat(custom_id, content, places, **message):
    """A chat completion; without places it has no log-probs."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "logprobs": None if places is None else {"content": places},
        "finish_reason": "stop",
    }
    return {"custom_id": custom_id, "id": f"chatcmpl-{custom_id}", "choices": [choice]}


def vllm(request_id, text, log_probs, **line):
    """A RequestOutput; log-probs by token id, the chosen token of each place first."""
    output = {"text": text, "token_ids": [int(next(iter(of))) for of in log_probs]}
    output["logprobs"] = log_probs
    return {"request_id": request_id, "outputs": [output], **line}


def write(path: Path, lines) -> str:
    """Lines of JSON; a text or bytes stand as they are."""
    texts = [line if isinstance(line, str | bytes) else json.dumps(line) for line in lines]
    texts = [text.encode() if isinstance(text, str) else text for text in texts]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return str(path)


def convert(folder: Path, student, teacher=None, targets=None, **settings):
    """(records, what is printed) of lines; others are made for the ids q0, q1 and so on."""
    ids = [f"q{i}" for i in range(len(student))]
    teacher = [{"id": i, "answer": "Paris"} for i in ids] if teacher is None else teacher
    targets = [{"id": i, "target": "Paris"} for i in ids] if targets is None else targets
    files = {"student": student, "teacher": teacher, "targets": targets}
    made = from_jsonl.from_jsonl(
        from_jsonl.FromJsonlConfig(
            **{name: write(folder / f"{name}.jsonl", lines) for name, lines in files.items()},
            **{"name": "small", "mixture": "capitals", "split": "test", "metric": "accuracy"}
            | {"student_parameters": 1e9, "teacher_parameters": 7e10}
            | settings,
            output=str(folder / "out.parquet"),
        )
    )
    return records.read(folder / "out.parquet"), made.lines()
