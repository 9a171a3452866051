"""`cascade-jax records`: records from other systems' JSONL, and back; and without their text."""

import argparse
import dataclasses
import os
import re
from collections.abc import Iterable

from cascade_jax.cli.flags import Flags, UsageError, at_least, comma_list, flag
from cascade_jax.names import did_you_mean

HELP = """\
Makes a records table, which evaluate and fit-router read, of answers that other systems wrote as
JSONL; a plain table of JSONL of records; and records without text, small enough to be kept.

example:
  cascade-jax records from-jsonl --student small.jsonl --teacher large.jsonl \\
    --targets targets.jsonl --metric accuracy --name small --mixture trivia --split test \\
    --student_parameters 1B --teacher_parameters 70B --output runs/trivia/small.parquet
  cascade-jax records to-jsonl --records runs/trivia/small.parquet --output table.jsonl
  cascade-jax records from-jsonl --student table.jsonl --output again.parquet
  cascade-jax records without-text --records runs/demo/records/test/xent.parquet \\
    --pair demo --size small --loss xent --seed 0 --output tables/xent.seed_0.parquet
"""
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def _count(text: str) -> float:
    """A number of parameters such as 8e9, 270M or 1.5B."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([KMBT]?)", text, re.IGNORECASE)
    try:
        return float(round(float(match[1]) * _UNITS[match[2].upper()]))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a number such as 8e9, 270M or 1.5B"
        ) from None


def named_files(text: str) -> dict[str, str]:
    """A flag's type: ``NAME=FILE`` with commas between them."""
    named = {}
    for entry in comma_list(text):
        name, _, file = entry.partition("=")
        if not (name and file) or name in named:
            raise argparse.ArgumentTypeError(f"{entry!r} is not NAME=FILE with a name of its own")
        named[name] = file
    return named


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromJsonlFlags:
    """The values of from-jsonl's flags: the fields of a `FromJsonlConfig`."""

    student: str = flag(
        "FILE",
        "the small model's answers with log-probs, or a plain table of both models' answers; e.g. "
        "--student small.jsonl",
    )
    teacher: str | None = flag(
        "FILE",
        "the large model's answers, joined by id; log-probs may be missing; e.g. --teacher "
        "large.jsonl",
        None,
    )
    targets: str | None = flag(
        "FILE",
        "lines of {id, target, task, inputs}, if the answers' lines do not bring them; e.g. "
        "--targets targets.jsonl",
        None,
    )
    format: str | None = flag(
        "openai|vllm|table",
        "of both files; each file's is recognised without it; e.g. --format vllm",
        None,
    )
    metric: str | None = flag(
        "NAME",
        "accuracy, token_f1, rouge_l, chrf, squad, trivia_qa, set_f1, bleu, corpus_chrf; or a "
        'field of numbers in [0, 1] that the lines bring, "quality" without it; e.g. --metric '
        "rouge_l, --metric judged",
        None,
    )
    tokenizer: str | None = flag(
        "NAME",
        "makes the words of bleu, rouge_l, token_f1, squad and trivia_qa: 13a, intl, zh, ja-mecab, "
        "char, none, or a language, which needs one if it has no spaces between words; e.g. "
        "--tokenizer zh, --tokenizer th",
        None,
    )
    name: str | None = flag(
        "NAME", "the small model's label in tables and plots; e.g. --name gemma_1b", None
    )
    mixture: str | None = flag("NAME", "a name for all examples; e.g. --mixture trivia", None)
    split: str | None = flag(
        "NAME", "of the examples; no router is fitted on test; e.g. --split validation", None
    )
    student_parameters: float | None = flag(
        "N",
        "a token costs 2 FLOPs for each; needed unless lines bring flops_per_token; e.g. "
        "--student_parameters 270M",
        None,
        type=_count,
    )
    teacher_parameters: float | None = flag(
        "N", "the same of the large model; e.g. --teacher_parameters 7e10", None, type=_count
    )
    empty: str = flag(
        "refuse|drop",
        "what is done with a small model's answer that has no token and so no score; e.g. --empty "
        "drop",
        "refuse",
    )
    unusable: str = flag(
        "refuse|drop",
        "what is done with an answer that is none (null, a request that failed) or whose log-probs "
        "are not its own (a sentinel such as -9999, tokens without the answer); e.g. "
        "--unusable drop",
        "refuse",
    )
    output: str = flag(
        "FILE", "the records table to write; e.g. --output runs/trivia/small.parquet"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToJsonlConfig:
    """The values of to-jsonl's flags."""

    records: str = flag("FILE", "the records table; e.g. --records runs/trivia/small.parquet")
    output: str = flag(
        "FILE",
        "the plain table to write, its metadata in the first line, which stand in for --name, "
        "--mixture, --split and the parameters when it is read; e.g. --output table.jsonl",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutTextConfig:
    """The values of without-text's flags."""

    records: str = flag(
        "FILE", "the records table; e.g. --records runs/demo/records/test/a.parquet"
    )
    output: str = flag("FILE", "the table to write; e.g. --output tables/a.seed_0.parquet")
    pair: str = flag("NAME", "of models, one set of test examples; e.g. --pair smollm2")
    size: str = flag("NAME", "of the student; e.g. --size layers_10")
    loss: str = flag(
        "NAME",
        "as its file in gin/losses, or a Gatekeeper's with its weight; e.g. --loss cat_xent, "
        "--loss gatekeeper_0.3",
    )
    seed: int = flag("N", "of the student's training; e.g. --seed 0", type=at_least(0))
    scores: dict[str, str] = flag(
        "NAME=FILE,...",
        "routers of `cascade-jax fit-router`, whose scores are kept; e.g. "
        "--scores edge_inference=router.npz",
        None,
        type=named_files,
    )

    def __post_init__(self):
        object.__setattr__(self, "scores", dict(self.scores or {}))


def flags() -> Flags:
    """The flags of from-jsonl, with those of the other verbs above them in the help."""
    other = Flags(HELP, "flags of to-jsonl").add(ToJsonlConfig)
    other = Flags(other.format_help().rstrip(), "flags of without-text").add(WithoutTextConfig)
    heading = "flags of from-jsonl (formats and examples of their lines: docs/records.md)"
    return Flags(other.format_help().rstrip(), heading).add(FromJsonlFlags)


def parse(argv: Iterable[str]):
    """The config of the arguments after the command's name.

    Returns:
      A `FromJsonlConfig`, a `ToJsonlConfig` or a `WithoutTextConfig`.

    Raises:
      ValueError: an unknown verb or flag, a value that is not allowed, a flag that is missing.
    """
    verbs = {
        "from-jsonl": FromJsonlFlags,
        "to-jsonl": ToJsonlConfig,
        "without-text": WithoutTextConfig,
    }
    verb, *rest = [*argv] or [""]
    if verb not in verbs:
        hint = did_you_mean(verb, verbs)
        raise UsageError(f"{verb!r} is not one of {', '.join(verbs)}{hint}; see --help")
    values = vars(Flags(HELP).add(verbs[verb]).parse(rest))
    if verb != "from-jsonl":
        return verbs[verb](**values)
    from cascade_jax.records.external.from_jsonl import FromJsonlConfig

    return FromJsonlConfig(**values)


def run(config) -> None:
    """Runs the command on its config.

    Raises:
      ValueError: a line or a records file that can not be used.
      OSError: a missing file, a full disk.
    """
    if isinstance(config, ToJsonlConfig):
        from cascade_jax.records.external import to_jsonl

        print(f"{config.output}: {to_jsonl.to_jsonl(config.records, config.output):,} rows")
        return
    if isinstance(config, WithoutTextConfig):
        _without_text(config)
        return
    from cascade_jax.records.external import from_jsonl

    made = from_jsonl.from_jsonl(config)
    formats = ", ".join(f"{model} from {form}" for model, form in made.formats.items())
    print(f"{config.output}: {made.rows:,} examples, {formats}")
    for line in made.lines():
        print(line)


def _without_text(config: WithoutTextConfig) -> None:
    from cascade_jax.deferral import routers
    from cascade_jax.records import run_table

    run = run_table.Run(config.pair, config.size, config.loss, config.seed)
    scores = {name: routers.Saved(file) for name, file in config.scores.items()}
    table = run_table.write(config.records, config.output, run, scores)
    size = os.path.getsize(config.output)
    print(f"{config.output}: {len(table):,} examples of {run}; {size / 1000:,.0f} kB, no text")
