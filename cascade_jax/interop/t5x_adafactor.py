"""Converts Adafactor statistics between T5X and optax.

For layers that are kept apart the two keep the same numbers of the same shapes: both factor a
matrix if its second longest side is at least `min_dim_size_to_factor`, keep the means over the
longest axis as `v_row` and over the second longest as `v_col`, else all squares as `v`, and use
shape (1,) for what is not in use. For stacked layers they do not agree (T5X takes every layer by
itself, optax the stack as one array), and that is refused.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

_KEPT = ("v_row", "v_col", "v")
_MOMENTUM = "m"


def to_optax(statistics: PyTree, step: int, opt_state: PyTree) -> PyTree:
    """Puts T5X's statistics into a state of `optax.adafactor`.

    Args:
      statistics: from `t5x_checkpoints.load(..., optimizer=True)`.
      step: of the checkpoint; optax's counters get it.
      opt_state: a fresh state of the optimizer, `optimizer.init(params)`.

    Raises:
      ValueError: if the state is not that of one `optax.adafactor`, the checkpoint was trained with
        momentum, or parameters or shapes differ (stacked layers, another
        `min_dim_size_to_factor`).
    """
    kept, momentum = _by_kind(statistics)
    if any(np.size(array) > 1 for array in momentum.values()):
        raise ValueError("the checkpoint's Adafactor has momentum, for which optax's has no place")
    (factored,) = _factored_states(opt_state)
    new = {}
    for kind in _KEPT:
        old = flatten_dict(getattr(factored, kind))
        shapes = [{name: np.shape(a) for name, a in arrays.items()} for arrays in (kept[kind], old)]
        _check_same(kind, *shapes)
        new[kind] = unflatten_dict({name: jnp.asarray(kept[kind][name]) for name in old})

    def replaced(node):
        if isinstance(node, optax.FactoredState):
            return node._replace(count=jnp.asarray(step, node.count.dtype), **new)
        if isinstance(node, optax.ScaleByScheduleState):
            return node._replace(count=jnp.asarray(step, node.count.dtype))
        return node

    return jax.tree.map(replaced, opt_state, is_leaf=_is_state)


def from_optax(opt_state: PyTree) -> tuple[PyTree, int]:
    """The statistics of a state of `optax.adafactor` as T5X keeps them, and the step.

    Raises:
      ValueError: if the state is not that of one `optax.adafactor`, or its layers are stacked.
    """
    (factored,) = _factored_states(opt_state)
    arrays = {kind: flatten_dict(getattr(factored, kind)) for kind in _KEPT}
    stacked = ["/".join(name) for name in arrays["v"] if "layers" in name]
    if stacked:
        raise ValueError(f"statistics of stacked layers do not fit T5X's: {', '.join(stacked)}")
    statistics = {}
    for kind, by_name in arrays.items():
        for name, array in by_name.items():
            statistics[(*name, kind)] = np.asarray(array)
            statistics[(*name, _MOMENTUM)] = np.zeros((1,), np.float32)
    return unflatten_dict(statistics), int(factored.count)


def _is_state(node) -> bool:
    return isinstance(node, optax.FactoredState | optax.ScaleByScheduleState)


def _factored_states(opt_state) -> list[optax.FactoredState]:
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_state)
    states = [node for node in nodes if isinstance(node, optax.FactoredState)]
    if len(states) != 1:
        raise ValueError(f"the optimizer's state has {len(states)} Adafactor states, not one")
    return states


def _by_kind(statistics) -> tuple[dict[str, dict], dict]:
    kept: dict[str, dict] = {kind: {} for kind in (*_KEPT, _MOMENTUM)}
    for name, array in flatten_dict(statistics).items():
        if name[-1] not in kept:
            raise ValueError(
                f"{'/'.join(name)} is none of Adafactor's statistics {', '.join(kept)}: the "
                "checkpoint was trained with another optimizer"
            )
        kept[name[-1]][name[:-1]] = array
    return kept, kept.pop(_MOMENTUM)


def _check_same(kind: str, new: Mapping, old: Mapping) -> None:
    pairs = {name: (new.get(name), old.get(name)) for name in sorted({*new, *old})}
    wrong = [
        f"{'/'.join(name)} (T5X's {theirs}, optax's {ours})"
        for name, (theirs, ours) in pairs.items()
        if theirs != ours
    ]
    if wrong:
        raise ValueError(f"Adafactor's {kind} differ for {len(wrong)}: {', '.join(wrong)}")
