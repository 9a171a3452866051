"""Converts single parameters from and to tensors of transformers, a block at a time."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Sharding
from jaxtyping import PyTree

from cascade_jax import numerics
from cascade_jax.interop import hf_names
from cascade_jax.interop.hf_families import Config
from cascade_jax.interop.safetensors_io import NotFiniteError, Output, StoredTensor

Stored = tuple[hf_names.Source, StoredTensor]
Bounds = tuple[int, int]

_ALIGNMENT = 64  # a host array that starts on such an address becomes a CPU array without a copy


def exchanged(token: int, pad_id: int) -> int:
    """The id that a token has once 0 and `pad_id` have changed places."""
    return {0: pad_id, pad_id: 0}.get(token, token)


def sources(config: Config, shapes: Mapping) -> dict[tuple, list[hf_names.Source]]:
    """Of every parameter its tensors: one, or as many as there are layers in the stack."""
    return {
        path: [
            hf_names.source(config, path, layer)
            for layer in (range(leaf.shape[0]) if "layers" in path else [None])
        ]
        for path, leaf in shapes.items()
    }


def _block(tensors: Sequence[Stored], bounds: Sequence[Bounds], pad_id: int) -> np.ndarray:
    """The block of a parameter as float32; `bounds` are (start, stop) on each of its axes."""
    out = _aligned([stop - start for start, stop in bounds])
    if len(bounds) == len(tensors[0][1].shape):
        _fill(out, tensors[0], bounds, pad_id)
    else:
        for row, layer in enumerate(range(*bounds[0])):
            _fill(out[row], tensors[layer], bounds[1:], pad_id)
    return out


def _fill(out: np.ndarray, stored: Stored, bounds: Sequence[Bounds], pad_id: int) -> None:
    source, tensor = stored
    if source.is_transposed:
        out, bounds = out.T, bounds[::-1]
    (start, stop), rest = bounds[0], tuple(slice(*each) for each in bounds[1:])
    for first, rows in tensor.blocks(start, stop):
        part = out[first - start : first - start + len(rows)]
        part[...] = rows[(slice(None), *rest)]
        if not numerics.is_finite(part):
            raise NotFiniteError(f"{tensor.file}: NaN or infinite numbers in tensor {source.name}")
    if source.is_by_id and pad_id:
        for ours in (0, pad_id):
            if start <= ours < stop:
                theirs = exchanged(ours, pad_id)
                ((_, row),) = tensor.blocks(theirs, theirs + 1)
                out[ours - start] = row[0][rest]


def _aligned(shape: Sequence[int]) -> np.ndarray:
    count = math.prod(shape) * 4
    raw = np.empty(count + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + count].view(np.float32).reshape(shape)


def read(
    tensors: Sequence[Stored], shape: tuple[int, ...], sharding: Sharding, pad_id: int
) -> jax.Array:
    """The parameter, each device's block read once and put where it belongs.

    Args:
      tensors: one for the whole parameter, or one for each layer of a stacked one.
      shape, sharding: of the parameter.
      pad_id: changes places with id 0.
    """
    by_block = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        by_block.setdefault(bounds, []).append(device)
    blocks = []
    for bounds, devices in by_block.items():
        block = _block(tensors, bounds, pad_id)
        blocks += [jax.block_until_ready(jax.device_put(block, device)) for device in devices]
        del block
    return jax.make_array_from_single_device_arrays(shape, sharding, blocks)


def outputs(config: Config, params: PyTree, pad_id: int) -> Iterator[Output]:
    """The tensors of transformers that parameters are, with 0 and `pad_id` exchanged."""
    flat = flatten_dict(params)
    for path, path_sources in sources(config, flat).items():
        for layer, source in enumerate(path_sources):
            leaf, is_stacked = flat[path], "layers" in path
            shape = tuple(leaf.shape[1:] if is_stacked else leaf.shape)
            shape = shape[::-1] if source.is_transposed else shape
            rows = functools.partial(_rows, leaf, layer if is_stacked else None, source, pad_id)
            yield Output(source.name, shape, rows)


def _rows(
    leaf: Any, layer: int | None, source: hf_names.Source, pad_id: int, start: int, stop: int
) -> np.ndarray:
    """Rows start..stop of a tensor of transformers, out of our parameter."""
    array = np.asarray(leaf)  # on the CPU, and not split, this is the array itself
    array = array if layer is None else array[layer]
    array = array.T if source.is_transposed else array
    if source.is_by_id and pad_id:
        return array[np.asarray([exchanged(row, pad_id) for row in range(start, stop)])]
    return array[start:stop]
