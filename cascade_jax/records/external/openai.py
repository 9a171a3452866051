"""Chat completions, bare or as lines of a batch's output, in the plain table's fields."""

import collections
import math
import operator
from collections.abc import Mapping
from typing import Any

from cascade_jax.records.external import answer_span
from cascade_jax.records.external import notes as kinds
from cascade_jax.records.external.likeliest import likeliest, token_key
from cascade_jax.records.external.lines import Line, UnusableError, check_one, shown, step

_DROP = "--unusable drop leaves such examples out"


def fields(line: Line, notes: collections.Counter) -> dict[str, Any]:
    """Fields of a chat completion.

    Raises:
      UnusableError: a request that failed; no content; log-probs that are not of the answer.
      LineError: a field that is missing or has a value that is not allowed.
    """
    body = _body(line)
    check_one(body, "choices")
    choice = body.get("choices/0", dict, "an object")
    if "message" not in choice:
        raise body.fail(f"choices[0] has no message{_other_kind(choice)}")
    message = body.get("choices/0/message", dict, "an object")
    if message.get("content") is None:
        raise _no_content(body, choice, message)
    made: dict[str, Any] = {"answer": _text(body, message["content"])}
    usage = body.row.get("usage")
    prompt_tokens = step(usage, "prompt_tokens")
    if prompt_tokens is not None:
        made["input_tokens"] = prompt_tokens
    places = _places(body, choice)
    # An empty list beside an answer: the service was not asked for log-probs, or lost them.
    if places is None or (not places and made["answer"]):
        return made
    notes[kinds.OTHER_USAGE] += bool(places) and not _is_count(body, usage, len(places))
    return made | _token_fields(body, choice, made["answer"], places, notes)


def _body(line: Line) -> Line:
    """The completion of a line, or of a batch's line.

    Raises:
      UnusableError: the service's status and words in place of one.
    """
    if is_ollama(line.row):
        raise line.fail(
            "is an answer of Ollama's own API (/api/chat or /api/generate); ask for chat "
            "completions at its /v1/chat/completions, with logprobs = true"
        )
    response, error = line.row.get("response"), line.row.get("error")
    if response is None:
        if error is not None or "response" in line.row:
            raise _failed(line, None, error)
        return line
    body, status = step(response, "body"), step(response, "status_code")
    error = step(body, "error") if error is None else error
    if error is not None or str(status) not in ("200", "None"):
        raise _failed(line, status, body if error is None else error)
    return Line(line.where, line.get("response/body", dict, "a chat completion"))


def is_ollama(row: Mapping[str, Any]) -> bool:
    """Whether it is a line of Ollama's own API, which has neither choices nor a response's body."""
    return "done" in row and ("message" in row or isinstance(row.get("response"), str))


def _failed(line: Line, status: Any, error: Any) -> UnusableError:
    """The error of a request: "status 400, max_tokens is too large (invalid_request_error)"."""
    words = step(error, "message") or (error if isinstance(error, str) else shown(error))
    codes = [str(c) for c in (step(error, "type"), step(error, "code")) if c not in (None, status)]
    text = " ".join(str(words).split())[:300] + f" ({', '.join(codes)})" * bool(codes)
    status = "" if status is None else f"status {shown(status)}: "
    return line.unusable(kinds.FAILED, f"the request has no answer; {status}{text}. {_DROP}")


def _no_content(body: Line, choice: dict, message: dict) -> UnusableError:
    more = [key for key in message if key not in ("role", "content") and message[key]]
    beside = f", and the message has {', '.join(more)}" if more else ""
    return body.unusable(
        kinds.NO_CONTENT,
        f"choices[0].message.content is null, which is no empty answer (finish_reason "
        f"{shown(choice.get('finish_reason'))}{beside}). {_DROP}",
    )


def _text(body: Line, content: Any) -> Any:
    """The content, or the text of a list of its parts."""
    if not isinstance(content, list):
        return content
    for i, part in enumerate(content):
        if step(part, "type") != "text" or not isinstance(step(part, "text"), str):
            kind = step(part, "type")
            what = (
                f"has the type {shown(kind)}" if kind not in (None, "text") else "is " + shown(part)
            )
            raise body.fail(
                f"choices[0].message.content[{i}] {what}; must be a part of the type text, with "
                "its text"
            )
    return "".join(part["text"] for part in content)


def _other_kind(choice: dict) -> str:
    if "text" in choice:
        return ": it is an answer of the older completions API (text); ask for chat completions"
    if "delta" in choice:
        return ": it is a part of a stream (delta); ask for whole answers, stream = false"
    return ""


def _places(body: Line, choice: dict) -> list[dict] | None:
    """The objects of the listed tokens; None without log-probs."""
    log_probs = choice.get("logprobs")
    if log_probs is None:
        return None
    if isinstance(log_probs, dict) and "token_logprobs" in log_probs:
        raise body.fail(
            "choices[0].logprobs has token_logprobs, as in the older completions API; must have "
            "content, a list of tokens with their log-probs"
        )
    if isinstance(log_probs, dict) and log_probs.get("content") is None:
        return None
    places = body.get("choices/0/logprobs/content", list, "a list of tokens with their log-probs")
    for i, place in enumerate(places):
        if not isinstance(place, dict):
            raise body.fail(
                f"choices[0].logprobs.content[{i}] is {shown(place)}; must be an object"
            )
    return places


def _is_count(body: Line, usage: Any, count: int) -> bool:
    """Whether the stated usage fits the number of listed tokens.

    The token that ends the answer may be counted and not listed, and so may reasoning.
    """
    stated = step(usage, "completion_tokens")
    if stated is None:
        return True
    if type(stated) is not int or stated < 0:
        raise body.fail(
            f"usage.completion_tokens is {shown(stated)}; must be a whole number of 0 or more"
        )
    reasoning = step(step(usage, "completion_tokens_details"), "reasoning_tokens")
    hidden = (0, reasoning) if type(reasoning) is int else (0,)
    return any(count - stated + tokens in (0, -1) for tokens in hidden)


def _token_fields(
    body: Line, choice: dict, answer: Any, places: list[dict], notes: collections.Counter
) -> dict[str, Any]:
    """Log-probs and texts of the answer's tokens among all that are listed."""
    pieces = [place.get("token") for place in places]
    start, stop = 0, len(places)
    if isinstance(answer, str) and all(isinstance(piece, str) for piece in pieces):
        data = [place.get("bytes") for place in places]
        start, stop = answer_span.checked_span(
            body,
            answer,
            pieces,
            notes,
            piece_bytes=[each if isinstance(each, list) else None for each in data],
            has_reasoning=any(
                step(choice["message"], key) for key in ("reasoning_content", "reasoning")
            ),
        )
    places = places[start:stop]
    made: dict[str, Any] = {
        "log_probs": [place.get("logprob") for place in places],
        "pieces": pieces[start:stop],
    }
    top = [_likeliest(body, start + i, place, notes) for i, place in enumerate(places)]
    if any(top):
        made["top_log_probs"] = top
    tokens = choice.get("token_ids")
    if tokens is not None:  # vLLM's server can add them
        if not isinstance(tokens, list) or len(tokens) != len(pieces):
            size = f"{len(tokens)} tokens" if isinstance(tokens, list) else shown(tokens)
            raise body.fail(f"token_ids has {size}, logprobs {len(pieces)}")
        made["tokens"] = tokens[start:stop]
    return made


def _likeliest(body: Line, i: int, place: dict, notes: collections.Counter) -> list[Any]:
    """Log-probs of the likeliest tokens at a place."""
    entries = place.get("top_logprobs")
    if entries is None:
        return []
    where = f"choices[0].logprobs.content[{i}].top_logprobs"
    if not isinstance(entries, list):
        raise body.fail(f"{where} is {shown(entries)}; must be a list")
    for entry in entries:
        value = step(entry, "logprob")
        if type(value) not in (int, float) and not (value is None and isinstance(entry, dict)):
            raise body.fail(
                f"{where} has {shown(entry)}; must be tokens with a number as their logprob"
            )
    values = [_value(entry) for entry in entries]
    _check_chosen(body, where, place, list(zip(entries, values, strict=True)))
    if _are_plain(entries, values):
        return values
    keyed = [(_key(entry), value) for entry, value in zip(entries, values, strict=True)]
    chosen = _key(place)
    is_in_place = bool(keyed) and keyed[-1][0] == chosen
    return [value for _, value in likeliest(keyed, chosen, notes, is_in_place=is_in_place)]


def _check_chosen(body: Line, where: str, place: dict, entries: list[tuple[dict, float]]) -> None:
    """Refuses a log-prob other than that of the same token in the list of the likeliest."""
    value, text = _value(place), place.get("token")
    same = [
        (entry, other)
        for entry, other in entries
        if entry.get("token") == text and other > kinds.LEAST_LOG_PROB
    ]
    if not same or not kinds.LEAST_LOG_PROB < value < kinds.ROUNDING:
        return
    if any(abs(value - other) <= kinds.ROUNDING for _, other in same):
        return
    others = [other for entry, other in same if _key(entry) == _key(place)]
    if others:
        raise body.unusable(
            kinds.CONTRADICTED,
            f"{where} has {others[0]} for the chosen token {shown(text)}, whose logprob is "
            f"{value}; must be the same. {_DROP}",
        )


def _are_plain(entries: list[dict], values: list[float]) -> bool:
    """Whether nothing can be left out of a list: it goes down, and its texts are different ones."""
    return (
        all(map(operator.gt, values, values[1:]))
        and all(value > kinds.LEAST_LOG_PROB for value in values)
        and len({str(entry.get("token")) for entry in entries}) == len(entries)
        and not any("id" in entry or "token_id" in entry for entry in entries)
    )


def _key(entry: dict) -> Any:
    number = entry.get("id", entry.get("token_id"))
    return token_key(entry.get("token"), entry.get("bytes"), _value(entry), number)


def _value(entry: dict) -> float:
    """A log-prob; where there is none it is as good as a sentinel."""
    value = entry.get("logprob")
    return value if type(value) in (int, float) else -math.inf
