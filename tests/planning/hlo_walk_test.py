"""FLOPs, bytes and collectives of compiled programs, against what the program was written to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.planning import hlo_text, hlo_walk, liveness, replica_groups

ONE = {"dcn_data": 1, "data": 1, "fsdp": 1, "tensor": 1}


def walk(fn, *arguments, mesh=ONE, longest_loop=None, **settings):
    text = jax.jit(fn, **settings).lower(*arguments).compile().as_text()
    return hlo_walk.walk(hlo_text.parse(text), mesh, longest_loop)


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


@pytest.mark.parametrize(
    "equation, left, right, expected",
    [
        ("ij,jk->ik", (16, 32), (32, 8), 2 * 16 * 32 * 8),
        ("bij,bjk->bik", (4, 16, 32), (4, 32, 8), 2 * 4 * 16 * 32 * 8),
        ("bqhk,bhkt->bhqt", (2, 16, 4, 8), (2, 4, 8, 16), 2 * 2 * 4 * 16 * 16 * 8),
    ],
)
def test_matmuls(equation, left, right, expected):
    actual = walk(lambda a, b: jnp.einsum(equation, a, b), shape(*left), shape(*right))
    assert actual.flops == expected


def test_a_loop_counts_as_often_as_it_runs():
    def looped(x):
        return jax.lax.fori_loop(3, 20, lambda _, y: jnp.tanh(y @ y), x)

    def nested(x):
        def outer(y, _):
            return jax.lax.fori_loop(0, 5, lambda _, z: jnp.tanh(z @ z), y), None

        return jax.lax.scan(outer, x, None, length=7)[0]

    one = 2 * 16**3
    assert walk(looped, shape(16, 16)).flops == 17 * one
    assert walk(nested, shape(16, 16)).flops == 35 * one


def test_a_loop_whose_length_the_data_sets_takes_what_the_code_says_of_it():
    def looped(x, count):
        with jax.named_scope("at_most_12"):
            return jax.lax.fori_loop(0, count, lambda _, y: jnp.tanh(y @ y), x)

    def silent(x, count):
        return jax.lax.fori_loop(0, count, lambda _, y: jnp.tanh(y @ y), x)

    arguments, one = (shape(16, 16), shape(dtype=jnp.int32)), 2 * 16**3
    assert walk(looped, *arguments).flops == 12 * one
    assert walk(silent, *arguments, longest_loop=9).flops == 9 * one
    unknown = walk(silent, *arguments)
    assert unknown.flops == one and len(unknown.unknown_loops) == 1


def test_the_costlier_branch_counts():
    def branched(x, which):
        return jax.lax.cond(which, lambda y: jnp.tanh(y @ y @ y), lambda y: y + 1, x)

    assert walk(branched, shape(16, 16), shape(dtype=bool)).flops == 4 * 16**3


def test_bytes_are_those_of_operands_and_results():
    actual = walk(lambda a, b: a @ b, shape(64, 64), shape(64, 64))
    assert actual.bytes == 3 * 64 * 64 * 4


def test_of_a_stack_a_loop_reads_one_layer_at_a_time():
    def layers(x, stack):
        return jax.lax.scan(lambda y, kernel: (jnp.tanh(y @ kernel), None), x, stack)[0]

    result = walk(layers, shape(4, 64), shape(50, 64, 64))
    stack = 50 * 64 * 64 * 4
    assert stack <= result.bytes < 5 * stack  # and not fifty times the stack


MESH = dict(zip(("dcn_data", "data", "fsdp", "tensor"), (1, 2, 2, 2), strict=True))


@pytest.mark.parametrize("axes", [("data",), ("fsdp",), ("tensor",), ("data", "tensor")], ids=str)
def test_collectives_have_their_axes_and_bytes(axes):
    mesh = MeshConfig(2, 2, 2).build()
    size = 2 ** len(axes)

    def exchange(x):
        return jax.lax.psum(x, axes), jax.lax.all_gather(x, axes)

    spec = PartitionSpec(axes)
    local = (16, 24)
    outs = spec, PartitionSpec()
    fn = jax.shard_map(exchange, mesh=mesh, in_specs=spec, out_specs=outs, check_vma=False)
    x = jax.ShapeDtypeStruct(
        (local[0] * size, local[1]), jnp.float32, sharding=NamedSharding(mesh, spec)
    )
    actual = {each.kind: each for each in walk(fn, x, mesh=MESH).exchanges()}
    assert {each.axes for each in actual.values()} == {axes}
    here = np.prod(local) * 4
    assert actual["all-reduce"].bytes == pytest.approx(2 * here * (size - 1) / size)
    assert actual["all-gather"].bytes == pytest.approx(here * (size - 1))


@pytest.mark.parametrize(
    "written, axes",
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
        ("replica_groups=[4,2]<=[8]", ("tensor",)),
        ("replica_groups=[4,2]<=[4,2]T(1,0)", ("fsdp",)),  # 0 and 2, 4 and 6, ...
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", ("data", "tensor")),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", ("data", "fsdp")),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ("data", "tensor")),
        ("source_target_pairs={{0,0},{1,3},{2,0}}", ("fsdp",)),
    ],
)
def test_every_way_to_write_groups(written, axes):
    assert replica_groups.axes_of(replica_groups.group(written), MESH) == axes


CONVOLUTION = """\
HloModule m

ENTRY %main (a: f32[COUNT,16,32], b: f32[COUNT,32,8]) -> f32[COUNT,16,8] {
  %a = f32[COUNT,16,32]{2,1,0:T(8,128)} parameter(0)
  %b = f32[COUNT,32,8]{2,1,0:T(8,128)S(1)} parameter(1)
  ROOT %c = f32[COUNT,16,8]{2,1,0:T(8,128)} convolution(%a, %b), window={size=COUNT stride=STEP pad=0_0 lhs_dilate=COUNT}, dim_labels=0bf_0io->0bf
}
"""  # noqa: E501


@pytest.mark.parametrize("count", [4, 8192])  # rows times heads of a chip may be thousands
def test_a_batched_matmul_as_a_tpu_writes_it_counts_each_batch_once(count):
    text = CONVOLUTION.replace("COUNT", str(count)).replace("STEP", str(count - 1))
    actual = hlo_walk.walk(hlo_text.parse(text), ONE)
    assert actual.flops == count * 2 * 16 * 32 * 8
    assert actual.bytes == count * 4 * (16 * 32 + 16 * 8)  # b lies on the core


# As the TPU compiler writes them: an exchange that goes on beside a fusion, a slice fetched ahead
# onto the core, an array brought back from it, room for an array, and a Pallas kernel.
MOVES = """\
%async_collective_fusion.1 (p0: bf16[4,64], p1: bf16[16,64], p2: f32[32,32]) -> (f32[32,32], bf16[4,64], bf16[16,64]) {
  %p0 = bf16[4,64] parameter(0)
  %p1 = bf16[16,64] parameter(1)
  %p2 = f32[32,32] parameter(2)
  %exp = f32[32,32] exponential(%p2)
  %gathered = bf16[16,64] all-gather(%p0), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %t = (f32[32,32], bf16[4,64], bf16[16,64]) tuple(%exp, %p0, %gathered)
}

ENTRY %main (a: bf16[4,64], b: bf16[16,64], c: f32[32,32], d: f32[8,128]) -> f32[32,32] {
  %a = bf16[4,64] parameter(0)
  %b = bf16[16,64] parameter(1)
  %c = f32[32,32] parameter(2)
  %d = f32[8,128] parameter(3)
  %step = (f32[32,32], bf16[4,64], bf16[16,64]) fusion(%a, %b, %c), kind=kLoop, output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {})}, calls=%async_collective_fusion.1
  %ahead = ((f32[8,128]{1,0}), f32[2,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%d), slice={[0:2], [0:128]}
  %fetched = f32[2,128]{1,0:S(1)} slice-done(%ahead)
  %back = (f32[2,128]{1,0}, f32[2,128]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%fetched)
  %room = f32[512,512] custom-call(), custom_call_target="AllocateBuffer"
  ROOT %kernel = f32[32,32] custom-call(%c), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"x","cost_estimate":{"flops":"1234","transcendentals":"5","bytes_accessed":"6"}}}
}
"""  # noqa: E501


def test_what_passes_through_or_is_set_aside_moves_no_bytes_and_kernels_say_their_flops():
    actual = hlo_walk.walk(hlo_text.parse(MOVES), ONE | {"fsdp": 4})
    fusion, ahead, back, kernel = 2 * 4096, 1024, 1024, 2 * 4096
    assert actual.bytes == fusion + ahead + back + kernel
    assert actual.flops == 1234
    assert actual.collectives["all-gather", ("fsdp",)] == [1, 16 * 64 * 2 * 3 / 4]


@pytest.mark.parametrize("seed", range(40))
def test_a_convolution_counts_where_a_window_meets_the_input(seed):
    rng = np.random.default_rng(seed)
    size, kernel, out, stride, spread, reach = rng.integers(1, [9, 9, 9, 5, 5, 4]).tolist()
    low = int(rng.integers(-4, 9))
    text = (
        "ENTRY %m (a: f32[1,S,1], b: f32[K,1,1]) -> f32[1,O,1] {\n"
        f"  %a = f32[1,{size},1] parameter(0)\n  %b = f32[{kernel},1,1] parameter(1)\n"
        f"  ROOT %c = f32[1,{out},1] convolution(%a, %b), window={{size={kernel} stride={stride} "
        f"pad={low}_0 lhs_dilate={spread} rhs_dilate={reach}}}, dim_labels=b0f_0io->b0f\n}}\n"
    )
    spread_input = np.zeros(size * spread + 100)
    spread_input[50 : 50 + size * spread : spread] = 1
    met = sum(
        spread_input[50 + o * stride + k * reach - low]
        for o in range(out)
        for k in range(kernel)
        if 0 <= o * stride + k * reach - low < size * spread
    )
    assert hlo_walk.walk(hlo_text.parse(text), ONE).flops == 2 * met


# A gradient's sum over two slices of four chips, as the TPU compiler writes it.
SLICES = """\
ENTRY %main (g: f32[512,512]) -> f32[512,512] {
  %g = f32[512,512]{1,0} parameter(0)
  %part = f32[128,512]{1,0} reduce-scatter(%g), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
  %token = token[] after-all()
  %send = (f32[128,512]{1,0}, u32[], token[]) send(%part, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[128,512]{1,0}, u32[], token[]) recv(%token), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %recv-done = (f32[128,512]{1,0}, token[]) recv-done(%recv), channel_id=3, is_host_transfer=true
  %sum = f32[128,512]{1,0} get-tuple-element(%recv-done), index=0
  ROOT %whole = f32[512,512]{1,0} all-gather(%sum), channel_id=4, replica_groups={{0,1,2,3}}, dimensions={0}
}
"""  # noqa: E501


@pytest.mark.parametrize(
    "transfer, kind, share",
    [
        ("ALL_REDUCE", "all-reduce", 1.0),
        ("ALL_GATHER", "all-gather", 1.0),
        ("REDUCE_SCATTER", "reduce-scatter", 0.5),
        ("ONE_TO_ONE", "collective-permute", 1.0),
    ],
)
def test_what_slices_exchange_counts(transfer, kind, share):
    whole, mesh = 4 * 512 * 512, ONE | {"dcn_data": 2, "fsdp": 4}
    program = hlo_text.parse(SLICES.replace("ALL_REDUCE", transfer))
    totals = hlo_walk.walk(program, mesh)
    assert {key: bytes for key, (_, bytes) in totals.collectives.items()} == {
        ("reduce-scatter", ("fsdp",)): whole * 3 / 4,
        (kind, ("dcn_data",)): whole / 4 * share,
        ("all-gather", ("fsdp",)): whole * 3 / 4,
    }
    assert totals.bytes == whole * 12 / 4  # both collectives read and write, a transfer one of them
    # The part, and what comes back of it; the send has no array of its own.
    held = [each.bytes for each in liveness.most_held(program) if each.bytes > 8]
    assert held == [whole / 4, whole / 4]


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no text of a compiled program"):
        hlo_text.parse("nothing")
