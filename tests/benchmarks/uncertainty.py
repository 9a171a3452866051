"""Every deferral score that records suffice for, in one table, with what it costs.

    python tests/benchmarks/uncertainty.py                    # a pair of its own, trained first
    python tests/benchmarks/uncertainty.py --records runs/a.parquet --calibration runs/b.parquet

Columns: AUROC and PRR of telling the small model's errors, area under quality against deferral
rate, what the score spends itself, area under quality against total cost with that in it, the same
minus that of the average log-prob on the same draws, and the deferral rates between which the score
has paid for itself (docs/evaluate.md). In brackets 95 % bootstrap intervals over inputs.

Without --records the demo's teacher and its student of plain cross-entropy are trained for --steps
steps, and answer the demo's test split with ten samples and every probe; what lies in --folder is
not made again. With --calibration, records of another split of the same student, learned routers
are fitted on those and stand in the table.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cascade_jax.cli.main import main as command  # noqa: E402
from cascade_jax.deferral import routers, scores  # noqa: E402
from cascade_jax.evaluation import (  # noqa: E402
    bootstrap,
    costs,
    evaluate,
    panels,
    score_costs,
    separation,
    summaries,
)
from cascade_jax.evaluation.cascades import Cascade  # noqa: E402
from cascade_jax.evaluation.results import Panel, ScoreSummary  # noqa: E402
from cascade_jax.names import matching_tasks  # noqa: E402
from cascade_jax.records.table import Records  # noqa: E402
from cascade_jax.report import tables  # noqa: E402
from cascade_jax.text_table import Cell, Column, Table, as_markdown  # noqa: E402

COSTS = {"flops": costs.Flops(), "parameters": costs.Parameters()}
PROBES = ["SelfCertainty", "PreviousAttention", "SelfAttention", "Relevance", "States"]
PROBES += ["SampleStates", "SurfaceForms"]
ROUTERS = (
    routers.LogisticRouter(),
    routers.MlpRouter(),
    routers.BoostedRouter(),
    routers.EdgeRouter(),
)
STATE_ROUTERS = routers.StateRouter(), routers.StateNetworkRouter()


def make_records(folder: Path, steps: int, limit: int | None, samples: int) -> dict[str, Path]:
    """Records of the demo's student by split, "test" and "validation"."""
    files = {split: folder / f"records/{split}/xent.parquet" for split in ("test", "validation")}
    gin = {
        "OUTPUT_DIR": str(folder),
        "TEACHER_STEPS": steps,
        "STUDENT_STEPS": steps,
        "WARMUP_STEPS": min(100, steps // 2),
        "CHECKPOINT_EVERY": steps,
        "ONLY": ["teacher", "xent"],
        "NAMES": ["xent"],
        "COLLECT_LIMIT": limit,
        "SAMPLES": samples,
    }
    flags = [f"--gin_file={ROOT}/gin/experiments/demo.gin"]
    flags += [f"--gin.{name}={value!r}" for name, value in gin.items()]
    probes = ", ".join(f"@probes.{name}()" for name in PROBES)
    if not all(file.exists() for file in files.values()):
        _run("train", *flags)
    for split, file in files.items():
        if not file.exists():
            _run("collect", *flags, f"--gin.PROBES=[{probes}]", f"--gin.COLLECT_SPLIT={split!r}")
    return files


def _run(*argv: str) -> None:
    if command(list(argv)):
        raise SystemExit(f"cascade-jax {argv[0]} failed")


def fitted(calibration: Records) -> list[routers.FittedRouter]:
    """Every kind of router that the records of a calibration split suffice for."""
    answers = calibration.student
    parts = answers, calibration.student_quality, calibration.teacher_quality
    split = str(calibration.metadata["split"])
    kinds = ROUTERS if answers.states is None else ROUTERS + STATE_ROUTERS
    return [kind.fit(*parts, split) for kind in kinds]


def panel_of(
    table: Records, learned: Sequence[scores.DeferralScore], settings: panels.Settings
) -> tuple[Panel, Cascade, panels.ByScore, tuple[str, ...]]:
    """The panel by every score, its cascade, the scores' values, and whose cost is not known."""
    several = [*scores.available(table.student), *learned]
    named = {scores.name_of(score): score for score in several}
    settings = panels.Settings(**(vars(settings) | {"scores": list(named.values())}))
    cascades, by_score, _ = panels.score_all({"": table}, settings)
    spent = {name: score_costs.cost_of(each, table, settings.cost) for name, each in named.items()}
    more = {"scores": by_score, "score_costs": {"": spent}}
    panel = settings.panel(table.name, ", ".join(dict.fromkeys(table.metric)), cascades, **more)
    notes = score_costs.notes(summaries.BASELINE, {"": spent})
    return panel, cascades[""], by_score[""], notes


def rankings(
    values: panels.ByScore, cascade: Cascade, samples: int, seed: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """Intervals of AUROC and PRR of each score, by the draws of all other intervals."""
    drawn: dict[str, list[separation.Ranking]] = {name: [] for name in values}
    for counts in bootstrap.draws_of_examples(cascade, samples, seed):
        for column in counts.T:
            rows = np.repeat(np.arange(len(column)), column)
            for name, score in values.items():
                ranking = separation.ranking(
                    score[rows], cascade.student_quality[rows], cascade.is_binary
                )
                drawn[name].append(ranking)
    return {
        name: {
            field: bootstrap.interval(np.array([getattr(each, field) for each in several]))
            for field in ("auroc", "prr")
        }
        for name, several in drawn.items()
    }


def table_of(panel: Panel, intervals: dict[str, dict[str, tuple[float, float]]]) -> Table:
    """A row for each score, the largest area at equal cost first."""

    def order(row: tuple[str, ScoreSummary]) -> float:
        value = row[1].own_cost.area.value
        return np.inf if np.isnan(value) else -value

    rows = dict(sorted(panel.scores[""].items(), key=order))
    shown = {column.head: column for column in tables.score_costs({"": rows}).columns}

    def ranked(head: str, field: str) -> Column:
        cells = [
            Cell(getattr(row.ranking, field), *intervals[name][field]) for name, row in rows.items()
        ]
        return Column(head, cells)

    columns = [shown["score"], ranked("AUROC", "auroc"), ranked("PRR", "prr")]
    columns.append(Column("area", [tables.estimate(row.area) for row in rows.values()]))
    rest = list(shown)[list(shown).index("area") + 1 :]
    return Table("", [*columns, *(shown[head] for head in rest)])


def report(file: Path, calibration: Path | None, options: argparse.Namespace) -> str:
    """The table of one records file, and the sentences around it."""
    names = [file, calibration] if calibration else [file]
    read = [next(iter(evaluate.load([name]).values())) for name in names]
    if options.tasks:
        chosen = [set(matching_tasks(options.tasks, list(dict.fromkeys(t.task)))) for t in read]
        read = [
            t.take(np.flatnonzero([task in tasks for task in t.task]))
            for t, tasks in zip(read, chosen, strict=True)
        ]
    table, learned = read[0], fitted(read[1]) if calibration else []
    settings = panels.Settings(
        cost=COSTS[options.cost], bootstrap_samples=options.bootstrap, seed=options.seed
    )
    panel, cascade, values, notes = panel_of(table, learned, settings)
    summary, (small, large) = panel.summaries[""], cascade.mean_costs
    intervals = rankings(values, cascade, options.bootstrap, options.seed)
    head = (
        f"{table.name}, split {table.metadata['split']}: {panel.num_examples:,} examples, quality "
        f"{panel.metric}, small model {summary.student_quality.value:.3f}, large model "
        f"{summary.teacher_quality.value:.3f}; costs in {panel.cost_label}: small "
        f"{costs.format_cost(small, panel.cost_unit)}, large "
        f"{costs.format_cost(large, panel.cost_unit)}; random deferral has the area "
        f"{summary.random_area:.3f}, the oracle {summary.oracle_area:.3f}."
    )
    return "\n\n".join([head, as_markdown(table_of(panel, intervals)), *notes])


def main() -> None:
    """Prints a table for each records file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, nargs="+", help="files of cascade-jax collect")
    parser.add_argument("--calibration", type=Path, nargs="+", help="one for each of --records")
    parser.add_argument("--tasks", nargs="+", help="patterns of the tasks that count")
    parser.add_argument("--cost", choices=COSTS, default="flops")
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument("--folder", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--limit", type=int, help="examples of a task")
    parser.add_argument("--samples", type=int, default=10)
    options = parser.parse_args()
    files, calibration = options.records, options.calibration
    if files is None:
        made = make_records(options.folder, options.steps, options.limit, options.samples)
        files, calibration = [made["test"]], [made["validation"]]
    calibration = calibration or [None] * len(files)
    if len(calibration) != len(files):
        parser.error(f"{len(calibration)} files of --calibration for {len(files)} of --records")
    for pair in zip(files, calibration, strict=True):
        print(report(*pair, options), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
