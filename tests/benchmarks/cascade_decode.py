"""Times live decoding of two models against the large one alone, at several deferral rates.

    python tests/benchmarks/cascade_decode.py               # T5 1.1 base and a student of a tenth
    python tests/benchmarks/cascade_decode.py --batches 16 --rates 0.1

Parameters are fresh: time does not depend on what they say. What is unsure is drawn instead: the
student's logits are sharpened by a factor drawn for each row and place, so that deferrals are
spread as by chance, and thresholds are quantiles of the uncertainties in its own answers.
Inputs and answers are full. Rows of the table take turns within one process, so that a busy machine
slows all of them; a time is the median of its repetitions, and a ratio that of the medians.

"lock-step" calls the large model at each place at which any row defers. "Parameters read" counts
runs of both models by their sizes, against the large model's own runs, and a call as one run, as
it is in chunks of 256 tokens (`least_chunk` elsewhere than on a CPU). It decides where a run takes
as long as reading its parameters, as it does on accelerators up to a few hundred tokens. On a CPU
that is so for one answer at a time. With 16 at once the CPU computes, and time follows the FLOPs,
of which most are the large model's reading of inputs, which live decoding does not spare.

The exit status is 1 if, at a deferral rate of 0.1, one answer at a time takes more than 0.35 of the
large model's time, or if the FLOPs counted are not those of the calls one after the other. There is
no limit for 16 at once: the FLOPs of both models are 0.9 of the large one's own.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.pop("NPROC", None)  # XLA's threads: one a core

sys.path.insert(0, str(Path(__file__).parents[2]))  # the folder of tests/

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from cascade_jax.inference import generate  # noqa: E402
from cascade_jax.inference.cascade import (
    costs,  # noqa: E402
    decode,  # noqa: E402
)
from cascade_jax.inference.cascade.steppers import ModelStepper  # noqa: E402
from cascade_jax.models import families, flops  # noqa: E402
from cascade_jax.models.config import DecoderConfig, T5Config  # noqa: E402

T5_PAIR = (
    T5Config(
        vocab_size=32128, embed_dim=256, num_heads=4, head_dim=64, mlp_dim=512,
        num_encoder_layers=4, num_decoder_layers=4,
    ),
    T5Config(
        vocab_size=32128, embed_dim=768, num_heads=12, head_dim=64, mlp_dim=2048,
        num_encoder_layers=12, num_decoder_layers=12,
    ),
)  # fmt: skip
DECODER_PAIR = (
    DecoderConfig(
        vocab_size=32128, embed_dim=256, num_layers=6, num_heads=4, num_kv_heads=2, head_dim=64,
        mlp_dim=768,
    ),
    DecoderConfig(
        vocab_size=32128, embed_dim=1024, num_layers=14, num_heads=16, num_kv_heads=4, head_dim=64,
        mlp_dim=2816,
    ),
)  # fmt: skip
PAIRS = {"t5": T5_PAIR, "decoder": DECODER_PAIR}
LIMIT = 0.35  # of the large model's time: one answer at a time, a tenth deferred
HEAD = (
    "pair", "batch", "deferred", "large model alone, an answer", "live, an answer", "live / alone",
    "lock-step / alone", "calls", "calls in lock-step", "student's steps",
    "parameters read / alone", "large model's FLOPs / alone", "both models' FLOPs / alone",
    "computed / read tokens", "FLOPs as called",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Drawn(ModelStepper):
    """The student, as sure of each token as is drawn for its row and place."""

    def step(self, params, state, tokens, where, expected):
        logits, state = super().step(params, state, tokens, where, expected)
        sharpness = np.random.default_rng(0).uniform(1, 6, (len(where.starts), where.length))
        place = jnp.minimum(where.starts, where.length - 1)[:, None]
        factor = jnp.take_along_axis(jnp.asarray(sharpness, jnp.float32), place, axis=1)
        return logits * factor, state


def threshold_for(rate: float, result: decode.CascadeGeneration) -> float:
    """Above which a share of `rate` of the student's own answers' uncertainties lie."""
    if rate in (0, 1):
        return np.inf if rate == 0 else -np.inf
    return float(np.quantile(np.asarray(result.uncertainties), 1 - rate))


def deferral_rate(result: decode.CascadeGeneration) -> float:
    """Share of the tokens that the large model wrote."""
    return float(result.deferred.sum() / result.lengths.sum())


def called_flops(result: decode.CascadeGeneration, config, input_lengths: list[int]) -> int:
    """The large model's FLOPs, added up call by call and token by token."""
    total = 0
    logits = 2 * config.embed_dim * config.vocab_size
    for row, input_length in zip(np.asarray(result.is_deferred), input_lengths, strict=True):
        read = 0
        for place in np.flatnonzero(row).tolist():
            total += 0 if read else flops.prefill_flops(config, input_length)
            tokens = [flops.decode_flops(config, input_length, at) for at in range(read, place + 1)]
            total += sum(tokens) - logits * (len(tokens) - 1)
            read = place + 1
    return total


def timed(run) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started


def temporary(fn, *arguments) -> float:
    """MB that a program holds besides arguments and results, by the compiler; caches are in it."""
    memory = jax.jit(fn).lower(*arguments).compile().memory_analysis()
    return memory.temp_size_in_bytes / 1e6


def measure(pair: str, batch: int, options: argparse.Namespace) -> bool:
    """Prints the rows of a batch size; whether they are within the limits."""
    small, large = PAIRS[pair]
    models = [families.build(config) for config in (small, large)]
    sizes = [flops.parameters(config).total for config in (small, large)]
    params = [
        jax.jit(functools.partial(families.initialize, model))(jax.random.key(i))
        for i, model in enumerate(models)
    ]
    size = (batch, options.input_length)
    rng = np.random.default_rng(1)
    inputs = rng.integers(2, small.vocab_size, size).astype(np.int32)
    longest = options.input_length
    lengths = rng.integers(options.shortest or longest, longest + 1, batch)
    lengths[0] = longest
    inputs[np.arange(longest) >= lengths[:, None]] = 0
    lengths = lengths.tolist()
    never = small.vocab_size - 1  # no answer ends before it is full
    alone_fn = generate.make_generate_fn(models[1], options.length, never)
    student = Drawn(models[0])
    live, locked = (
        decode.make_cascade_decode_fn(
            student, models[1], options.length, never, waiting_share=share
        )
        for share in (options.waiting_share, 0.0)
    )
    alone = functools.partial(alone_fn, params[1], inputs)
    jax.block_until_ready(alone())
    own = live(*params, inputs, np.inf)
    held = temporary(alone_fn, params[1], inputs), temporary(live, *params, inputs, np.float32(1))
    print(
        f"{pair}, batch {batch}: temporary memory {held[0]:.0f} MB alone, {held[1]:.0f} MB live\n"
    )
    print("| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD), flush=True)
    is_good = True
    for rate in options.rates:
        limit = threshold_for(rate, own)
        runs = {
            "alone": alone,
            "live": functools.partial(live, *params, inputs, limit),
            "lock-step": functools.partial(locked, *params, inputs, limit),
        }
        actual, in_step = (jax.block_until_ready(runs[name]()) for name in ("live", "lock-step"))
        times = {name: [] for name in runs}
        for _ in range(options.repeats):
            for name, run in runs.items():
                times[name].append(timed(run))
        seconds = {name: statistics.median(each) for name, each in times.items()}
        ratios = {name: seconds[name] / seconds["alone"] for name in ("live", "lock-step")}
        spent = costs.cascade_flops(actual, small, large, lengths)
        expected = called_flops(actual, large, lengths)
        whole = sum(flops.answer_flops(large, length, options.length) for length in lengths)
        is_same = spent.teacher.sum() == expected
        runs_read = int(actual.calls) * sizes[1] + int(actual.student_steps) * sizes[0]
        parameters_read = runs_read / (options.length * sizes[1])
        if rate == 0.1 and batch == 1:
            is_good &= ratios["live"] <= LIMIT
        is_good &= bool(is_same)
        columns = [
            pair, batch, f"{deferral_rate(actual):.2f}", f"{seconds['alone'] / batch:.3f} s",
            f"{seconds['live'] / batch:.3f} s", f"{ratios['live']:.2f}",
            f"{ratios['lock-step']:.2f}", int(actual.calls), int(in_step.calls),
            int(actual.student_steps), f"{parameters_read:.2f}",
            f"{spent.teacher.sum() / whole:.2f}",
            f"{(spent.teacher.sum() + spent.student.sum()) / whole:.2f}",
            f"{int(actual.computed_tokens) / max(int(actual.teacher_tokens.sum()), 1):.2f}",
            "yes" if is_same else "NO",
        ]  # fmt: skip
        print("| " + " | ".join(map(str, columns)) + " |", flush=True)
    return is_good


def main() -> int:
    """Prints the table; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", default=["t5"], choices=PAIRS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rates", nargs="+", type=float, default=[0, 0.05, 0.1, 0.2, 0.5, 1])
    parser.add_argument("--input_length", type=int, default=128)
    parser.add_argument("--shortest", type=int, help="input lengths are drawn from it upwards")
    parser.add_argument("--length", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--waiting_share", type=float, default=0.75)
    options = parser.parse_args()
    for pair in options.pairs:
        counts = [flops.parameters(config).total / 1e6 for config in PAIRS[pair]]
        print(f"{pair}: {counts[0]:.0f} M parameters and {counts[1]:.0f} M")
    good = [measure(pair, batch, options) for pair in options.pairs for batch in options.batches]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
