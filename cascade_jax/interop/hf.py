"""Models of Hugging Face's transformers, in and out: a folder with config.json and safetensors."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import PyTree

from cascade_jax import checks, json_file, json_text
from cascade_jax.interop import hf_blocks, hf_folder, hf_names, safetensors_io
from cascade_jax.interop.hf_families import Config, Family, read_config, write_config
from cascade_jax.interop.hf_keys import UnsupportedError
from cascade_jax.interop.safetensors_io import StoredTensor
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.names import check_choice, listed
from cascade_jax.parallel import rules

# Of config.json, what the vocabulary or its users decide and no parameter depends on.
_CARRIED = ("eos_token_id", "pad_token_id", "max_position_embeddings", "decoder_start_token_id")

Progress = Callable[[Sequence[Any]], Iterable[Any]]


class TensorsError(ValueError):
    """Tensors are missing, left over or of another shape; the message lists all of them."""


def read_family(folder: str | os.PathLike) -> tuple[Family, Config]:
    """Family and config of a folder, from its config.json alone.

    Raises:
      UnsupportedError: for a model, or an option of it, that is not supported.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise UnsupportedError(f"{folder} is not the folder of a model: it has no config.json")
    try:
        return read_config(json_file.read_object(file))
    except UnsupportedError as error:
        raise UnsupportedError(f"{file}: {str(error).removeprefix('config.json: ')}") from error


def check(folder: str | os.PathLike) -> tuple[Family, Config]:
    """Family and config of a folder whose tensors fit its config.json; reads no numbers.

    Raises:
      UnsupportedError, SafetensorsError, TensorsError: as `load` does.
    """
    family, config = read_family(folder)
    _plan(folder, config, _open(folder, config, say=lambda text: None))
    return family, config


def load(
    folder: str | os.PathLike,
    *,
    mesh: Mesh | None = None,
    scan_layers: bool = False,
    dtype: str = "float32",
    pad_id: int = 0,
    vocab_size: int | None = None,
    progress: Progress = iter,
) -> tuple[Config, PyTree]:
    """Config and float32 parameters of a model that transformers saved.

    Tensors are read one after the other, and of each only what a device holds, so that the host
    needs room for the largest shard and a few MB beside the parameters themselves.

    Args:
      folder: with config.json, and model.safetensors or its index.
      mesh: the parameters are split over it; None puts them on one device.
      scan_layers: of the config; the layers' parameters are stacked.
      dtype: of the computation, for the config.
      pad_id: this id and 0 are exchanged, so that 0 is padding; 0 exchanges nothing.
      vocab_size: keeps only the ids below; for a pair whose vocabularies differ in unused last ids.
      progress: wraps the list of parameters.

    Raises:
      UnsupportedError: for a model, or an option of it, that is not supported.
      SafetensorsError: for a file that is missing, cut off or not of its format.
      TensorsError: listing all missing, extra and misshapen tensors.
      NotFiniteError: naming a tensor with NaN or infinite numbers.
    """
    _, public = read_family(folder)
    _check_pad_id(pad_id, public.vocab_size)
    if vocab_size is not None and not max(pad_id, 1) < vocab_size <= public.vocab_size:
        raise ValueError(
            f"vocab_size {vocab_size} is not allowed: the model has {public.vocab_size} ids, and "
            f"{max(pad_id, 1)} is one that must stay"
        )
    config = dataclasses.replace(public, scan_layers=scan_layers, dtype=dtype)
    if isinstance(config, DecoderConfig):
        config = dataclasses.replace(config, bos_id=hf_blocks.exchanged(config.bos_id, pad_id))
    stored = _open(folder, config)
    plan = _plan(folder, config, stored)
    _check_copies(folder, config, stored)
    config = dataclasses.replace(config, vocab_size=vocab_size or config.vocab_size)
    boxes = families.parameter_shapes(config)
    shapes = flatten_dict(nn.unbox(boxes))
    if mesh is None:
        shardings = dict.fromkeys(shapes, SingleDeviceSharding(jax.devices()[0]))
    else:
        shardings = flatten_dict(rules.parameter_shardings(boxes, mesh))
    params = {}
    for path in progress(list(plan)):
        params[path] = hf_blocks.read(plan[path], shapes[path].shape, shardings[path], pad_id)
    return config, unflatten_dict(params)


def _check_pad_id(pad_id: int, vocab_size: int) -> None:
    is_id = isinstance(pad_id, int) and not isinstance(pad_id, bool) and 0 <= pad_id < vocab_size
    checks.require(is_id, "pad_id", pad_id, f"an id of the model, 0 to {vocab_size - 1}")


def _open(
    folder: str | os.PathLike, config: Config, say: Callable[[str], None] = print
) -> dict[str, StoredTensor]:
    """The tensors of a language model alone, once each of its layers is known to have some."""
    stored = safetensors_io.open_folder(folder, say)
    stored = {name: stored[in_file] for name, in_file in hf_names.renamed(stored, folder).items()}
    numbers = hf_names.layers(stored)
    for start, count in hf_names.layer_counts(config).items():
        actual = numbers.get(start, set())
        if missing := [str(number) for number in range(count) if number not in actual]:
            raise TensorsError(
                f"the tensors in {folder} do not fit its config.json, which says {count} layers "
                f"{start}: of {len(missing)} there is no tensor, {listed(missing, 5)}"
            )
    return stored


def _plan(
    folder: str | os.PathLike, config: Config, stored: Mapping[str, StoredTensor]
) -> dict[tuple, list[tuple[hf_names.Source, StoredTensor]]]:
    """Which tensors each parameter is read from, once all of them are known to fit."""
    shapes = flatten_dict(nn.unbox(families.parameter_shapes(config)))
    sources = hf_blocks.sources(config, shapes)
    needed = {}
    for path, path_sources in sources.items():
        shape = shapes[path].shape[1:] if "layers" in path else shapes[path].shape
        for source in path_sources:
            needed[source.name] = shape[::-1] if source.is_transposed else shape
    known = needed.keys() | hf_names.copies(config).keys()
    problems = {"missing": [], "extra": sorted(stored.keys() - known)}
    problems |= {"of another shape": [], f"not {', '.join(safetensors_io.DTYPES)}": []}
    missing, _, misshapen, other_dtype = problems.values()
    for name, shape in sorted(needed.items()):
        if name not in stored:
            missing.append(f"{name} {list(shape)}")
            continue
        tensor = stored[name]
        if tensor.shape != shape:
            misshapen.append(f"{name} {list(tensor.shape)} where config.json says {list(shape)}")
        if tensor.dtype not in safetensors_io.DTYPES:
            other_dtype.append(f"{name} {tensor.dtype}")
    texts = [f"{len(names)} {what}: {listed(names)}" for what, names in problems.items() if names]
    if texts:
        text = "; ".join(texts)
        raise TensorsError(f"the tensors in {folder} do not fit its config.json: {text}")
    return {
        path: [(source, stored[source.name]) for source in path_sources]
        for path, path_sources in sources.items()
    }


def _check_copies(
    folder: str | os.PathLike, config: Config, stored: Mapping[str, StoredTensor]
) -> None:
    """Refuses tensors that repeat another one with other numbers."""
    for name, first in hf_names.copies(config).items():
        if name in stored and not _are_equal(stored[name], stored[first]):
            raise TensorsError(
                f"{folder}: config.json says that {name} is {first} (tie_word_embeddings), but "
                "their numbers differ; set tie_word_embeddings to false there if that is meant"
            )


def _are_equal(tensor: StoredTensor, other: StoredTensor) -> bool:
    if (tensor.shape, tensor.dtype) != (other.shape, other.dtype):
        return False
    rows = tensor.shape[0]
    pairs = zip(tensor.blocks(0, rows), other.blocks(0, rows), strict=True)
    return all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for (_, a), (_, b) in pairs)


# ---------------------------------------------------------------- out


def save(
    folder: str | os.PathLike,
    config: Config,
    params: PyTree,
    *,
    tokenizer_from: str | os.PathLike | None = None,
    pad_id: int = 0,
    dtype: str = "F32",
    file_bytes: int = 5_000_000_000,
    progress: Progress = iter,
) -> list[Path]:
    """Writes a folder that transformers loads, all of it or nothing; returns the files.

    Args:
      folder: does not exist yet, or is empty.
      config, params: the model, its parameters without boxes.
      tokenizer_from: a folder whose tokenizer files are copied, and whose config.json (if it has
        one) says the ids of the special tokens.
      pad_id: as given to `load`; 0 and it change places again.
      dtype: of the numbers: "F32", "BF16" or "F16".
      file_bytes: the most of one file.
      progress: wraps the tensors of a file.

    Raises:
      UnsupportedError: if transformers has no such model, or the layers of a T5 have different
        relative position biases.
      NotFiniteError: naming a tensor with NaN, infinite numbers or numbers too large for the dtype.
      ValueError: if the folder is not empty, or for another dtype.
    """
    folder = Path(folder)
    check_choice("dtype", dtype, safetensors_io.DTYPES)
    _check_pad_id(pad_id, config.vocab_size)
    hf_folder.check_empty(folder)
    if isinstance(config, T5Config) and config.relative_bias_per_layer:
        config, params = _with_one_bias(config, params)
    written = _config_json(config, pad_id, tokenizer_from)
    written["torch_dtype"] = safetensors_io.DTYPES[dtype].name
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        safetensors_io.write_folder(
            temporary,
            list(hf_blocks.outputs(config, params, pad_id)),
            dtype=dtype,
            file_bytes=file_bytes,
            progress=progress,
        )
        hf_folder.copy_tokenizer(tokenizer_from, temporary)
        (temporary / "config.json").write_text(json.dumps(written, indent=2) + "\n")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(folder.iterdir())


def _with_one_bias(config: T5Config, params: PyTree) -> tuple[T5Config, PyTree]:
    """A T5 whose layers have equal relative position biases, as one with a bias for all layers."""
    params = dict(params)
    for stack in ("encoder", "decoder"):
        rest = dict(params[stack])
        layers = {name: dict(rest[name]) for name in rest if name.startswith("layers")}
        biases = [layer.pop("relpos_bias")["rel_embedding"] for layer in layers.values()]
        biases = list(biases[0]) if config.scan_layers else biases
        if not all(np.array_equal(bias, biases[0]) for bias in biases):
            raise UnsupportedError(
                f"the layers of the {stack} have different relative position biases, and T5 has "
                "one for all layers in transformers; export --to t5x keeps them"
            )
        params[stack] = rest | layers | {"relpos_bias": {"rel_embedding": biases[0]}}
    return dataclasses.replace(config, relative_bias_per_layer=False), params


def _config_json(config: Config, pad_id: int, tokenizer_from) -> dict[str, Any]:
    carried = _carried(tokenizer_from)
    if isinstance(config, DecoderConfig):
        config = dataclasses.replace(config, bos_id=hf_blocks.exchanged(config.bos_id, pad_id))
    written = write_config(config, carried.get("model_type"))
    written |= {key: carried[key] for key in _CARRIED if carried.get(key) is not None}
    if isinstance(config, DecoderConfig):
        # Without them transformers takes the ids of the family's first model.
        written = {"eos_token_id": None, "pad_token_id": pad_id or None} | written
        written.setdefault("max_position_embeddings", 32768)
    return written


def _carried(tokenizer_from: str | os.PathLike | None) -> dict[str, Any]:
    """The config.json beside a tokenizer, if there is one, that of its language model included."""
    if tokenizer_from is None or not (file := Path(tokenizer_from) / "config.json").is_file():
        return {}
    keys = json_file.read_object(file)
    text = keys.get("text_config") or {}
    allowed = isinstance(text, dict)
    json_text.require(allowed, f"{file}: text_config", text, "an object")
    keys = {**text, **keys}
    for key in _CARRIED:
        value = keys.get(key)
        numbers = value if isinstance(value, list) else [0 if value is None else value]
        allowed = all(type(number) is int and number >= 0 for number in numbers)
        json_text.require(allowed, f"{file}: {key}", value, "an integer of at least 0, or a list")
    return keys
