"""What digests cost of saving and loading a checkpoint on this machine's CPU, in CPU time.

    python tests/benchmarks/checkpoints.py               # T5 1.1 base under a 32,128 vocabulary

Each save and each load is done once as it is, and the share is the CPU time within the digests of
that of all else. Compiled programs are dropped before each load, as a new process has none.
Parameters are random, and Adafactor's statistics beside them. A minute and 4 GB.
"""

import argparse
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
import numpy as np  # noqa: E402

from cascade_jax.models import families  # noqa: E402
from cascade_jax.parallel.mesh import MeshConfig  # noqa: E402
from cascade_jax.runs import checkpoints, digests, state  # noqa: E402
from cascade_jax.training.optimizers import Adafactor  # noqa: E402
from tests.benchmarks.train_step import BASE, SMALL  # noqa: E402

CONFIG = {"steps": 9, "model": {}, "vocabulary_fingerprint": ""}


def random_state(config) -> state.TrainState:
    """Random numbers in the shapes of a run's state; nothing is compiled."""
    optimizer = Adafactor(learning_rate=1e-3).build()
    shapes = state.abstract_state(families.build(config), optimizer, MeshConfig().build())
    rng = np.random.default_rng(0)

    def make(leaf):
        numbers = rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        return jax.device_put(numbers, leaf.sharding)

    return jax.tree.map(make, shapes)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("small", "base"), default="base")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args(arguments)
    train_state = random_state({"small": SMALL, "base": BASE}[options.size])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), train_state.params
    )
    by_name, spent = digests.by_name, [0.0]

    def timed(*args, **kwargs):
        start = time.process_time()
        result = by_name(*args, **kwargs)
        spent[0] += time.process_time() - start
        return result

    digests.by_name = timed
    rows = {"save a training checkpoint": [], "load parameters": [], "import's checkpoint": []}

    def measure(what: str, action) -> None:
        spent[0], start = 0.0, time.process_time()
        action()
        rest = time.process_time() - start - spent[0]
        rows[what].append((spent[0], rest))

    for step in range(1, options.repetitions + 1):
        with tempfile.TemporaryDirectory() as folder:
            store = checkpoints.CheckpointStore(folder)

            def save(store=store, step=step):
                store.save(step, train_state, b"position", CONFIG, {})
                store.wait()

            def load(folder=folder, step=step):
                checkpoints.load_parameters(folder, step, abstract)

            measure("save a training checkpoint", save)
            jax.clear_caches()
            measure("load parameters", load)
            store.close()
        with tempfile.TemporaryDirectory() as folder:

            def write(folder=folder):
                checkpoints.save_parameters(folder, train_state.params, CONFIG)

            measure("import's checkpoint", write)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(train_state)) / 1e9
    print(f"T5 1.1 {options.size}, {size:.2f} GB, medians of {options.repetitions}, CPU seconds")
    print("| what | all but digests | digests | share |\n| --- | --- | --- | --- |")
    for what, times in rows.items():
        own, rest = (statistics.median(column) for column in zip(*times, strict=True))
        share = statistics.median(a / b for a, b in times)
        print(f"| {what} | {rest:.2f} | {own:.3f} | {100 * share:.1f} % |")


if __name__ == "__main__":
    main()
