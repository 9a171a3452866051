"""The programs of the answering engine: read inputs, fill slots, decode, leave slots out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from cascade_jax.inference import generate
from cascade_jax.inference.buckets import power_of_two
from cascade_jax.inference.generate import Decoding
from cascade_jax.inference.sample import Distribution
from cascade_jax.models import families, slots
from cascade_jax.parallel import rules as rules_lib
from cascade_jax.parallel.compiling import compile_together

MOST_STEPS = 64  # of a decoding loop, after which the host looks though no row may have ended


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the programs of an engine depend on beside shapes; equal ones share programs.

    Attributes:
      model: an unbound module.
      max_length, eos_id, top_k: see `generate.make_generate_fn`.
      mesh: which devices.
      rules: how the model's activations are split over them.
      distribution: what each token is drawn from; None for the likeliest token.
    """

    model: families.Model
    max_length: int
    eos_id: int
    top_k: int
    mesh: Mesh
    rules: rules_lib.Table = rules_lib.RULES
    distribution: Distribution | None = None

    def __post_init__(self):
        vocab_size = self.model.config.vocab_size
        generate.check_lengths(self.max_length, self.eos_id, vocab_size)
        generate.check_top_k(self.top_k, vocab_size)


@flax.struct.dataclass
class Slots:
    """What is decoded side by side: inputs without their starts, and the answers so far."""

    inputs: Int[Array, "B S"]
    decoding: Decoding


class Programs:
    """Jitted functions, each compiled on all hosts before it first runs for some shapes."""

    def __init__(self, settings: Settings):
        self._settings, self._compiled = settings, set()
        self.empty = self._jit(self._empty, static_argnums=(0, 1))
        self.read = self._jit(self._read)
        self.insert = self._jit(self._insert, donate_argnums=0)
        self.run = self._jit(self._run, donate_argnums=1)
        self.select = self._jit(self._select, static_argnums=2)

    def _jit(self, function: Callable, **settings: Any) -> Callable:
        @functools.wraps(function)
        def traced(*args):
            with rules_lib.applied(self._settings.rules):
                return function(*args)

        return jax.jit(traced, **settings)

    def is_new(self, jitted: Callable, *args: Any) -> bool:
        """Whether a function was not compiled for arguments of these shapes."""
        return self._key(jitted, args) not in self._compiled

    def compile(self, jitted: Callable, *args: Any) -> None:
        """Compiles a function; all hosts must call it."""
        with jax.set_mesh(self._settings.mesh):
            compile_together(jitted, *args)
        self._compiled.add(self._key(jitted, args))

    def call(self, jitted: Callable, *args: Any) -> Any:
        """Calls a function; all hosts must call it."""
        with jax.set_mesh(self._settings.mesh):
            return jitted(*args)

    def _key(self, jitted, args):
        leaves, structure = jax.tree.flatten(args)
        shapes = ((x.shape, x.dtype) if hasattr(x, "shape") else x for x in leaves)
        return jitted, structure, tuple(shapes)

    def _empty(self, count, width):
        settings = self._settings
        inputs = jnp.zeros((count, width), jnp.int32)
        shapes = families.parameter_shapes(settings.model.config)
        _, cache = jax.eval_shape(
            lambda params: families.start_decoding(
                settings.model, params, inputs, settings.max_length
            ),
            jax.tree.map(lambda box: box.value, shapes, is_leaf=lambda x: hasattr(x, "names")),
        )
        cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cache)
        are_drawn = settings.distribution is not None
        answers = generate.no_answers(count, settings.max_length, settings.top_k, are_drawn)
        last, has_ended = jnp.zeros((count,), jnp.int32), jnp.ones((count,), bool)
        keys = jnp.zeros((count, 2), jnp.uint32) if are_drawn else None
        return slots.constrained(Slots(inputs, Decoding(last, has_ended, answers, cache, keys)))

    def _read(self, params, packed):
        _, created = self._settings.model.apply(
            {"params": params}, packed, method="read_packed", mutable=["cache"]
        )
        # Of one size for all sizes of rows in an octave, so that one program inserts from all.
        places = 2 * power_of_two(packed.tokens.shape[1])
        return slots.constrained(slots.tail(created["cache"], places))

    def _insert(self, state, packed, arrivals, inputs, first, keys):
        old, to = state.decoding, arrivals.slots
        cache = slots.insert(old.cache, packed, arrivals, self._settings.max_length)
        answers = jax.tree.map(lambda leaf: leaf.at[to].set(0, mode="drop"), old.answers)
        decoding = Decoding(
            last=old.last.at[to].set(first, mode="drop"),
            has_ended=old.has_ended.at[to].set(False, mode="drop"),
            answers=answers,
            cache=cache,
            keys=None if keys is None else old.keys.at[to].set(keys, mode="drop"),
        )
        return slots.constrained(Slots(state.inputs.at[to].set(inputs, mode="drop"), decoding))

    def _run(self, params, state, enough):
        settings = self._settings

        def is_running(carry):
            steps, decoding = carry
            return (steps < MOST_STEPS) & (jnp.sum(decoding.has_ended) < enough)

        def body(carry):
            steps, decoding = carry
            args = settings.model, params, state.inputs, decoding, settings.eos_id, settings.top_k
            return steps + 1, generate.next_tokens(*args, settings.distribution)

        start = jnp.zeros((), jnp.int32), state.decoding
        steps, decoding = jax.lax.while_loop(is_running, body, start)
        return steps, slots.constrained(state.replace(decoding=decoding))

    def _select(self, state, rows, width):
        old, settings = state.decoding, self._settings
        places = width + settings.model.start_places
        decoding = Decoding(
            last=old.last[rows],
            has_ended=old.has_ended[rows],
            answers=jax.tree.map(lambda leaf: leaf[rows], old.answers),
            cache=slots.select(old.cache, rows, places, settings.max_length),
            keys=None if old.keys is None else old.keys[rows],
        )
        return slots.constrained(Slots(state.inputs[rows, :width], decoding))


@functools.lru_cache(maxsize=32)
def programs(settings: Settings) -> Programs:
    """The programs of these settings, which are kept with what was compiled."""
    return Programs(settings)
