"""Outputs of vLLM's offline engine in the plain table's fields."""

import collections
import math
from typing import Any

from cascade_jax.records.external import answer_span
from cascade_jax.records.external import notes as kinds
from cascade_jax.records.external.likeliest import likeliest
from cascade_jax.records.external.lines import Line, check_one, shown, step


def fields(line: Line, notes: collections.Counter) -> dict[str, Any]:
    """Fields of a RequestOutput, or of one of its outputs with an id.

    Raises:
      UnusableError: no text; log-probs that are not of the answer.
      LineError: a field that is missing or has a value that is not allowed.
    """
    if "outputs" in line.row:
        check_one(line, "outputs")
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
    is_own = "answer" in line.row  # the user's, whose tokens are all that are listed
    if not is_own:
        _check_text(output)
    text = line.row.get("answer", output.row.get("text"))
    made: dict[str, Any] = {"tokens": tokens}
    if is_own or "text" in output.row:
        made["answer"] = text
    prompt = line.row.get("prompt_token_ids")
    if isinstance(prompt, list):
        made["input_tokens"] = len(prompt) - (len(tokens) if name == "prompt_logprobs" else 0)
    if log_probs is None or (log_probs == [] and text):
        return {key: value for key, value in made.items() if key != "tokens"}
    if not isinstance(log_probs, list) or not isinstance(tokens, list):
        raise output.fail(f"{name} and token_ids must both be lists")
    if len(log_probs) != len(tokens):
        raise output.fail(f"{name} has {len(log_probs)} tokens, token_ids {len(tokens)}")
    span = 0, len(tokens)
    pieces = [_piece(*pair) for pair in zip(log_probs, tokens, strict=True)]
    if (
        not is_own
        and name == "logprobs"
        and isinstance(text, str)
        and all(isinstance(piece, str) for piece in pieces)
    ):
        span = answer_span.checked_span(output, text, pieces, notes)
    tokens = made["tokens"] = tokens[slice(*span)]
    places = [
        _place(output, f"{name}[{i}]", *pair, notes)
        for i, pair in enumerate(zip(log_probs[slice(*span)], tokens, strict=True), span[0])
    ]
    made["log_probs"] = [place[0] for place in places]
    if all(place[1] is not None for place in places):
        made["pieces"] = [place[1] for place in places]
    made["top_log_probs"] = [[value for _, value in place[2]] for place in places]
    made["top_ids"] = [[token for token, _ in place[2]] for place in places]
    return made


def _check_text(output: Line) -> None:
    if "text" in output.row and output.row["text"] is None:
        raise output.unusable(
            kinds.NO_CONTENT,
            "text is null, which is no empty answer. --unusable drop leaves such examples out",
        )


def _piece(by_id: Any, token: Any) -> Any:
    """Text of the chosen token; None if it is not known."""
    return step(step(by_id, str(token)), "decoded_token")


def _place(line: Line, name: str, by_id: Any, token: Any, notes: collections.Counter):
    """(log-prob of the chosen token, its text, the likeliest tokens with their log-probs)."""
    if not isinstance(by_id, dict):
        raise line.fail(f"{name} is {shown(by_id)}; must be log-probs by token id")
    entries = {}
    for key, entry in by_id.items():
        value = entry.get("logprob") if isinstance(entry, dict) else entry
        is_id = key.isascii() and key.isdigit() and len(key) < 20
        if value is None and isinstance(entry, dict) and "logprob" in entry:
            value = -math.inf  # as good as a sentinel
        if type(value) not in (int, float) or not is_id:
            raise line.fail(
                f"{name} has {shown({key: entry})}; must be a token id with "
                "{logprob, rank, decoded_token}"
            )
        if int(key) in entries:
            raise line.fail(f"{name} has the token {int(key)} twice")
        entries[int(key)] = value
    chosen = by_id.get(str(token))
    if chosen is None:
        raise line.fail(f"{name} has no log-prob of the chosen token {shown(token)}")
    chosen = chosen if isinstance(chosen, dict) else {}
    rank = 0 if chosen.get("rank") is None else chosen["rank"]
    if type(rank) is not int or rank < 0:
        raise line.fail(f"{name} has the rank {shown(rank)}; must be a whole number, 1 or more")
    token, is_in_place = int(token), int(next(reversed(by_id))) == int(token)
    top = likeliest(sorted(entries.items()), token, notes, rank=rank, is_in_place=is_in_place)
    return entries[token], chosen.get("decoded_token"), top
