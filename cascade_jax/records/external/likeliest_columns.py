"""The columns of the likeliest tokens: as many at each token as the token with the fewest has."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cascade_jax.records import schema
from cascade_jax.records.external import notes
from cascade_jax.records.external.answers import ModelAnswer

_NAMES = ("top_log_probs", "top_ids")


def make_columns(
    answers: Mapping[str, Mapping[str, ModelAnswer]], metadata: dict[str, Any]
) -> tuple[dict[str, list], list[str]]:
    """Columns by name, and lines on what is cut or left out.

    Args:
      answers: by model, in order of cost, and id.
      metadata: get how many log-probs a token has.
    """
    models = list(answers)[:-1]
    sizes = {model: {i: _sizes(answer) for i, answer in answers[model].items()} for model in models}
    fewest = {
        model: min(min(of_answer, default=1 << 30) for of_answer in by_id.values())
        for model, by_id in sizes.items()
    }
    top_k = min((count for count in fewest.values() if count), default=0)
    if schema.TOP_K in metadata or top_k:
        metadata[schema.TOP_K] = top_k
    columns, lines = {}, []
    for model in models:
        name = f"{model}_{_NAMES[0]}"
        lines += _lines(name, sizes[model], top_k if fewest[model] else 0)
        if not fewest[model]:
            continue
        rows = [answer.values for answer in answers[model].values()]
        for name in _NAMES:
            lacking = [i for i, a in answers[model].items() if name not in a.values]
            if not lacking:
                cut = [np.concatenate([top[:top_k] for top in row[name]]) for row in rows]
                columns[f"{model}_{name}"] = cut
            elif len(lacking) < len(rows):
                lines.append(
                    f"left out {model}_{name}: {len(lacking):,} answers lack it "
                    f"({notes.listed(lacking)})"
                )
    return columns, lines


def _sizes(answer: ModelAnswer) -> list[int]:
    """How many tokens are listed at each token of an answer."""
    if _NAMES[0] in answer.values:
        return [len(top) for top in answer.values[_NAMES[0]]]
    return [0] * answer.num_tokens


def _lines(name: str, sizes: Mapping[str, list[int]], kept: int) -> list[str]:
    """What is left out of a column, or cut: how many tokens have less than others."""
    most = max((max(of_answer, default=0) for of_answer in sizes.values()), default=0)
    if most == kept:
        return []
    # All tokens without any, or those that no longer list fits than `kept` allows.
    ids = [i for i, of_answer in sizes.items() if min(of_answer, default=most) <= kept]
    tokens = sum(size <= kept for of_answer in sizes.values() for size in of_answer)
    total = sum(map(len, sizes.values()))
    which = f"{tokens:,} of {total:,} tokens"
    if not kept:
        return [f"left out {name}: {which} lack it ({notes.listed(ids)})"]
    return [
        f"cut {name} to {kept} at each token: {which} have no more ({notes.listed(ids)}), others "
        f"up to {most}"
    ]
