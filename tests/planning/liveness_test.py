"""What is held at the peak, against programs counted by hand and the compiler's own sum."""

import jax
import jax.numpy as jnp
import pytest

from cascade_jax.planning import hlo_text, liveness

HEADER = "HloModule m, is_scheduled=true\n\n"
CHAIN = """\
ENTRY %main (a: f32[1000]) -> f32[10] {
  %a = f32[1000]{0} parameter(0)
  %b = f32[1000]{0} negate(%a), metadata={op_name="jit(f)/jvp(T5.encode)/encoder/while/body/b"}
  %c = f32[500]{0} slice(%b), slice={[0:500]}
  %view = f32[1000]{0} bitcast(%b)
  %d = f32[200]{0:S(1)} slice(%view), slice={[0:200]}
  %e = f32[100]{0} slice(%c), slice={[0:100]}
  %f = f32[700]{0} pad(%e, %d), padding=0_600
  ROOT %r = f32[10]{0} slice(%f), slice={[0:10]}
}
"""


def test_an_array_lives_to_its_last_reader():
    # b and c while d is made, which lies on the core; later c and e, then e and f.
    result = liveness.most_held(hlo_text.parse(HEADER + CHAIN))
    assert [(each.bytes, each.count, each.array) for each in result] == [
        (4000, 1, "f32[1000]"),
        (2000, 1, "f32[500]"),
    ]
    assert [each.made_by for each in result] == ["encoder/b", "c"]


LOOP = """\
%body (p: (s32[], f32[50,1000])) -> (s32[], f32[50,1000]) {
  %p = (s32[], f32[50,1000]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %stack = f32[50,1000]{1,0} get-tuple-element(%p), index=1
  %row = f32[1,1000]{1,0} dynamic-slice(%stack, %i, %i), dynamic_slice_sizes={1,1000}
  %wide = f32[8,1000]{1,0} broadcast(%row), dimensions={0,1}
  %sum = f32[1,1000]{1,0} slice(%wide), slice={[0:1],[0:1000]}
  %new = f32[50,1000]{1,0} dynamic-update-slice(%stack, %sum, %i, %i)
  ROOT %t = (s32[], f32[50,1000]{1,0}) tuple(%i, %new)
}

%cond (p.1: (s32[], f32[50,1000])) -> pred[] {
  %p.1 = (s32[], f32[50,1000]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: f32[1000]) -> f32[1000] {
  %a = f32[1000]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = f32[50,1000]{1,0} broadcast(%a), dimensions={1}
  %init = (s32[], f32[50,1000]{1,0}) tuple(%zero, %start)
  %loop = (s32[], f32[50,1000]{1,0}) while(%init), condition=%cond, body=%body
  %out = f32[50,1000]{1,0} get-tuple-element(%loop), index=1
  ROOT %r = f32[1000]{0} slice(%out), slice={[0:1],[0:1000]}
}
"""


def test_a_stack_that_a_loop_changes_in_place_counts_once_and_its_body_beside_it():
    result = liveness.most_held(hlo_text.parse(HEADER + LOOP))
    assert {each.array: each.bytes for each in result} == {
        "f32[50,1000]": 200_000,
        "f32[8,1000]": 32_000,
        "f32[1,1000]": 4_000,
    }


@pytest.mark.parametrize("layers", [1, 12])
def test_the_sum_is_near_the_compilers_temporaries(layers):
    """Of a gradient through scanned layers, which keeps an input of each."""

    def loss(stack, x):
        y = jax.lax.scan(lambda y, kernel: (jnp.tanh(y @ kernel), None), x, stack)[0]
        return jnp.sum(y**2)

    shapes = [(layers, 128, 128), (512, 128)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    made = jax.jit(jax.grad(loss)).lower(*arguments).compile()
    actual = liveness.most_held(hlo_text.parse(made.as_text()))
    held, temporaries = sum(each.bytes for each in actual), made.memory_analysis()
    assert held == pytest.approx(temporaries.temp_size_in_bytes, rel=0.2)
    if layers == 12:
        assert actual[0].array == "f32[12,512,128]"
