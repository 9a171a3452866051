"""Answers as other systems write them, a line of JSON each, in the plain table's fields."""

from collections.abc import Iterable
from typing import Any

from cascade_jax.records import schema
from cascade_jax.records.external.answers import ModelAnswer, checked, model_columns
from cascade_jax.records.external.lines import Line, shown, step

OPENAI, VLLM, TABLE = "openai", "vllm", "table"
FORMATS = (OPENAI, VLLM, TABLE)
METADATA = "cascade_jax"  # a table's first line may hold the metadata of records, under this key


def recognised(line: Line, models: Iterable[str]) -> str:
    """The format of a line; in that of a table, answers of the models stand under their names.

    Raises:
      LineError: it looks like none of them.
    """
    row = line.row
    if "choices" in row or "response" in row:
        return OPENAI
    if "outputs" in row or "token_ids" in row or "prompt_logprobs" in row:
        return VLLM
    if {*models, "answer", METADATA} & set(row):
        return TABLE
    raise line.fail(
        f"has {', '.join(map(str, row)) or 'nothing'}; must be a chat completion (choices), an "
        "output of vLLM (outputs or token_ids) or a line of a plain table (answer, or student and "
        "teacher); --format says which"
    )


def answer_of(line: Line, form: str) -> ModelAnswer:
    """A line that holds one model's answer.

    Raises:
      LineError: a field that is missing or has a value that is not allowed.
    """
    fields_fn = {OPENAI: _openai, VLLM: _vllm}.get(form)
    return checked(line, line.example_id(), fields_fn(line) if fields_fn else line.row)


def _openai(line: Line) -> dict[str, Any]:
    """Fields of a chat completion, bare or as a line of a batch's output."""
    if "response" in line.row:
        if line.row.get("error") is not None:
            raise line.fail(f"error is {shown(line.row['error'])}; the request has no answer")
        body = Line(line.where, line.get("response/body", dict, "a chat completion"))
    else:
        body = line
    _one(body, "choices")
    message, choice = body.get("choices/0/message", dict, "an object"), body.row["choices"][0]
    content, places = message.get("content"), step(choice.get("logprobs"), "content")
    fields: dict[str, Any] = {**_more(line), "answer": "" if content is None else content}
    if places is not None:
        body.get("choices/0/logprobs/content", list, "a list")
        fields["log_probs"] = [step(place, "logprob") for place in places]
        fields["pieces"] = [step(place, "token") for place in places]
        top = [step(place, "top_logprobs") or [] for place in places]
        if any(top):
            fields["top_log_probs"] = [_falling(entries) for entries in top]
    prompt_tokens = step(body.row.get("usage"), "prompt_tokens")
    if prompt_tokens is not None:
        fields.setdefault("input_tokens", prompt_tokens)
    if choice.get("token_ids") is not None and places is not None:  # vLLM's server can add them
        fields["tokens"] = choice["token_ids"]
    return fields


def _falling(entries: Any) -> list[Any]:
    """Log-probs of a token, the largest first; in vLLM's server the chosen one comes first."""
    values = [step(entry, "logprob") for entry in entries] if isinstance(entries, list) else []
    are_numbers = set(map(type, values)) <= {int, float}
    return sorted(values, reverse=True) if are_numbers else values


def _vllm(line: Line) -> dict[str, Any]:
    """Fields of a RequestOutput, or of one of its outputs with an id."""
    if "outputs" in line.row:
        _one(line, "outputs")
        output = Line(line.where, line.get("outputs/0", dict, "an object"))
    else:
        output = line
    log_probs, name = output.row.get("logprobs"), "logprobs"
    tokens = output.row.get("token_ids")
    if log_probs is None and line.row.get("prompt_logprobs") is not None:
        # An answer that was scored as the end of a prompt.
        count = line.get("answer_tokens", int, "the number of the prompt's last tokens that answer")
        name = "prompt_logprobs"
        start = len(line.get(name, list, "a list")) - count
        if count < 1 or start < 0:
            raise line.fail(f"answer_tokens is {count}; must be 1 to {len(line.row[name])}")
        log_probs = line.row[name][start:]
        tokens = line.get("prompt_token_ids", list, "a list of ids")[start:]
    text = line.row.get("answer", output.row.get("text"))
    fields: dict[str, Any] = {**_more(line), "answer": text, "tokens": tokens}
    prompt = line.row.get("prompt_token_ids")
    if isinstance(prompt, list):
        read = len(prompt) - (len(tokens) if name == "prompt_logprobs" else 0)
        fields.setdefault("input_tokens", read)
    if log_probs is None:
        return {key: value for key, value in fields.items() if key != "tokens"}
    if not isinstance(log_probs, list) or not isinstance(tokens, list):
        raise output.fail(f"{name} and token_ids must both be lists")
    if len(log_probs) != len(tokens):
        raise output.fail(f"{name} has {len(log_probs)} tokens, token_ids {len(tokens)}")
    places = [
        _vllm_place(output, name, i, *pair)
        for i, pair in enumerate(zip(log_probs, tokens, strict=True))
    ]
    fields["log_probs"] = [place[0] for place in places]
    if all(place[1] is not None for place in places):
        fields["pieces"] = [place[1] for place in places]
    fields["top_log_probs"] = [[value for value, _ in place[2]] for place in places]
    fields["top_ids"] = [[token for _, token in place[2]] for place in places]
    return fields


def _vllm_place(line: Line, name: str, i: int, by_id: Any, token: Any):
    """(log-prob of the chosen token, its text, the largest log-probs with their ids)."""
    if not isinstance(by_id, dict):
        raise line.fail(f"{name}[{i}] is {shown(by_id)}; must be log-probs by token id")
    entries = {}
    for key, entry in by_id.items():
        value = entry.get("logprob") if isinstance(entry, dict) else entry
        if type(value) not in (int, float) or not str(key).isdigit():
            raise line.fail(
                f"{name}[{i}] has {shown({key: entry})}; must be a token id with "
                "{logprob, rank, decoded_token}"
            )
        entries[int(key)] = value
    chosen = by_id.get(str(token))
    if chosen is None:
        raise line.fail(f"{name}[{i}] has no log-prob of the chosen token {shown(token)}")
    top = sorted(((value, key) for key, value in entries.items()), key=lambda e: (-e[0], e[1]))
    chosen = chosen if isinstance(chosen, dict) else {}
    rank = chosen.get("rank", 0)
    if type(rank) not in (int, type(None)):
        raise line.fail(f"{name}[{i}] has the rank {shown(rank)}; must be a whole number")
    if (rank or 0) > len(top):
        top.pop()  # the chosen token stands beside the largest ones, not among them
    return entries[int(token)], chosen.get("decoded_token"), top


def _one(line: Line, name: str) -> None:
    answers = line.get(name, list, "a list of one answer")
    if len(answers) != 1:
        raise line.fail(f"{name} has {len(answers)} answers; must have one (n = 1)")


def _more(line: Line) -> dict[str, Any]:
    """What a user has added to a line of another system, by its names in the plain table."""
    names = line.row.keys() & model_columns().keys()
    shapes = (schema.ONE, schema.VECTOR)
    return {name: line.row[name] for name in names if model_columns()[name].shape in shapes}
