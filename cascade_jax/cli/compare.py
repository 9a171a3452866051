"""`cascade-jax compare`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from cascade_jax.names import did_you_mean

HELP = """\
Lays cascades side by side that were collected on the same examples with the same large model:
records files, or the folders of experiments. Writes what `cascade-jax evaluate` writes, prints
whether each is better than the first, and needs no gin file.

example:
  cascade-jax compare runs/demo --split test
  cascade-jax compare a=runs/demo/records/test/xent.parquet runs/demo/records/test/cat_xent.parquet
  cascade-jax compare runs/demo --split test --names xent,cat_xent --scores standard
  cascade-jax compare runs/demo --split test --cost flops --output runs/demo/report_flops
"""
FLAG_HELP = """\
arguments:
  FILE, NAME=FILE        a records table; the name stands for the one that it brings
  FOLDER                 an experiment: the tables of FOLDER/records/<split>
flags:
  --split NAME           of folders; not needed where a folder has one split
  --names A,B            these tables of folders only, in this order: the first is what the
                         others are compared with
  --output FOLDER        where the report goes; runs/compare if not given
  --score NAME           average if not given; minimum, maximum, sum, quantile_0.8, entropy, ...,
                         or a file that `cascade-jax fit-router` wrote
  --scores NAMES         other scores beside it: standard (those of the CAT paper's Figure 6), all
                         (that the records suffice for), or names with commas
  --cost NAME            parameters if not given; flops, latency, or price=0.1,0.4,1,4: of a million
                         tokens into and out of the small model, into and out of the large one
  --bootstrap N          resamples for the intervals; 1000 if not given
  --traceback            shows where an error arose instead of one line
"""
_COSTS = ("parameters", "flops", "latency", "price=IN,OUT,IN,OUT")


@dataclass(frozen=True)
class CompareConfig:
    """What the flags say; see FLAG_HELP."""

    entries: tuple[str, ...]
    split: str | None
    names: tuple[str, ...]
    output: str
    score: str
    scores: tuple[str, ...]
    cost: str
    bootstrap: int


def parse(argv: Iterable[str]) -> CompareConfig:
    """The config of the arguments after the command's name.

    Raises:
      ValueError: an unknown flag, a value that is not allowed, nothing to compare.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("split", None, "See FLAG_HELP.", flag_values=values)
    flags.DEFINE_list("names", [], "See FLAG_HELP.", flag_values=values)
    flags.DEFINE_string("output", "runs/compare", "See FLAG_HELP.", flag_values=values)
    flags.DEFINE_string("score", "average", "See FLAG_HELP.", flag_values=values)
    flags.DEFINE_list("scores", [], "See FLAG_HELP.", flag_values=values)
    flags.DEFINE_string("cost", "parameters", "See FLAG_HELP.", flag_values=values)
    flags.DEFINE_integer("bootstrap", 1000, "See FLAG_HELP.", 1, flag_values=values)
    try:
        entries = tuple(values(["cascade-jax compare", *argv])[1:])
    except flags.Error as error:
        raise ValueError(f"{error}; see --help") from error
    if not entries:
        raise ValueError("nothing to compare: give records files or folders of experiments")
    given = values.flag_values_dict()
    names, scores = tuple(given.pop("names")), tuple(given.pop("scores"))
    return CompareConfig(entries=entries, names=names, scores=scores, **given)


def run(config: CompareConfig) -> None:
    """Runs the command on its config.

    Raises:
      FileNotFoundError: a file or folder that is not there.
      ValueError: a name that is not known, or records that do not compare.
    """
    from cascade_jax.cli import evaluate as evaluate_command
    from cascade_jax.evaluation import evaluate

    files = records_files(config)
    given = evaluate.EvaluateConfig(
        records_files=files,
        output_dir=config.output,
        score=_score(config.score),
        scores=_scores(config.scores),
        cost=_cost(config.cost),
        bootstrap_samples=config.bootstrap,
    )
    evaluate_command.run(given)


def records_files(config: CompareConfig) -> list[str]:
    """The tables to compare, as `EvaluateConfig` takes them.

    With several folders, the names of their tables have the folder's in front.

    Raises:
      FileNotFoundError: a file or folder that is not there, or holds no records.
      ValueError: a folder with several splits and no --split, or no table of a name.
    """
    folders = [entry for entry in config.entries if Path(entry).is_dir()]
    found: list[str] = []
    for entry in config.entries:
        if entry not in folders:
            found.append(entry)
            continue
        before = f"{Path(entry).resolve().name}:" if len(folders) > 1 else ""
        found += [f"{before}{name}={path}" for name, path in _of_folder(entry, config).items()]
    return found


def _of_folder(folder: str, config: CompareConfig) -> dict[str, str]:
    """Tables of an experiment, or of the folder of a split, by name."""
    if any(Path(folder).glob("*.parquet")):
        return _chosen(Path(folder), config)
    tables = Path(folder) / "records"
    splits = sorted(path.name for path in tables.glob("*") if any(path.glob("*.parquet")))
    if not splits:
        raise FileNotFoundError(f"{tables}: no records; `cascade-jax collect` writes them")
    split = config.split
    if split is None and len(splits) > 1:
        raise ValueError(f"{tables} has the splits {', '.join(splits)}; give --split")
    split = split or splits[0]
    if split not in splits:
        hint = did_you_mean(split, splits)
        raise ValueError(f"{tables} has no split {split!r}{hint} (there are: {', '.join(splits)})")
    return _chosen(tables / split, config)


def _chosen(folder: Path, config: CompareConfig) -> dict[str, str]:
    there = {path.stem: str(path) for path in sorted(folder.glob("*.parquet"))}
    for name in config.names:
        if name not in there:
            raise ValueError(
                f"{folder} has no table {name!r}{did_you_mean(name, there)} (there are: "
                f"{', '.join(there)})"
            )
    return {name: there[name] for name in config.names or there}


def _score(name: str):
    """A score by its name, or a saved router by its file."""
    from cascade_jax.deferral import routers, scores

    if Path(name).is_file():
        return routers.Saved(name)
    known = {score.name.replace(" ", "_"): score for score in scores.ALL}
    kind, _, level = name.replace(" ", "_").rpartition("_")
    if kind == "quantile":
        return scores.Quantile(float(level))
    if name.replace(" ", "_") not in known:
        raise ValueError(
            f"no score {name!r}{did_you_mean(name, known)} and no such file (scores: "
            f"{', '.join(known)})"
        )
    return known[name.replace(" ", "_")]


def _scores(names: tuple[str, ...]):
    from cascade_jax.deferral import scores

    if names == ("standard",):
        return scores.STANDARD
    if names in (("all",), ("available",)):
        return "available"
    return tuple(_score(name) for name in names)


def _cost(name: str):
    """A cost model by its name."""
    from cascade_jax.evaluation import costs

    kind, _, prices = name.partition("=")
    if kind == "price":
        try:
            four = [float(price) for price in prices.split(",")]
        except ValueError:
            four = []
        if len(four) != 4:
            raise ValueError(f"--cost {name}: expected four prices, as in --cost price=0.1,0.4,1,4")
        return costs.Price(*four)
    plain = {"parameters": costs.Parameters, "flops": costs.Flops, "latency": costs.Latency}
    if name not in plain:
        hint = did_you_mean(kind, [*plain, "price"])
        raise ValueError(f"no cost {name!r}{hint} (there are: {', '.join(_COSTS)})")
    return plain[name]()
