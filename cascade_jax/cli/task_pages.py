"""The output of `cascade-jax tasks`: lists, rows as the model gets them, lengths."""

import functools
import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import seqio
import tqdm

from cascade_jax.cli.task_table import Paint, count, task_table
from cascade_jax.data import mixtures
from cascade_jax.data.browse import rows as row_view
from cascade_jax.data.browse import tasks as browse
from cascade_jax.data.browse import token_counts
from cascade_jax.task_metrics import words
from cascade_jax.text_table import columns

_WIDTH = 100
_INDENT = " " * 14


def pages(config: Any) -> Iterator[str]:
    """The parts of the output of a `tasks.TasksConfig`, each as soon as it is known.

    Raises:
      ValueError: unknown name (the nearest are listed), suite or split; lengths that cut off every
        target of a task, or options of a row that are alike, after they were shown.
    """
    paint = Paint(config.color)
    if config.name is None:
        if config.mixtures:
            yield _mixture_table()
        else:
            yield task_table(browse.list_tasks(config.suite), paint)
        return
    registered = mixtures.look_up(config.name)
    if isinstance(registered, seqio.Mixture) and not config.lengths:
        yield _mixture_page(browse.mixture_facts(registered), paint)
        return
    opened = row_view.open_tasks(
        config.name, config.split, config.vocabulary, config.input_length, config.target_length
    )
    if config.lengths:
        yield from _length_pages(opened, config)
        return
    (task,) = opened
    yield _facts(task, paint)
    if not config.download:
        row_view.check_is_available(task)
    targets = []
    for example in row_view.seen_examples(task, config.examples):
        yield _example(task, example, config.tokens, paint)
        targets.append(example.targets.kept_text)
    if not targets:
        raise ValueError(f"{task.name} has no row in split {task.split!r}")
    yield from _unread_words(task, targets, paint)
    for _ in zip(targets, task.checked_rows(), strict=False):
        pass


# ------------------------------------------------------------------ lists


def _number(value: float, form: str = ",.10g") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _mixture_table() -> str:
    mixtures = browse.list_mixtures()
    rows = [(m.name, str(len(m.rates)), _number(m.total)) for m in mixtures]
    lines = columns([("mixture", "tasks", "sum of rates"), *rows], right=(1, 2))
    lines += ["", count(len(mixtures), "mixture")]
    if any(math.isnan(mixture.total) for mixture in mixtures):
        lines[-1] += "; - where a rate is a number of rows that is unknown"
    return "\n".join(lines)


def _mixture_page(mixture: browse.MixtureFacts, paint: Paint) -> str:
    shares = mixture.shares()
    rows = [(n, _number(rate), _number(shares[n], ".2%")) for n, rate in mixture.rates.items()]
    lines = [f"  {line}" for line in columns([("task", "rate", "share"), *rows], right=(1, 2))]
    title = f"{mixture.name}: {count(len(rows), 'task')}, sum of rates {_number(mixture.total)}"
    return "\n".join([paint("bold", title), *lines])


# ------------------------------------------------------------------ rows


def _facts(opened: row_view.OpenTask, paint: Paint) -> str:
    facts = browse.facts_of(opened.task, opened.name)
    size = opened.vocabulary.vocab_size
    lines = {
        "suite": facts.suite,
        "kind": facts.kind,
        "metrics": ", ".join(facts.metrics),
        "source": facts.source,
        "data": facts.data,
        "by hand": facts.manual,
        "splits": ", ".join(facts.splits),
        "vocabulary": f"{type(opened.vocabulary).__name__}, {size:,} ids",
    }
    shown = [f"  {name:<10}  {text}" for name, text in lines.items() if text]
    return "\n".join([paint("bold", facts.name), *shown])


def _unread_words(opened: row_view.OpenTask, targets: Sequence[str], paint: Paint) -> Iterator[str]:
    """A line for each metric that can't tell the words of these targets apart."""
    for metric_fn in opened.task.metric_fns:
        if unread := words.unread(metric_fn, targets):
            yield paint("missing", f"\n  ! {_visible(unread.advice)}")


def _visible(text: str) -> str:
    """Text whose control characters can do nothing to a terminal; line breaks stay."""
    return "".join(
        c if c == "\n" or unicodedata.category(c)[0] != "C" else repr(c)[1:-1] for c in text
    )


def _indented(text: str) -> str:
    return _visible(text).replace("\n", "\n" + _INDENT)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me") for c in text)


def _example(
    opened: row_view.OpenTask, example: row_view.SeenExample, tokens: int, paint: Paint
) -> str:
    lines = ["", paint("bold", f"{opened.split}/{example.index}")]
    for name, seen in (("inputs", example.inputs), ("targets", example.targets)):
        text = _indented(seen.kept_text)
        if seen.cut_text:
            text += paint("cut", f"[cut: {_indented(seen.cut_text)}]")
        length = f"{len(seen.ids)} tokens"
        if seen.length > len(seen.ids):
            length += paint("cut", f", cut from {seen.length}")
        if seen.unknown:
            length += paint("missing", f", {seen.unknown} of them unknown to the vocabulary")
        lines += [f"  {name:<10}  {text}", _INDENT + length, *_token_lines(seen, tokens, paint)]
    if example.options is not None:
        lines.append(f"  {'options':<10}  {' | '.join(map(_indented, example.options))}")
    return "\n".join(lines)


def _token_lines(seen: row_view.SeenText, most: int, paint: Paint) -> list[str]:
    """Pieces above their ids, as many per line as fit."""
    pairs = [
        (_visible(piece).replace(" ", "▁").replace("\n", "\\n"), str(i))
        for piece, i in zip(seen.pieces, seen.ids, strict=True)
    ]
    if len(pairs) > most:
        pairs = [*pairs[:most], ("…", f"({len(pairs) - most} more)")]
    lines, pieces, ids, used = [], "", "", 0
    for piece, token_id in pairs:
        width = max(_width(piece), len(token_id)) + 1
        if used + width > _WIDTH - len(_INDENT):
            lines += [pieces, paint("dim", ids.rstrip())]
            pieces, ids, used = "", "", 0
        pieces += piece + " " * (width - _width(piece))
        ids += token_id.ljust(width)
        used += width
    return [_INDENT + line.rstrip() for line in (*lines, pieces, paint("dim", ids.rstrip()))]


# ------------------------------------------------------------------ lengths


def _length_pages(opened: Sequence[row_view.OpenTask], config: Any) -> Iterator[str]:
    """A table for each task, then the error if no target of one fits.

    Tasks of a mixture without data on this machine are left out, and named.
    """
    targets = {}
    for task in opened:
        try:
            if not config.download:
                row_view.check_is_available(task)
        except (ValueError, FileNotFoundError) as error:
            if len(opened) == 1:
                raise
            yield f"{task.name}: left out, {error}"
            continue

        # On standard error, and in a terminal only.
        bar = {"desc": task.name, "unit": "row", "disable": None, "leave": False}
        progress = functools.partial(tqdm.tqdm, **bar)
        inputs, targets[task.name] = token_counts.count_tokens(task, config.rows, progress)
        read = len(inputs.tokens)
        first = "first " if read == config.rows else ""
        vocabulary = type(task.vocabulary).__name__
        yield f"{task.name}, {task.split}: {first}{count(read, 'row')}, {vocabulary}"
        yield _length_table(inputs, targets[task.name])
    token_counts.check_targets_fit(targets)


def _length_table(inputs: token_counts.TokenCounts, targets: token_counts.TokenCounts) -> str:
    percents = ["max" if p == 100 else f"{p} %" for p in token_counts.PERCENTILES]
    rows = [["tokens", *percents, "length", "rows cut", "tokens lost", "only EOS"]]
    for name, counts in (("inputs", inputs), ("targets", targets)):
        values = [str(counts.percentile(percent)) for percent in token_counts.PERCENTILES]
        limit = "-" if counts.limit is None else str(counts.limit)
        cut = [f"{counts.rows_cut / len(counts.tokens):.1%}", f"{counts.tokens_lost:.1%}"]
        rows.append([name, *values, limit, *cut, str(counts.only_eos)])
    return "\n".join(f"  {line}" for line in columns(rows, right=range(1, len(rows[0]))))
