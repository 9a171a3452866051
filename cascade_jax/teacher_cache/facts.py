"""The teacher's part of a step by itself: its outputs for every target token, as facts."""

import hashlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from cascade_jax import numerics
from cascade_jax.batch import Batch, DecoderBatch
from cascade_jax.inference import largest, places
from cascade_jax.models import families
from cascade_jax.parallel import rules
from cascade_jax.parallel.compiling import under_mesh
from cascade_jax.runs import digests
from cascade_jax.teacher_cache.format import Holding


def make_facts_fn(
    teacher: families.Model,
    holding: Holding,
    mesh: jax.sharding.Mesh,
    table: str | rules.Table = rules.DEFAULT,
    logits_at_once: int = places.LOGITS_AT_ONCE,
) -> Callable[[PyTree, Batch | DecoderBatch], dict[str, Array]]:
    """A jitted `(params, batch) -> facts`, of the arrays of `TokenFacts`, each [B, L, …].

    They are 0 at padding. The teacher runs as in a train step. Logits are made of some places of
    all rows at a time.

    Args:
      teacher: an unbound module.
      holding: the facts that are needed, besides the log-probs of labels.
      mesh, table: the device mesh, and how the teacher is split over it.
      logits_at_once: at most so many logits are held together for each shard of the batch, though
        at least those of one place of all rows.
    """
    vocab_size = teacher.config.vocab_size
    shards = mesh.devices.size // mesh.shape["tensor"]

    def facts_fn(params, batch):
        with rules.applied(table):
            hidden, unembedding = families.hidden_and_unembedding(teacher, params, batch)

        def measure(states, targets):
            return _facts(unembedding.logits(states), targets, holding)

        most = shards * logits_at_once
        return places.measure(measure, hidden, batch.targets, vocab_size, most)

    return under_mesh(mesh, jax.jit(facts_fn, out_shardings=rules.batch_sharding(mesh)))


def _facts(
    logits: Float[Array, "B P V"], targets: Int[Array, "B P"], holding: Holding
) -> dict[str, Array]:
    """Facts of tokens. Few arrays of the logits' size are written: they are what takes time."""
    top = largest.top_and_rest(logits, max(holding.top_k, 1))

    def log_probs(chosen: Float[Array, "B P n"]) -> Float[Array, "B P n"]:
        value = (chosen - top.best[..., None]) - top.log_total[..., None]
        return jnp.maximum(value, numerics.LOWEST)

    label = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    facts = {
        "label_is_best": label[..., 0] >= top.best,  # a tie is right, as in `terms.is_correct`
        "label_log_probs": log_probs(label)[..., 0],
    }
    if holding.top_k:
        facts |= {"ids": top.ids, "log_probs": log_probs(top.values)}
        if holding.has_tail:
            facts["log_tail"] = top.log_rest - top.log_total
    return facts


def own_rows(array: Array) -> np.ndarray:
    """The rows of a global array, split over its first axis, that this process holds."""
    by_start = {}
    for shard in array.addressable_shards:
        index = shard.index[0] if shard.index else slice(None)
        by_start.setdefault(index.start or 0, shard.data)
    return np.concatenate([np.asarray(by_start[start]) for start in sorted(by_start)])


def digest(params: PyTree) -> str:
    """A hash of parameters that does not depend on how they are split over devices."""
    sums = digests.sums_by_name(params)
    text = [
        [name, leaf.shape, str(leaf.dtype), *sums[name][:2]]
        for name, leaf in zip(sums, jax.tree.leaves(params), strict=True)
    ]
    return hashlib.sha256(repr(text).encode()).hexdigest()[:16]
