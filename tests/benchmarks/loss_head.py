"""Compares the loss heads: plain against fused, and against public packages for cross-entropy.

    python tests/benchmarks/loss_head.py            # this machine's CPU: time, memory, differences
    python tests/benchmarks/loss_head.py --tpu      # the TPU compiler, no TPU: memory, collectives

A head is timed and measured as what training runs: the jitted loss sum with its gradients for the
student's hidden states and output matrix, all arrays being arguments. Heads take turns within one
process, so that a busy machine slows all of them; a time is the median of its repetitions.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import logging
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


def set_environment(tpu: bool) -> None:
    """Settings that JAX reads when it is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # with --tpu too: that compiles and never runs
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if "host_platform_device_count" not in flag]
    os.environ["XLA_FLAGS"] = " ".join([*flags, "--xla_force_host_platform_device_count=1"])
    os.environ.pop("NPROC", None)  # XLA's threads: one a core
    if tpu:
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"
        os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-8"
        os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
        os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"


if __name__ == "__main__":
    set_environment("--tpu" in sys.argv)

sys.path.insert(0, str(Path(__file__).parents[2]))  # the folder of tests/

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from cascade_jax.losses import variants  # noqa: E402
from cascade_jax.unembedding import Unembedding  # noqa: E402
from tests.benchmarks import collectives, heads  # noqa: E402
from tests.benchmarks.heads import Head, Sizes  # noqa: E402

VARIANTS = {
    "Xent": variants.Xent(),
    "CAT-Xent": variants.CATXent(),
    "CAT-Dist": variants.CATDist(),
}
METRICS = ("none", "needed", "every")
GB = 1e9


########################################## Measurements ##########################################


def relative_difference(actual, expected) -> float:
    """Largest difference of two arrays over the largest value of the second one."""
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def paired_times(calls: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, the calls taking turns, every other time in the reverse order.

    A first turn is left out: memory that the process has not had before comes slowly.
    """
    times = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name in list(calls)[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(time.perf_counter() - start)
    return {name: result[1:] for name, result in times.items()}


############################################# On CPU #############################################


def data(sizes: Sizes) -> tuple:
    """(trained, fixed) of random numbers; of the labels a third is the student's most likely token,
    a third the teacher's."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    n, v = sizes.tokens, sizes.vocab
    models = []
    for features in (sizes.features, sizes.teacher_features):
        hidden, kernel = normal(n, features), normal(features, v) * features**-0.5
        models.append((hidden.astype(sizes.dtype), kernel.astype(sizes.dtype)))
    labels = rng.integers(0, v, n)
    for third, (hidden, kernel) in enumerate(models):
        rows = slice(third, None, 3)
        logits = Unembedding(kernel, dtype=sizes.dtype).logits(hidden[rows])
        labels[rows] = np.asarray(jnp.argmax(logits, axis=-1))
    return models[0], (*models[1], jnp.asarray(labels, jnp.int32), jnp.ones(n))


def cpu_rows(sizes: Sizes, names: list[str], repeats: int) -> list[dict]:
    """A row for each head of each variant."""
    rows = []
    trained, everything = data(sizes)
    for variant in names:
        loss = VARIANTS[variant]
        fixed = everything if loss.needs_teacher else (None, None, *everything[2:])
        steps, result, times, new = {}, {}, {}, []
        for head in heads.heads_of(loss, (heads.CCE, heads.TOKAMAX_XLA)):
            new.append({"variant": variant, "head": head.name})
            if missing(head):
                new[-1]["note"] = missing(head)
                continue
            say(f"{variant}, {head.name}: compiles and runs once")
            args = (trained[0], trained[1].T.copy() if head.by_token_id else trained[1]), fixed
            try:
                compiled = heads.compile_step(head, sizes, loss)
            except Exception as error:
                if not head.package:
                    raise
                new[-1]["note"] = refusal(error)
                continue
            new[-1]["temp_mb"] = compiled.memory_analysis().temp_size_in_bytes / 1e6
            (value, _), (d_hidden, d_kernel) = compiled(*args)
            result[head.name] = value, d_hidden, d_kernel.T if head.by_token_id else d_kernel
            steps[head.name] = functools.partial(compiled, *args)
        say(f"{variant}: {repeats} repetitions of {', '.join(steps)}")
        times = paired_times(steps, repeats)
        base, reference = times[heads.PLAIN.name], result[heads.PLAIN.name]
        for row in new:
            if row["head"] in times:
                own = times[row["head"]]
                ratios = [ours / plains for ours, plains in zip(own, base, strict=True)]
                median = statistics.median(own)
                row |= {
                    "times": own,
                    "seconds": median,
                    "ratio": median / statistics.median(base),
                    "ratio_min": min(ratios),
                    "ratio_max": max(ratios),
                    "loss_diff": relative_difference(result[row["head"]][0], reference[0]),
                    "gradient_diff": max(
                        map(relative_difference, result[row["head"]][1:], reference[1:])
                    ),
                }
        rows += new
    return rows


CPU_COLUMNS = {
    "variant": lambda row: row["variant"],
    "head": lambda row: row["head"],
    "time, s": lambda row: f"{row['seconds']:.3g}",
    "time / plain": lambda row: f"{row['ratio']:.2f}",
    "paired, least to most": lambda row: f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}",
    "temporary, MB": lambda row: f"{row['temp_mb']:,.4g}",
    "loss differs by": lambda row: f"{row['loss_diff']:.0e}",
    "gradients differ by": lambda row: f"{row['gradient_diff']:.0e}",
}


################################### For TPUs, without any ###################################


def tpu_rows(sizes: Sizes, names: list[str], chips: list[int]) -> list[dict]:
    """A row for each head of each variant, on 1 chip or 8 of them as 4 (data) x 2 (model)."""
    rows = []
    for count in chips:
        split = 4 if count == 8 else 1
        here = sizes if count == 8 else dataclasses.replace(sizes, tokens=sizes.tokens // 4)
        machine = f"{split} x {count // split}"
        for variant in names:
            for head in heads.heads_of(VARIANTS[variant], (heads.CCE, heads.TOKAMAX_MOSAIC)):
                vocab = here.vocab - here.vocab % head.vocab_multiple
                row = {"chips": machine, "variant": variant, "head": head.name, "vocab": vocab}
                rows.append(row)
                if note := missing(head, tpu=True):
                    row["note"] = note
                    continue
                say(f"{machine} chips, {variant}, {head.name}: compiles")
                try:
                    its = dataclasses.replace(here, vocab=vocab)
                    row |= tpu_row(head, its, VARIANTS[variant], tpu_mesh(count, split))
                except Exception as error:
                    # The compiler's refusal is what the table is to show; a bug of ours is not.
                    if not (head.package or isinstance(error, jax.errors.JaxRuntimeError)):
                        raise
                    row["note"] = refusal(error)
    return rows


def tpu_mesh(count: int, split: int) -> Mesh:
    """Described TPU v5e chips, `split` of them on the data axis."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    return Mesh(np.array(devices[:count]).reshape(split, -1), ("data", "tensor"))


def tpu_row(head: Head, sizes: Sizes, loss: variants.Loss, mesh: Mesh) -> dict:
    """Memory and collectives of one head, compiled for the mesh."""
    is_peer = head.package is not None
    tokens = PartitionSpec(("data", "tensor") if is_peer else "data")
    kernel = PartitionSpec("tensor") if head.by_token_id else PartitionSpec(None, "tensor")
    specs = (tokens, kernel), (tokens, PartitionSpec(None, "tensor"), tokens, tokens)
    trained, fixed = heads.shapes(sizes, loss, head)

    def place(array, spec):
        sharding = NamedSharding(mesh, spec)
        return array and jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    arguments = [tuple(map(place, *pair)) for pair in zip((trained, fixed), specs, strict=True)]
    everywhere = NamedSharding(mesh, PartitionSpec())
    outputs = (everywhere, everywhere), tuple(x.sharding for x in arguments[0])
    # On one chip there is nothing to split.
    mesh_or_none = mesh if mesh.size > 1 else None
    in_parts = sizes.microbatches > 1 and not is_peer
    make = functools.partial(heads.in_microbatches, head) if in_parts else head.make
    step = make(sizes, loss, mesh_or_none)
    # tokamax asks the default device which kernels it may use.
    chosen = jax.default_device(mesh.devices.flat[0]) if is_peer else contextlib.nullcontext()
    with chosen:
        compiled = jax.jit(step, out_shardings=outputs).lower(*arguments).compile()
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    matrix = sizes.features * sizes.vocab // mesh.shape["tensor"]
    outside, inside = collectives.kernel_reductions(hlo, matrix)
    return {
        "temp_gb": memory.temp_size_in_bytes / GB,
        "arguments_gb": memory.argument_size_in_bytes / GB,
        "outputs_gb": memory.output_size_in_bytes / GB,
        "outside": len(outside),
        "inside": len(inside),
        "reduced_as": sorted({result.dtype for result in outside + inside}),
        "largest_in_loop": max(
            (r.elements for r in collectives.reductions(hlo) if r.is_in_loop), default=0
        ),
    }


def refusal(error: Exception) -> str:
    """What the compiler says, in a few words."""
    text = str(error).strip()
    if "RESOURCE_EXHAUSTED" in text and len(sizes := re.findall(r"([\d.]+)G\b", text)) > 1:
        return f"does not fit: temporaries {sizes[0]} GiB of {sizes[1]}"
    return f"does not compile: {type(error).__name__}: {text.partition(chr(10))[0][:100]}"


TPU_COLUMNS = {
    "chips": lambda row: row["chips"],
    "variant": lambda row: row["variant"],
    "head": lambda row: row["head"],
    "V": lambda row: f"{row['vocab']:,}",
    "temporary, GB a chip": lambda row: f"{row['temp_gb']:.2f}",
    "arguments, GB": lambda row: f"{row['arguments_gb']:.2f}",
    "outputs, GB": lambda row: f"{row['outputs_gb']:.2f}",
    "gradient of the matrix reduced: outside / in a loop": lambda row: (
        f"{row['outside']} / {row['inside']}"
    ),
    "largest reduction in a loop, numbers": lambda row: f"{row['largest_in_loop']:,}",
}


########################################## The command ##########################################


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def missing(head: Head, tpu: bool = False) -> str | None:
    """What to say where a peer, or the TPU compiler, is not there."""
    packages = [("libtpu", "libtpu")] * tpu + [head.package] * bool(head.package)
    absent = [name for module, name in packages if not importlib.util.find_spec(module)]
    return f"not installed: pip install {' '.join(absent)}" if absent else None


def table(rows: list[dict], columns: dict[str, Callable]) -> str:
    """Markdown; what a row does not know is its note."""
    lines = [list(columns), ["---"] * len(columns)]
    for row in rows:
        cells, note = [], row.get("note", "")
        for show in columns.values():
            try:
                cells.append(show(row))
            except KeyError:
                cells.append(note)
                note = ""
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags; sizes by default as one CPU, or with --tpu eight chips, can bear."""
    flags = argparse.ArgumentParser(description="Compares the loss heads.")
    flags.add_argument("--tpu", action="store_true", help="compile for TPU v5e; nothing is timed")
    for name, text in {
        "tokens": "4096; 32768 with --tpu, of which one chip gets a quarter",
        "features": "width of the student's hidden states: 512; 2048",
        "teacher_features": "768; 3072",
        "vocab": "32128; 256128",
        "chunk_tokens": "of the fused head, on each device; by default what training takes",
        "repeats": "of each timing: 5",
        "microbatches": "with --tpu: parts that our heads take one after the other: 1",
    }.items():
        flags.add_argument("--" + name, type=_positive, metavar="N", help=text)
    flags.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32; bfloat16")
    flags.add_argument("--metrics", choices=METRICS, default="needed",
                       help="metrics beside the loss; the peers have none")  # fmt: skip
    flags.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    flags.add_argument("--chips", nargs="+", type=int, choices=(1, 8), default=[1, 8],
                       help="with --tpu")  # fmt: skip
    flags.add_argument("--json", action="store_true", help="print rows as JSON")
    args = flags.parse_args(argv)
    if args.tpu and args.tokens is not None and args.tokens % 8:
        flags.error(f"--tokens {args.tokens}: with --tpu a multiple of 8, the number of chips")
    if args.microbatches and not args.tpu:
        flags.error("--microbatches: only with --tpu")
    if args.microbatches and (args.tokens or 32768) % (8 * args.microbatches):
        flags.error(f"--microbatches {args.microbatches}: must divide an eighth of the tokens")
    if args.tpu and args.vocab is not None and args.vocab % 2:
        flags.error(f"--vocab {args.vocab}: with --tpu even; two chips split it")
    return args


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    args = parse(argv)
    sys.argv[1:] = []  # tokamax parses them too, and warns that it is not tuned
    logging.getLogger("absl").setLevel(logging.ERROR)
    fields = [field.name for field in dataclasses.fields(Sizes)]
    arguments = {name: value for name in fields if (value := getattr(args, name)) is not None}
    large = {"tokens": 32768, "features": 2048, "teacher_features": 3072, "vocab": 256128,
             "dtype": "bfloat16"} if args.tpu else {}  # fmt: skip
    sizes = Sizes(**large | arguments)
    # What a cache gives back may not know its memory.
    jax.config.update("jax_enable_compilation_cache", False)
    if args.tpu:
        rows, columns = tpu_rows(sizes, args.variants, args.chips), TPU_COLUMNS
    else:
        rows, columns = cpu_rows(sizes, args.variants, args.repeats or 5), CPU_COLUMNS
    if args.json:
        print(json.dumps({"sizes": dataclasses.asdict(sizes), "rows": rows}, indent=1))
        return
    print(", ".join(f"{name} {value}" for name, value in dataclasses.asdict(sizes).items()), "\n")
    print(table(rows, columns))


if __name__ == "__main__":
    main()
