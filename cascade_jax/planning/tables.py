"""Plans as text."""

from collections.abc import Sequence

from cascade_jax.planning.planner import Plan
from cascade_jax.text_table import columns

_UNITS = {"student": "parameters of the student", "teacher": "parameters of the teacher",
          "base": "parameters of LoRA's base", "optimizer": "state of the optimizer",
          "batch": "batch"}  # fmt: skip

_MOST_ARRAYS = 8


def table(plan: Plan) -> str:
    """One plan, a line a figure."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "1 chip"
    split = ", ".join(f"{key} {value}" for key, value in plan.split.items() if value is not None)
    rows = [
        ("step", plan.step),
        ("topology", f"{plan.topology}, {plan.chips} chips, mesh ({mesh})"),
        ("split", split),
        ("", ""),
        ("memory of a chip", ""),
        *((f"  {_UNITS.get(name, name)}", size_of(size)) for name, size in plan.parts.items()),
    ]
    if plan.temporaries is not None:
        rows += [
            ("  activations, gradients, gathered weights", size_of(plan.temporaries)),
            ("  program", size_of(plan.program)),
        ]
    if plan.peak is not None:
        share = f"{plan.peak / plan.memory:.0%} of {size_of(plan.memory)}"
        rows.append(("  peak", f"{size_of(plan.peak)}, {share}"))
    rows.append(("  fits", "yes" if plan.fits else "NO: " + plan.reason))
    rows += _held(plan)
    if plan.flops is not None:
        rows += _work(plan) + _bound(plan)
    return "\n".join(columns(rows)) + "\n"


def _held(plan: Plan) -> list[tuple[str, str]]:
    if not plan.held:
        return []
    rows = [("", ""), ("largest arrays held at the peak beside these parts", "")]
    for each in plan.held[:_MOST_ARRAYS]:
        array = f"{each.count} x {each.array}" if each.count > 1 else each.array
        rows.append((f"  {array}", f"{size_of(each.bytes)}  {each.made_by}"))
    return rows


def _work(plan: Plan) -> list[tuple[str, str]]:
    rows = [("", ""), ("work of a chip in a step", "")]
    if plan.model_flops is not None:
        rows.append(("  model FLOPs", number(plan.model_flops)))
    total = number(plan.flops)
    if plan.expected_flops:
        total += f" ({plan.flops / plan.expected_flops - 1:+.1%} of the closed form)"
    label = "  FLOPs" if plan.model_flops is None else "  FLOPs with what is recomputed"
    rows += [(label, total), ("  bytes of HBM", size_of(plan.moved))]
    for each in plan.collectives:
        over = " x ".join(each.axes) or "no axis"
        name = f"  {each.kind} over {over}"
        rows.append((name, f"{size_of(each.bytes)} sent in {each.count:.0f}"))
    rows += [(f"  loop {name!r}", "counted once: its length is not known")
             for name in plan.unknown_loops]  # fmt: skip
    return rows


def _bound(plan: Plan) -> list[tuple[str, str]]:
    keys = ("compute", "memory", "interconnect", "network")
    rows = [("", ""), ("least time of a step, data-sheet rates", "")]
    rows += [(f"  {key}", f"{plan.roofline[key]:.4g} s") for key in keys if plan.roofline[key]]
    rows.append(("  bound", f"{plan.roofline['bound']}, {plan.seconds:.4g} s"))
    if plan.model_flops is not None and plan.flops:
        # Of the peak rate, if the bound were met.
        use = plan.model_flops / plan.flops * plan.roofline["compute"] / plan.seconds
        rows.append(("  model FLOPs utilisation at most", f"{use:.0%}"))
    rows.append(("  tokens a second, all chips", f"{plan.tokens_per_second:,.0f}"))
    if plan.hours is not None:
        rows.append(("  hours of the whole run", f"{plan.hours:.3g}"))
    return rows


def ranking(plans: Sequence[Plan], failures: Sequence[tuple[str, str]] = ()) -> str:
    """Plans of a sweep side by side, and what could not be compiled, with its reason."""
    rows = [("mesh", "microbatches", "remat", "peak", "fits", "step", "bound")]
    for plan in plans:
        mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
        rows.append((
            mesh or "1 chip",
            str(plan.split.get("microbatches", "")),
            str(plan.split.get("remat", "")),
            "?" if plan.peak is None else size_of(plan.peak),
            "yes" if plan.fits else "NO",
            "" if plan.seconds is None else f"{plan.seconds:.4g} s",
            plan.roofline.get("bound", ""),
        ))  # fmt: skip
    lines = columns(rows) + [f"left out: {name}: {reason}" for name, reason in failures]
    return "\n".join(lines) + "\n"


def size_of(count: float) -> str:
    """Bytes in powers of ten."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.2f} {unit}"
    return f"{count:.0f} B"


def number(count: float) -> str:
    """FLOPs with a unit."""
    for unit, power in (("PFLOP", 15), ("TFLOP", 12), ("GFLOP", 9), ("MFLOP", 6)):
        if count >= 10**power:
            return f"{count / 10**power:.4g} {unit}"
    return f"{count:.0f} FLOP"
