"""Meshes and shardings: sizes that don't fit are refused with names and numbers."""

import jax
import numpy as np
import pytest

from cascade_jax import axes
from cascade_jax.models import families
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from tests.support import fakes

pytestmark = pytest.mark.medium


@pytest.mark.parametrize(
    "config, sizes",
    [
        (MeshConfig(-1, 1, 2), (1, 4, 1, 2)),
        (MeshConfig(2, -1, 2), (1, 2, 2, 2)),
        (MeshConfig(1, 2, -1), (1, 1, 2, 4)),
        (MeshConfig(-1, 2, dcn_data=2), (2, 2, 2, 1)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(config, sizes):
    mesh = config.build()
    assert mesh.axis_names == ("dcn_data", "data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == sizes


def test_slices_are_the_outermost_axis():
    mesh = MeshConfig(2, 2, dcn_data=2).build()
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    assert ids[0].max() < ids[1].min()


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(data=3, tensor=2), r"data=3, fsdp=1, tensor=2\) does not divide the 8 devices.* 6"),
        (dict(data=16), "does not divide the 8 devices there are; it needs 16"),
        (dict(fsdp=3), "8 must be a multiple of dcn_data .* fsdp .* tensor, which is 3"),
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**sizes).build()


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(tensor=0), "tensor must be an integer of at least 1"),
        (dict(fsdp=2.0), "fsdp must be an integer"),
        (dict(dcn_data=-1), "dcn_data must be an integer of at least 1$"),
        (dict(data=-1, fsdp=-1), "only one of data, fsdp and tensor can be -1"),
    ],
)
def test_sizes_that_make_no_mesh_are_refused_when_built(sizes, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**sizes)


@pytest.mark.parametrize(
    "sizes, table, size, message",
    [
        ((8, 1, 1), "tensor", 12, r"12 does not divide by the 8 shards .*\(data 8\)"),
        ((2, 4, 1), "fsdp_tensor", 12, r"by the 8 shards .*\(data 2, fsdp 4\).* multiples of 8"),
        ((2, 2, 2), "replicated", 4, r"4 does not divide by the 8 shards .*tensor 2\)"),
        ((2, 2, 2), "fsdp", 4, r"4 does not divide by the 8 shards .*tensor 2\)"),
    ],
)
def test_a_batch_that_the_mesh_does_not_divide_is_refused(sizes, table, size, message):
    mesh = MeshConfig(*sizes).build()
    rules.check_batch_size("batch_size", 8, mesh, table)
    with pytest.raises(ValueError, match=message):
        rules.check_batch_size("batch_size", size, mesh, "tensor", table)


def test_rows_need_not_divide_by_the_tensor_axis_where_no_model_wants_it():
    mesh = MeshConfig(2, 2, 2).build()
    rules.check_batch_size("batch_size", 4, mesh, "tensor", "fsdp_tensor")


@pytest.mark.parametrize(
    "sizes, changes, message",
    [
        ((1, 1, 8), dict(mlp_dim=12), r"decoder/layers_0/mlp/wi_0/kernel .*'mlp' of size 12"),
        ((1, 8, 1), dict(embed_dim=12), r"parameter decoder/.*'embed' of size 12 .*8 .*'fsdp'"),
    ],
)
def test_a_parameter_that_a_mesh_axis_does_not_divide_is_named(sizes, changes, message):
    boxes = families.parameter_shapes(fakes.t5_config(**changes))
    with pytest.raises(ValueError, match=message):
        rules.parameter_shardings(boxes, MeshConfig(*sizes).build())


def test_two_axes_of_a_parameter_on_one_mesh_axis_are_refused():
    boxes = families.parameter_shapes(fakes.t5_config())
    table = [(axes.BATCH, ("data", "fsdp")), (axes.EMBED, "tensor"), (axes.MLP, "tensor")]
    message = r"mlp/w.*'(mlp|embed)' and its axis '(mlp|embed)' are both .*mesh axis 'tensor'"
    with pytest.raises(ValueError, match=message):
        rules.parameter_shardings(boxes, MeshConfig(4, 1, 2).build(), table)


@pytest.mark.parametrize(
    "table, message",
    [
        ("fdsp", "sharding rules is 'fdsp'; must be one of .*did you mean 'fsdp'"),
        ([("embd", "fsdp")], "a logical axis .* is 'embd'; must be one of .*did you mean 'embed'"),
        ([("embed", "fdsp")], "a mesh axis of 'embed' .* is 'fdsp'; .*did you mean 'fsdp'"),
        ([("embed", "fsdp"), ("embed", None)], "'embed' is there twice"),
        ([("embed",)], "pairs of a logical axis and a mesh axis"),
    ],
)
def test_rules_that_name_nothing_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        rules.table(table)


def specs(table, sizes=(2, 2, 2), **changes):
    boxes = families.parameter_shapes(fakes.t5_config(**changes))
    shardings = rules.parameter_shardings(boxes, MeshConfig(*sizes).build(), table)
    return {
        "/".join(key.key for key in path): tuple(sharding.spec)
        for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)
    }


@pytest.mark.parametrize("table", rules.TABLES)
def test_each_table_splits_what_its_name_says(table):
    result = specs(table)
    over = {axis for spec in result.values() for axis in spec} - {None}
    assert over == set(table.split("_")) & {"fsdp", "tensor"}
    assert not any("norm" in name and any(spec) for name, spec in result.items())


def test_heads_mlp_and_vocabulary_are_split_over_tensor_and_the_embedding_over_fsdp():
    actual = specs("fsdp_tensor", scan_layers=True)
    assert actual["token_embedder/embedding"] == ("tensor", "fsdp")
    assert actual["decoder/logits_dense/kernel"] == ("fsdp", "tensor")
    assert actual["encoder/layers/mlp/wo/kernel"] == (None, "tensor", "fsdp")
    assert actual["decoder/layers/self_attention/out/kernel"] == (None, "tensor", "fsdp")
    assert actual["encoder/relpos_bias/rel_embedding"] == ("tensor", None)
