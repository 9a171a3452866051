"""Meshes and shardings: sizes that don't fit are refused with names and numbers."""

import jax
import pytest

from cascade_jax.models import t5
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from tests import fakes


def test_minus_one_takes_the_devices_that_are_left():
    assert dict(MeshConfig(-1, 2).build().shape) == {"data": 4, "model": 2}


def test_a_mesh_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(ValueError, match=r"data=3, model=2\) does not divide the 8 devices"):
        MeshConfig(3, 2).build()
    with pytest.raises(ValueError, match="model must be at least 1"):
        MeshConfig(1, 0)


def test_a_batch_that_the_data_axis_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size 12 does not divide by the 8 shards"):
        rules.check_batch_size("batch_size", 12, MeshConfig(8, 1).build())


def test_a_parameter_that_the_model_axis_does_not_divide_is_named():
    boxes = t5.parameter_shapes(fakes.t5_config(mlp_dim=12))
    with pytest.raises(ValueError, match=r"decoder/layers_0/mlp/wi_0/kernel .*'mlp' of size 12"):
        rules.parameter_shardings(boxes, MeshConfig(1, 8).build())


def test_mlp_heads_and_vocabulary_are_split_over_the_model_axis():
    boxes = t5.parameter_shapes(fakes.t5_config())
    shardings = rules.parameter_shardings(boxes, MeshConfig(4, 2).build())
    split = {
        "/".join(key.key for key in path)
        for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)
        if "model" in sharding.spec
    }
    assert {"token_embedder/embedding", "decoder/logits_dense/kernel"} <= split
    assert {"encoder/layers_0/mlp/wo/kernel", "decoder/layers_0/self_attention/out/kernel"} <= split
    assert not any("norm" in name for name in split)
