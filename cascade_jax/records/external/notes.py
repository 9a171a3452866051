"""What an import leaves out, cuts or doubts: kinds, counts, and one printed line for each."""

import collections
from collections.abc import Iterable, Mapping

# Of an answer, with how many tokens or entries of it: `ModelAnswer.notes`.
NOT_ANSWER = "left out {count:,} tokens of {answers}: not the answer's, but reasoning or markers"
LISTED_TWICE = (
    "{count:,} tokens of {answers} list a token twice among the likeliest; it counts once"
)
OUTSIDE = (
    "left out the sampled token of {count:,} lists of the likeliest, in {answers}: others that are "
    "not listed may be likelier"
)
NO_ALTERNATIVE = (
    "left out {count:,} of the likeliest tokens of {answers}: a sentinel such as -9999 in place of "
    "their log-prob"
)
HAS_REASONING = (
    "{answers} have reasoning (<think>) in their text, all of which counts as the answer: let the "
    "server part them (vLLM: --reasoning-parser)"
)
OTHER_USAGE = "usage.completion_tokens contradicts the number of log-probs of {answers}"
ONLY_IDS = (
    "{answers} have tokens that are spelled as ids (token_id:42), {count:,} in all: reasoning or "
    "markers among them can't be told from the answer"
)
KINDS = (NOT_ANSWER, ONLY_IDS, LISTED_TWICE, OUTSIDE, NO_ALTERNATIVE, OTHER_USAGE, HAS_REASONING)

# Why an example is dropped: `UnusableError.reason`.
SENTINEL = "null, NaN or a sentinel such as -9999 in place of a log-prob"
OTHER_TOKENS = "tokens that are not those of the answer"
CONTRADICTED = "a log-prob that contradicts the same token's among the likeliest"
NO_CONTENT = "null in place of an answer"
FAILED = "a request that failed"
EMPTY = "an empty answer"
NO_LOG_PROBS = "no log-probs"

# Below this a number is no log-prob but a server's word for "not known": -9999, -1e9, -inf.
LEAST_LOG_PROB = -999.0
ROUNDING = 0.01 + 1e-9  # nats between two log-probs of one token, which services round
_LISTED = 5  # ids in a line


def listed(ids: Iterable[str]) -> str:
    """Some ids, the first of them by name: "q1, q2, ..."."""
    ids = list(ids)
    shown = (text if text.isprintable() else repr(text) for text in ids[:_LISTED])
    return ", ".join(shown) + ", ..." * (len(ids) > _LISTED)


def lines_of(model: str, notes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each kind of note on the answers of a model, given by id."""
    counts: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for example_id, of_answer in notes.items():
        for kind, count in of_answer.items():
            counts[kind][example_id] = count
    lines = []
    for kind in KINDS:
        if by_id := counts.get(kind):
            answers = f"{len(by_id):,} answers ({listed(by_id)})"
            lines.append(f"{model}: " + kind.format(count=sum(by_id.values()), answers=answers))
    return lines
