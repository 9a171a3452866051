"""`cascade-jax records`."""

import dataclasses
import re
from collections.abc import Iterable

from absl import flags

from cascade_jax.names import did_you_mean

HELP = """\
Makes a records table, which evaluate and fit-router read, of answers that other systems wrote as
JSONL; and a plain table of JSONL of records.

example:
  cascade-jax records from-jsonl --student small.jsonl --teacher large.jsonl \\
    --targets targets.jsonl --metric accuracy --name small --mixture trivia --split test \\
    --student_parameters 1B --teacher_parameters 70B --output runs/trivia/small.parquet
  cascade-jax records to-jsonl --records runs/trivia/small.parquet --output table.jsonl
  cascade-jax records from-jsonl --student table.jsonl --output again.parquet
"""
FLAG_HELP = """\
flags of from-jsonl (formats and examples of their lines: docs/records.md):
  --student FILE         the small model's answers with log-probs, or a plain table of both models'
                         answers; e.g. --student small.jsonl
  --teacher FILE         the large model's answers, joined by id; log-probs may be missing;
                         e.g. --teacher large.jsonl
  --targets FILE         lines of {id, target, task, inputs}, if the answers' lines do not bring
                         them; e.g. --targets targets.jsonl
  --format openai|vllm|table
                         of both files; each file's is recognised if not given; e.g. --format vllm
  --metric NAME          accuracy, token_f1, rouge_l, chrf, squad, trivia_qa, bleu, corpus_chrf; or
                         a field of numbers in [0, 1] that the lines bring; their field "quality" if
                         not given; e.g. --metric rouge_l, --metric judged
  --name NAME            the small model's label in tables and plots; e.g. --name gemma_1b
  --mixture NAME         what the examples are, as one; e.g. --mixture trivia
  --split NAME           of them; routers are never fitted on test; e.g. --split validation
  --student_parameters N, --teacher_parameters N
                         a token costs 2 FLOPs for each; needed unless lines bring flops_per_token;
                         e.g. --student_parameters 270M --teacher_parameters 7e10
  --empty refuse|drop    what is done with a small model's answer that has no token and so no score;
                         refuse if not given; e.g. --empty drop
  --output FILE          the records table to write; e.g. --output runs/trivia/small.parquet
flags of to-jsonl:
  --records FILE         the records table; e.g. --records runs/trivia/small.parquet
  --output FILE          the plain table to write, its metadata in the first line, which stand in
                         for --name, --mixture, --split and the parameters when it is read;
                         e.g. --output table.jsonl
flags of both:
  --traceback            shows where an error arose instead of one line
"""
_FILES = ("student", "teacher", "targets", "output")
_TEXTS = ("metric", "name", "mixture", "split")
_PARAMETERS = ("student_parameters", "teacher_parameters")
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclasses.dataclass(frozen=True)
class ToJsonlConfig:
    """What to-jsonl reads and writes."""

    records: str
    output: str


def parse(argv: Iterable[str]):
    """The config of the arguments after the command's name.

    Returns:
      An `ExchangeConfig`, or a `ToJsonlConfig`.

    Raises:
      ValueError: an unknown verb or flag, a value that is not allowed, a flag that is missing.
    """
    verbs = {"from-jsonl": _parse_from_jsonl, "to-jsonl": _parse_to_jsonl}
    verb, *rest = [*argv] or [""]
    if verb not in verbs:
        hint = did_you_mean(verb, verbs)
        raise ValueError(f"{verb!r} is not one of {', '.join(verbs)}{hint}; see --help")
    return verbs[verb](rest)


def _parse_from_jsonl(argv: Iterable[str]):
    from cascade_jax.cli.import_checkpoint import parsed
    from cascade_jax.records.external.formats import FORMATS
    from cascade_jax.records.external.from_jsonl import EMPTY, ExchangeConfig

    values = flags.FlagValues()
    for name in (*_FILES, *_TEXTS, *_PARAMETERS):
        flags.DEFINE_string(name, None, "See FLAG_HELP.", flag_values=values)
    flags.DEFINE_enum("format", None, FORMATS, "See FLAG_HELP.", flag_values=values)
    flags.DEFINE_enum("empty", "refuse", EMPTY, "See FLAG_HELP.", flag_values=values)
    given = parsed("records from-jsonl", values, argv, ("student", "output"))
    given |= {name: _count(name, given[name]) for name in _PARAMETERS}
    return ExchangeConfig(**given)


def _parse_to_jsonl(argv: Iterable[str]) -> ToJsonlConfig:
    from cascade_jax.cli.import_checkpoint import parsed

    values = flags.FlagValues()
    for name in ("records", "output"):
        flags.DEFINE_string(name, None, "See FLAG_HELP.", flag_values=values)
    return ToJsonlConfig(**parsed("records to-jsonl", values, argv, ("records", "output")))


def _count(name: str, text: str | None) -> float | None:
    """A number of parameters such as 8e9, 270M or 1.5B."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([KMBT]?)", text, re.IGNORECASE)
    try:
        return float(round(float(found[1]) * _UNITS[found[2].upper()]))
    except (TypeError, ValueError):
        raise ValueError(
            f"--{name} {text}: must be a number such as 8e9, 270M or 1.5B; see --help"
        ) from None


def run(config) -> None:
    """Runs the command on its config.

    Raises:
      ValueError: a line or a records file that can not be used.
      OSError: a file that is not there, a full disk.
    """
    if isinstance(config, ToJsonlConfig):
        from cascade_jax.records.external import to_jsonl

        print(f"{config.output}: {to_jsonl.to_jsonl(config.records, config.output):,} rows")
        return
    from cascade_jax.records.external import from_jsonl

    made = from_jsonl.from_jsonl(config)
    formats = ", ".join(f"{model} from {form}" for model, form in made.formats.items())
    print(f"{config.output}: {made.rows:,} examples, {formats}")
    if made.dropped:
        shown = ", ".join(made.dropped[:5]) + (", ..." if len(made.dropped) > 5 else "")
        print(f"dropped {len(made.dropped):,} examples with an empty answer: {shown}")
    for name, count in made.left_out.items():
        print(f"left out {name}: {count:,} answers lack it")
