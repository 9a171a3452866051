"""Converts single parameters from and to tensors of transformers, a block at a time."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Sharding
from jaxtyping import PyTree

from cascade_jax.interop import hf_names
from cascade_jax.interop.hf_families import Config
from cascade_jax.interop.safetensors_io import Output, StoredTensor

_ALIGNMENT = 64  # a host array that starts on such an address becomes a CPU array without a copy


def exchanged(token: int, pad_id: int) -> int:
    """The id that a token has once 0 and `pad_id` have changed places."""
    return {0: pad_id, pad_id: 0}.get(token, token)


@dataclasses.dataclass(frozen=True)
class Place:
    """One tensor of a parameter: the whole parameter, or a layer of a stacked one."""

    source: hf_names.Source
    tensor: StoredTensor


def sources(config: Config, shapes: Mapping) -> dict[tuple, list[hf_names.Source]]:
    """Of every parameter its tensors: one, or as many as there are layers in the stack."""
    return {
        path: [
            hf_names.source(config, path, layer)
            for layer in (range(leaf.shape[0]) if "layers" in path else [None])
        ]
        for path, leaf in shapes.items()
    }


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads any block of a parameter."""

    places: Sequence[Place]
    shape: tuple[int, ...]
    pad_id: int

    def block(self, index: tuple[slice, ...]) -> np.ndarray:
        """The block as float32; `index` has a slice for every axis of the parameter."""
        bounds = [part.indices(size)[:2] for part, size in zip(index, self.shape, strict=True)]
        out = _aligned([stop - start for start, stop in bounds])
        if len(self.shape) == len(self.places[0].tensor.shape):
            self._fill(out, self.places[0], bounds)
        else:
            for row, layer in enumerate(range(*bounds[0])):
                self._fill(out[row], self.places[layer], bounds[1:])
        return out

    def _fill(self, out: np.ndarray, place: Place, bounds: Sequence[tuple[int, int]]) -> None:
        if place.source.is_transposed:
            out, bounds = out.T, bounds[::-1]
        (start, stop), rest = bounds[0], tuple(slice(*each) for each in bounds[1:])
        for first, rows in place.tensor.blocks(start, stop):
            out[first - start : first - start + len(rows)] = rows[(slice(None), *rest)]
        if place.source.is_by_id and self.pad_id:
            for ours in (0, self.pad_id):
                if start <= ours < stop:
                    theirs = exchanged(ours, self.pad_id)
                    ((_, row),) = place.tensor.blocks(theirs, theirs + 1)
                    out[ours - start] = row[0][rest]


def _aligned(shape: Sequence[int]) -> np.ndarray:
    count = math.prod(shape) * 4
    raw = np.empty(count + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + count].view(np.float32).reshape(shape)


def read(shape: tuple[int, ...], sharding: Sharding, reader: Reader) -> jax.Array:
    """The parameter, each device's block read once and put where it belongs."""
    indices = sharding.addressable_devices_indices_map(shape)
    by_block = {}
    for device, index in indices.items():
        bounds = tuple(part.indices(size) for part, size in zip(index, shape, strict=True))
        by_block.setdefault(bounds, (index, []))[1].append(device)
    blocks = []
    for index, devices in by_block.values():
        block = reader.block(index)
        blocks += [jax.block_until_ready(jax.device_put(block, device)) for device in devices]
        del block
    return jax.make_array_from_single_device_arrays(shape, sharding, blocks)


def outputs(config: Config, params: PyTree, pad_id: int) -> Iterator[Output]:
    """The tensors of transformers that parameters are, with 0 and `pad_id` exchanged."""
    flat = flatten_dict(params)
    for path, of_path in sources(config, flat).items():
        for layer, source in enumerate(of_path):
            leaf, is_stacked = flat[path], "layers" in path
            shape = tuple(leaf.shape[1:] if is_stacked else leaf.shape)
            shape = shape[::-1] if source.is_transposed else shape
            rows = _Rows(leaf, layer if is_stacked else None, source, pad_id)
            yield Output(source.name, shape, rows)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows of a tensor of transformers, out of our parameter."""

    leaf: Any
    layer: int | None
    source: hf_names.Source
    pad_id: int

    def __call__(self, start: int, stop: int) -> np.ndarray:
        array = np.asarray(self.leaf)  # on the CPU, and not split, this is the array itself
        array = array if self.layer is None else array[self.layer]
        array = array.T if self.source.is_transposed else array
        rows = array[start:stop]
        if self.source.is_by_id and self.pad_id:
            order = [exchanged(row, self.pad_id) for row in range(start, stop)]
            rows = array[np.asarray(order)]
        return rows
