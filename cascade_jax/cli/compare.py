"""`cascade-jax compare`: tables and folders named on the command line, and claims over seeds."""

import dataclasses
from pathlib import Path

from cascade_jax.cli.flags import UsageError, arguments, at_least, comma_list, flag
from cascade_jax.names import check_choice

HELP = """\
Lays cascades side by side that were collected on the same examples with the same large model:
records files, or the folders of experiments. Writes what `cascade-jax evaluate` writes, prints
whether each is better than the first, and needs no gin file.

With --claims it tests the papers' claims on tables of many runs (cascade-jax records without-text),
seed by seed: claims.md, claims.json and pictures.

example:
  cascade-jax compare runs/demo --split test
  cascade-jax compare a=runs/demo/records/test/xent.parquet runs/demo/records/test/cat_xent.parquet
  cascade-jax compare runs/demo --split test --names xent,cat_xent --scores standard
  cascade-jax compare runs/demo --split test --cost flops --output runs/demo/report_flops
  cascade-jax compare runs/smollm2/tables --claims all --output runs/claims
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The values of compare's flags."""

    entries: list[str] = arguments(
        "TABLES",
        "FILE or NAME=FILE, a records table; FOLDER, an experiment: all of FOLDER/records/<split>",
    )
    split: str | None = flag("NAME", "of folders; not needed where a folder has one split", None)
    names: tuple[str, ...] = flag(
        "A,B",
        "these tables of folders only, in this order: the others are compared with the first",
        (),
        type=comma_list,
    )
    output: str = flag("FOLDER", "where the report goes", "runs/compare")
    score: str = flag(
        "NAME",
        "minimum, maximum, sum, quantile_0.8, entropy, ..., or a file of `cascade-jax fit-router`",
        "average",
    )
    scores: tuple[str, ...] = flag(
        "NAMES",
        "other scores beside it: standard (those of the CAT paper's Figure 6), all (that the "
        "records suffice for), or names with commas",
        (),
        type=comma_list,
    )
    cost: str = flag(
        "NAME",
        "flops, latency, or price=0.1,0.4,1,4: of a million tokens that the small model reads and "
        "writes, and that the large one does",
        "parameters",
    )
    bootstrap: int = flag("N", "resamples for the intervals", 1000, type=at_least(1))
    claims: tuple[str, ...] = flag(
        "all|IDS",
        "tests claims instead, all or those named, on the tables of runs in and below the folders",
        (),
        type=comma_list,
    )

    def __post_init__(self):
        if not self.entries:
            raise UsageError("nothing to compare: give records files or folders of experiments")
        if self.claims:
            defaults = {f.name: f.default for f in dataclasses.fields(self)}
            for name in ("split", "names", "score", "scores", "cost"):
                if getattr(self, name) != defaults[name]:
                    raise UsageError(
                        f"--{name} does not go with --claims, which say what they need"
                    )


FLAGS = CompareConfig


def run(config: CompareConfig) -> None:
    """Runs the command on its config.

    Raises:
      FileNotFoundError: a file or folder that is not there.
      ValueError: a name that is not known, or records that do not compare.
    """
    if config.claims:
        _judge(config)
        return
    from cascade_jax.cli import evaluate

    evaluate.run(evaluate_config(config))


def _judge(config: CompareConfig) -> None:
    """Tests the claims on every pair of models that there are tables of."""
    from cascade_jax.evaluation.claims import papers, tables, verdicts
    from cascade_jax.report import claims

    known = {claim.id: claim for claim in papers.CLAIMS}
    for name in config.claims:
        check_choice("--claims", name, ["all", *known])
    chosen = [c for c in papers.CLAIMS if c.id in config.claims or "all" in config.claims]
    studies = [
        verdicts.judge(study, chosen, config.bootstrap)
        for study in tables.load(config.entries).values()
    ]
    claims.write(studies, config.output)
    print(claims.for_terminal(studies))
    print(f"\nwrote {config.output}/claims.md")


def evaluate_config(config: CompareConfig):
    """The `EvaluateConfig` that the flags stand for.

    Raises:
      FileNotFoundError: a folder without records.
      ValueError: a name that is not known.
    """
    from cascade_jax.deferral import scores
    from cascade_jax.evaluation.evaluate import EvaluateConfig

    several = {("standard",): scores.STANDARD, ("all",): "available", ("available",): "available"}
    return EvaluateConfig(
        records_files=_records_files(config),
        output_dir=config.output,
        score=_score(config.score),
        scores=several.get(config.scores) or tuple(map(_score, config.scores)),
        cost=_cost(config.cost),
        bootstrap_samples=config.bootstrap,
    )


def _records_files(config: CompareConfig) -> list[str]:
    """Files and NAME=FILE; of several folders, the tables' names have the folder's in front."""
    folders = [entry for entry in config.entries if Path(entry).is_dir()]
    files: list[str] = []
    for entry in config.entries:
        if entry not in folders:
            files.append(entry)
            continue
        before = f"{Path(entry).resolve().name}:" if len(folders) > 1 else ""
        tables = _tables(Path(entry), config.split)
        for name in config.names or tables:
            check_choice(f"a table of {entry}", name, tables)
            files.append(f"{before}{name}={tables[name]}")
    return files


def _tables(folder: Path, split: str | None) -> dict[str, Path]:
    """Tables of an experiment, or of the folder of a split, by name."""
    tables = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    if tables:
        return tables
    records = folder / "records"
    splits = {path.name: path for path in sorted(records.glob("*")) if any(path.glob("*.parquet"))}
    if not splits:
        raise FileNotFoundError(f"{records}: no records; `cascade-jax collect` writes them")
    if split is None and len(splits) > 1:
        raise ValueError(f"{records} has the splits {', '.join(splits)}; give --split")
    split = split or next(iter(splits))
    check_choice(f"the split of {records}", split, splits)
    return _tables(splits[split], None)


def _score(name: str):
    """A score by its name, or a saved router by its file."""
    from cascade_jax.deferral import routers, scores

    if Path(name).is_file():
        return routers.Saved(name)
    name = name.replace(" ", "_")
    kind, _, level = name.rpartition("_")
    if kind == "quantile" and level.replace(".", "", 1).isdecimal():
        return scores.Quantile(float(level))
    known = {score.name.replace(" ", "_"): score for score in scores.ALL}
    check_choice("a score that is no file", name, known)
    return known[name]


def _cost(name: str):
    """A cost model by its name."""
    from cascade_jax.evaluation import costs

    kind, _, prices = name.partition("=")
    if kind == "price":
        try:
            numbers = [float(price) for price in prices.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 4:
            raise ValueError(f"--cost {name}: expected four prices, as in --cost price=0.1,0.4,1,4")
        return costs.Price(*numbers)
    known = {"parameters": costs.Parameters, "flops": costs.Flops, "latency": costs.Latency}
    check_choice("cost", name, [*known, "price=IN,OUT,IN,OUT"])
    return known[name]()
