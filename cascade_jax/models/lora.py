"""LoRA: a model's kernels stay as they are, and low-rank additions to some of them are trained.

Adapters are a parameter tree of their own. Where the model has `query/kernel` [in, out] they have
`query/lora_a` [in, rank] and `query/lora_b` [rank, out], each with one axis more in front where
layers are stacked.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import PRNGKeyArray

from cascade_jax import axes, checks
from cascade_jax.models import families
from cascade_jax.names import did_you_mean

_KERNEL, _A, _B = "kernel", "lora_a", "lora_b"


@dataclasses.dataclass(frozen=True)
class Lora:
    """`kernel + (alpha / rank) · lora_a · lora_b` for every kernel that is a target.

    Attributes:
      rank: columns of lora_a and rows of lora_b.
      targets: names of the linear maps, in all layers, as the parameter tree spells them: "query",
        "key", "value" and "out" of attention, "wi", "wi_0", "wi_1" and "wo" of the MLP,
        "logits_dense". Queries and values are what Hu et al. adapt.
      alpha: weight of the addition; over the rank, so that another rank needs no other learning
        rate.

    Reference: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
    """

    rank: int = 8
    targets: Sequence[str] = ("query", "value")
    alpha: float = 16.0

    def __post_init__(self):
        checks.whole_number("LoRA's rank", self.rank, 1)
        checks.positive("LoRA's alpha", self.alpha, most=1e6)
        names = self.targets
        is_list = bool(names) and not isinstance(names, str)
        is_list = is_list and all(isinstance(name, str) for name in names)
        some = "one or more different names, e.g. ('query', 'value')"
        is_list = is_list and len(set(names)) == len(names)
        checks.require(is_list, "LoRA's list of targets", names, some)
        object.__setattr__(self, "targets", tuple(names))

    def check(self, model: families.ModelConfig) -> None:
        """Raises ValueError for a model that lacks a target or has a kernel below the rank."""
        self.shapes(families.parameter_shapes(model))

    def shapes(self, boxed_shapes: Mapping[str, Any]) -> dict[str, Any]:
        """Shapes, dtypes and logical axes of the adapters; raises as `check`.

        Args:
          boxed_shapes: those of the model, from `families.parameter_shapes`.
        """
        flat = traverse_util.flatten_dict(boxed_shapes)
        kernels = {path: box for path, box in flat.items() if path[-1] == _KERNEL}
        there = sorted({path[-2] for path in kernels})
        for target in self.targets:
            if target not in there:
                hint = did_you_mean(target, there)
                raise ValueError(
                    f"LoRA's target {target!r} is not in the model{hint}; it has {there}"
                )
        shapes = {}
        for path, box in kernels.items():
            if path[-2] not in self.targets:
                continue
            *stack, rows, columns = box.value.shape
            if self.rank > min(rows, columns):
                raise ValueError(
                    f"LoRA's rank {self.rank} is larger than the smaller side of "
                    f"{'/'.join(path)} [{rows}, {columns}]; at most {min(rows, columns)} will do"
                )
            *stacked, row_axis, column_axis = box.names
            sides = {
                _A: ((*stack, rows, self.rank), (*stacked, row_axis, axes.RANK)),
                _B: ((*stack, self.rank, columns), (*stacked, axes.RANK, column_axis)),
            }
            for name, (shape, names) in sides.items():
                leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
                shapes[(*path[:-1], name)] = nn.LogicallyPartitioned(leaf, names)
        return traverse_util.unflatten_dict(shapes)

    def initialize(self, boxed_shapes: Mapping[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Fresh adapters, without boxes: with them the model is its base, bit for bit.

        lora_b is 0. lora_a is uniform within ±1/sqrt(in), as in the code of Hu et al.
        """
        flat = traverse_util.flatten_dict(nn.unbox(self.shapes(boxed_shapes)))
        made = {}
        for path, leaf_key in zip(sorted(flat), jax.random.split(key, len(flat)), strict=True):
            leaf = flat[path]
            if path[-1] == _B:
                made[path] = jnp.zeros(leaf.shape, leaf.dtype)
            else:
                bound = 1 / math.sqrt(leaf.shape[-2])
                made[path] = jax.random.uniform(leaf_key, leaf.shape, leaf.dtype, -bound, bound)
        return traverse_util.unflatten_dict(made)

    def merge(self, base: Mapping[str, Any], adapters: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of the model, additions included: what is trained, served and exported."""
        if _A in adapters:
            # In whole float32 on every device: it is cheap, and an export is what was trained.
            delta = jnp.matmul(adapters[_A], adapters[_B], precision=jax.lax.Precision.HIGHEST)
            return {**base, _KERNEL: base[_KERNEL] + self.alpha / self.rank * delta}
        merged = {name: self.merge(base[name], inner) for name, inner in adapters.items()}
        return {**base, **merged}
