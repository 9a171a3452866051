"""Training from a teacher cache and beside the teacher: step time, memory, bytes, differences.

    python tests/benchmarks/teacher_cache.py                 # T5 1.1 small under base, cut in depth
    python tests/benchmarks/teacher_cache.py --vocab 8192 --layers 1 --parts steps   # quicker

Steps of CAT-Xent and CAT-Dist on random tokens, all rows in turn within one process so that a busy
machine slows all of them; a time is the median. Memory is the compiler's: arguments and
temporaries. Looking up is timed by itself, on a cache of as many examples as --examples. Bytes a
token are those of the files. The last table is the soft term of CAT-Dist (label_weight=0) with k of
the teacher's tokens against the whole distribution, and the angle between both gradients, for a
teacher whose logits are as sharp as --sharpness says.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"

sys.path.insert(0, str(Path(__file__).parents[2]))  # the folder of tests/

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from cascade_jax.losses import teachers, variants  # noqa: E402
from cascade_jax.models import families  # noqa: E402
from cascade_jax.models.config import T5Config  # noqa: E402
from cascade_jax.parallel.mesh import MeshConfig  # noqa: E402
from cascade_jax.runs import state as state_lib  # noqa: E402
from cascade_jax.teacher_cache import batches  # noqa: E402
from cascade_jax.teacher_cache import shards as shards_lib  # noqa: E402
from cascade_jax.teacher_cache.format import FLOORS, Holding, TokenFacts  # noqa: E402
from cascade_jax.training import step as step_lib  # noqa: E402
from cascade_jax.training.optimizers import Adafactor  # noqa: E402
from tests.benchmarks import step_timing  # noqa: E402

K = 64


def models(args) -> tuple[T5Config, T5Config]:
    """T5 1.1 small and base with fewer layers."""
    depth = dict(num_encoder_layers=args.layers, num_decoder_layers=args.layers)
    shared = dict(vocab_size=args.vocab, head_dim=64, **depth)
    small = T5Config(embed_dim=512, num_heads=6, mlp_dim=1024, **shared)
    return small, T5Config(embed_dim=768, num_heads=12, mlp_dim=2048, **shared)


def facts_like(args, k: int):
    """Facts of a batch, of the shapes that a cache gives."""
    rng, shape = np.random.default_rng(1), (args.rows, args.target)
    is_right = rng.random(shape) < 0.5
    if not k:
        return teachers.TeacherArgmax(is_right)
    ids = np.argsort(rng.random((*shape, 2 * k)), axis=-1)[..., :k].astype(np.uint16)
    log_probs = np.log(np.full((*shape, k), 0.9 / k, np.float32))
    return teachers.TeacherTopK(log_probs, ids, is_right, np.full(shape, np.log(0.1), np.float32))


# ------------------------------------------------------------------ steps


def steps(args) -> None:
    mesh = MeshConfig().build(jax.devices()[:1])
    small, base = models(args)
    student, teacher = families.build(small), families.build(base)
    frozen = state_lib.in_compute_dtype(teacher, families.initialize(teacher, jax.random.key(1)))
    batch = step_timing.make_batch(args.vocab, args.rows, args.input, args.target)
    batch, optimizer = jax.device_put(batch), Adafactor(learning_rate=1e-3)
    rows = {}
    for loss, k in ((variants.CATXent(), 0), (variants.CATDist(), K)):
        for is_cached in (False, True):
            name = f"{type(loss).__name__}, {'cache' if is_cached else 'teacher'}"
            abstract = state_lib.abstract_state(student, optimizer.build(), mesh)
            loss_fn = step_lib.make_loss_fn(
                student, None if is_cached else teacher, loss, mesh=mesh
            )
            step = step_lib.make_train_step(
                loss_fn,
                optimizer.build(),
                optimizer.learning_rate_schedule(),
                jax.tree.map(lambda leaf: leaf.sharding, abstract),
                mesh,
            )
            arguments = (
                batches.CachedTeacherBatch(batch, facts_like(args, k)) if is_cached else batch
            )
            held = None if is_cached else frozen
            with jax.set_mesh(mesh):
                compiled = step.jitted.lower(abstract, held, arguments, jax.random.key(0)).compile()
            state = state_lib.initialize(student, optimizer.build(), jax.random.key(0), abstract)
            rows[name] = [compiled, state, held, arguments, []]
    for _ in range(args.repetitions + 1):
        for row in rows.values():
            start = time.perf_counter()
            with jax.set_mesh(mesh):
                row[1], _ = row[0](row[1], row[2], row[3], jax.random.key(0))
            jax.block_until_ready(row[1])
            row[4].append(time.perf_counter() - start)
    print("\n| step | seconds | of the teacher's | arguments MB | temporaries MB | peak of it |")
    print("|---|---|---|---|---|---|")
    for name, (compiled, *_, times) in rows.items():
        memory, seconds = compiled.memory_analysis(), statistics.median(times[1:])
        live = rows[name.replace("cache", "teacher")]
        before, theirs = live[0].memory_analysis(), statistics.median(live[4][1:])
        total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        share = total / (before.argument_size_in_bytes + before.temp_size_in_bytes)
        print(
            f"| {name} | {seconds:.2f} | {seconds / theirs:.2f} | "
            f"{memory.argument_size_in_bytes / 1e6:.0f} | {memory.temp_size_in_bytes / 1e6:.0f} | "
            f"{share:.2f} |"
        )


# ------------------------------------------------------------------ files


def random_facts(rng, holding: Holding, tokens: int) -> TokenFacts:
    """Facts that compress as those of a teacher: ids anywhere, log-probs falling."""
    k = holding.top_k
    ids = rng.integers(0, holding.vocab_size, (tokens, k)) if k else None
    log_probs = -np.cumsum(rng.exponential(0.3, (tokens, k)), axis=-1).astype(np.float32)
    return TokenFacts(
        rng.random(tokens) < 0.5,
        -rng.exponential(1.0, tokens).astype(np.float32),
        ids,
        log_probs if k else None,
        log_probs[:, -1] if k else None,
    )


def files(args) -> None:
    print(
        f"\n{args.examples:,} examples of {args.target} target tokens; {args.rows} rows a batch\n"
    )
    print("| kept | bytes a token | of them keys | look up a batch, ms | write, tokens/s |")
    print("|---|---|---|---|---|")
    kinds = {"the bit": dict(label_log_probs=False), "bit, label": {}}
    for dtype in FLOORS:
        kinds[f"bit, label, k = {K}, {dtype}"] = dict(top_k=K, dtype=dtype)
    for name, settings in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            files_row(args, name, Holding(args.vocab, **settings), Path(folder))


def files_row(args, name: str, holding: Holding, folder: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [rng.bytes(16) for _ in range(args.examples)]
    some = [random_facts(rng, holding, args.target) for _ in range(64)]
    start = time.perf_counter()
    shard = shards_lib.Shard("train", 0, 0, 1)
    with shards_lib.ShardWriter(folder, shard, holding, "") as writer:
        for number, key in enumerate(keys):
            facts = some[number % 64]
            writer.add(key, facts, facts.label_log_probs)
    seconds = time.perf_counter() - start
    result = shards_lib.shards_in(folder, "")
    sizes = {name: facts["bytes"] for name, facts in result.items()}
    complete = {"shards": sizes, "splits": {}}
    (folder / "complete.json").write_text(json.dumps(complete))
    reader = shards_lib.CacheReader(folder, holding, "", "")
    times = []
    for _ in range(20):
        expected = [keys[i] for i in rng.integers(0, len(keys), args.rows)]
        start = time.perf_counter()
        values = [v.log_probs for v in reader.find(expected)]
        if holding.top_k:
            holding.unrounded(np.concatenate(values))
        times.append(time.perf_counter() - start)
    tokens = args.examples * args.target
    (facts,) = result.values()
    print(
        f"| {name} | {(facts['bytes'] + facts['index_bytes']) / tokens:.2f} | "
        f"{facts['index_bytes'] / tokens:.2f} | {1e3 * statistics.median(times):.1f} | "
        f"{tokens / seconds:,.0f} |"
    )


# ------------------------------------------------------------------ differences


def differences(args) -> None:
    rng, tokens, vocab = np.random.default_rng(0), 64, args.vocab
    print(
        "\n| teacher's logits | kept | mass of the k | CAT-Dist loss off by | cosine of gradients |"
    )
    print("|---|---|---|---|---|")
    for sharpness in args.sharpness:
        theirs = jnp.asarray(sharpness * rng.normal(size=(tokens, vocab)), jnp.float32)
        ours = 0.7 * theirs + jnp.asarray(rng.normal(size=(tokens, vocab)), jnp.float32)
        targets = jnp.argmax(theirs, axis=-1)
        weights = jnp.ones(tokens)
        log_p = jax.nn.log_softmax(theirs)

        def run(teacher, ours=ours, targets=targets, weights=weights):
            def value(z):
                result = variants.CATDist(label_weight=0.0)(z, teacher, targets, weights)
                return result.loss_sum / result.count

            return jax.value_and_grad(value)(ours)

        whole, gradient = run(theirs)
        for k, dtype in ((vocab, "float32"), (K, "float32"), (K, "uint16"), (K, "uint8")):
            holding = Holding(vocab, k, dtype)
            top, ids = jax.lax.top_k(log_p, k)
            tail = jnp.log(jnp.maximum(1 - jnp.exp(top).sum(-1), 1e-20))
            facts = TokenFacts(
                np.ones(tokens, bool), np.asarray(top[:, 0]), *map(np.asarray, (ids, top, tail))
            )
            read = holding.decode(holding.encode(facts), tokens)
            read = dataclasses.replace(
                read,
                log_probs=holding.unrounded(read.log_probs),
                log_tail=None if read.log_tail is None else holding.unrounded(read.log_tail),
            )
            teacher = teachers.TeacherTopK(
                read.log_probs, read.ids, jnp.asarray(read.label_is_best), read.log_tail
            )
            loss, other = run(jax.tree.map(jnp.asarray, teacher))
            cosine = jnp.vdot(gradient, other) / (
                jnp.linalg.norm(gradient) * jnp.linalg.norm(other)
            )
            mass = float(jnp.exp(top).sum(-1).mean())
            label = "all" if k == vocab else f"k = {k}, {dtype}"
            print(
                f"| {sharpness:g} x normal | {label} | {mass:.3f} | "
                f"{abs(float(loss / whole) - 1):.1e} | {float(cosine):.6f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vocab", type=int, default=32128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--target", type=int, default=32)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--sharpness", type=float, nargs="*", default=[1.0, 3.0, 6.0])
    parts = {"files": files, "differences": differences, "steps": steps}
    parser.add_argument("--parts", nargs="*", choices=parts, default=list(parts))
    args = parser.parse_args()
    for part in args.parts:
        parts[part](args)


if __name__ == "__main__":
    main()
