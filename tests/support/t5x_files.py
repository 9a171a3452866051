"""Parameters for T5X checkpoints, comparing them, and checkpoints in T5X's newer format."""

import functools

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cascade_jax.models import families


def flat(tree):
    return flatten_dict(tree, sep="/")


def assert_same(actual, expected):
    """Bitwise, names and dtypes included."""
    actual, expected = flat(actual), flat(expected)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


parameter_shapes = functools.cache(families.parameter_shapes)


def random_parameters(config):
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, nn.meta.unbox(parameter_shapes(config)))


def write_orbax(folder, step, params, statistics):
    """A checkpoint as `t5x.train` writes it, by Orbax itself."""
    state = {"step": np.int32(step), "param_states": statistics}
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder / "state", ocp.args.PyTreeSave({"target": params, "state": state}))
