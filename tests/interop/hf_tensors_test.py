"""Folders of transformers that do not fit, are cut off or are laid out in other ways."""

import dataclasses
import functools
import json
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec

from cascade_jax.interop import hf, hf_names, safetensors_io
from cascade_jax.interop.safetensors_io import SafetensorsError
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.parallel.mesh import MeshConfig

T5 = T5Config(12, 4, 2, 2, 6, 1, 1, tied_logits=True)
DECODER = DecoderConfig(12, 4, 2, 2, 2, 2, 6, tied_logits=False, bos_id=3)
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


parameter_shapes = functools.cache(families.parameter_shapes)


def random_parameters(config, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, nn.unbox(parameter_shapes(config)))


def tensors_of(config, seed=0):
    """{name: array} as transformers has them, written down apart from the exporter."""
    result = {}
    for path, array in flatten_dict(random_parameters(config, seed)).items():
        source = hf_names.source(config, path)
        result[source.name] = array.T if source.is_transposed else array
    return result


def write_file(file, tensors):
    """By the format's description."""
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8"}
    entries, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        offsets = [len(data), end]
        dtype = names[array.dtype.name]
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    header = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + data)


def write(folder, config, tensors, **keys):
    """A folder whose config.json is the exporter's, with some keys changed."""
    hf.save(folder, config, random_parameters(config))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    write_file(folder / "model.safetensors", tensors)
    return folder


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---------------------------------------------------------------- layouts that do


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(dtype, tmp_path):
    tensors = {name: array.astype(dtype) for name, array in tensors_of(DECODER).items()}
    _, params = hf.load(write(tmp_path / "m", DECODER, tensors))
    expected = jax.tree.map(
        lambda x: x.astype(dtype).astype(np.float32), random_parameters(DECODER)
    )
    assert_same(params, expected)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize("dtype", safetensors_io.DTYPES)
def test_many_files_are_written_and_read(dtype, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    params = random_parameters(DECODER)
    files = hf.save(tmp_path / "m", DECODER, params, dtype=dtype, file_bytes=300)
    shards = [file for file in files if file.suffix == ".safetensors"]
    assert len(shards) > 2 and all(f"-of-{len(shards):05}" in file.name for file in shards)
    kind = safetensors_io.DTYPES[dtype]
    rounded = jax.tree.map(lambda x: x.astype(kind).astype(np.float32), params)
    assert_same(hf.load(tmp_path / "m")[1], rounded)
    index = json.loads((tmp_path / "m" / safetensors_io.INDEX).read_text())
    expected = tensors_of(DECODER)
    assert index["weight_map"].keys() == expected.keys()
    assert index["metadata"]["total_size"] == sum(x.size for x in expected.values()) * kind.itemsize
    if dtype != "BF16":  # of which the library's NumPy side makes nothing
        read = {k: v for file in shards for k, v in safetensors.load_file(file).items()}
        for name, array in expected.items():
            np.testing.assert_array_equal(read[name], array.astype(kind))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_every_device_gets_its_part(scan_layers, tmp_path):
    folder = write(tmp_path / "m", DECODER, tensors_of(DECODER))
    mesh = MeshConfig(data=4, tensor=2).build()
    _, params = hf.load(folder, mesh=mesh, scan_layers=scan_layers, pad_id=5)
    _, whole = hf.load(folder, scan_layers=scan_layers, pad_id=5)
    assert_same(params, whole)
    kernel = (params["layers"] if scan_layers else params["layers_0"])["mlp"]["wi_0"]["kernel"]
    assert kernel.sharding.spec[-1] == "tensor"
    assert params["token_embedder"]["embedding"].sharding.spec == PartitionSpec("tensor", "fsdp")


def test_stacked_layers(tmp_path):
    folder = write(tmp_path / "m", DECODER, tensors_of(DECODER))
    config, params = hf.load(folder, scan_layers=True)
    apart = random_parameters(DECODER)
    stacked = jax.tree.map(lambda *x: np.stack(x), apart.pop("layers_0"), apart.pop("layers_1"))
    assert config.scan_layers
    assert_same(params, apart | {"layers": stacked})


def test_exchanged_ids(tmp_path):
    folder = write(tmp_path / "m", DECODER, tensors_of(DECODER))
    config, params = hf.load(folder, pad_id=3)
    plain, expected = hf.load(folder)
    order = np.asarray([3, 1, 2, 0, *range(4, 12)])
    assert (plain.bos_id, config.bos_id) == (3, 0)
    for actual, before in ((params, expected), (expected, params)):
        np.testing.assert_array_equal(
            actual["token_embedder"]["embedding"],
            np.asarray(before["token_embedder"]["embedding"])[order],
        )
        np.testing.assert_array_equal(
            actual["logits_dense"]["kernel"], np.asarray(before["logits_dense"]["kernel"])[:, order]
        )


def test_a_smaller_vocabulary_keeps_the_first_ids(tmp_path):
    folder = write(tmp_path / "m", DECODER, tensors_of(DECODER))
    config, params = hf.load(folder, vocab_size=9, pad_id=4)
    _, whole = hf.load(folder, pad_id=4)
    assert config.vocab_size == 9
    np.testing.assert_array_equal(
        params["token_embedder"]["embedding"], whole["token_embedder"]["embedding"][:9]
    )
    np.testing.assert_array_equal(
        params["logits_dense"]["kernel"], whole["logits_dense"]["kernel"][:, :9]
    )
    for size in (4, 13):
        with pytest.raises(ValueError, match=f"vocab_size {size} is not allowed"):
            hf.load(folder, vocab_size=size, pad_id=4)


def test_a_tied_output_may_be_repeated_if_it_is_the_same(tmp_path):
    tied = dataclasses.replace(DECODER, tied_logits=True)
    tensors = tensors_of(tied)
    copied = write(tmp_path / "same", tied, tensors | {OUTPUT: tensors[EMBEDDING]})
    assert_same(hf.load(copied)[1], random_parameters(tied))
    other = write(tmp_path / "other", tied, tensors | {OUTPUT: tensors[EMBEDDING] + 1})
    with pytest.raises(hf.TensorsError, match="lm_head.weight is model.embed_tokens.weight"):
        hf.load(other)


def test_needless_tensors_are_left_out(tmp_path):
    needless = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors = tensors_of(T5)
    shared = {f"{stack}.embed_tokens.weight": tensors["shared.weight"] for stack in T5_STACKS}
    tensors |= {needless: np.zeros((32, 2), np.float32)} | shared
    assert_same(hf.load(write(tmp_path / "t5", T5, tensors))[1], random_parameters(T5))
    rotary = {"model.layers.1.self_attn.rotary_emb.inv_freq": np.zeros(1, np.float32)}
    folder = write(tmp_path / "llama", DECODER, tensors_of(DECODER) | rotary)
    assert_same(hf.load(folder)[1], random_parameters(DECODER))


T5_STACKS = ("encoder", "decoder")


# ---------------------------------------------------------------- folders that do not


def test_all_tensors_that_do_not_fit_are_listed(tmp_path):
    tensors = tensors_of(DECODER)
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((6, 4), np.float32)
    tensors["adapter"] = np.zeros(3, np.float32)
    tensors[EMBEDDING] = np.zeros((13, 4), np.float32)
    tensors["model.layers.0.self_attn.q_proj.weight"] = np.zeros((4, 4), np.int8)
    with pytest.raises(hf.TensorsError) as error:
        hf.load(write(tmp_path / "m", DECODER, tensors))
    for said in (
        "2 missing: model.layers.1.mlp.up_proj.weight [6, 4], model.norm.weight [4]",
        "2 extra: adapter, model.layers.2.mlp.up_proj.weight",
        "1 of another shape: model.embed_tokens.weight [13, 4] where config.json says [12, 4]",
        "1 not F32, BF16, F16: model.layers.0.self_attn.q_proj.weight I8",
    ):
        assert said in str(error.value)


def test_a_long_list_is_cut(tmp_path):
    tensors = tensors_of(DECODER) | {f"x{i:02}": np.zeros(1, np.float32) for i in range(23)}
    with pytest.raises(hf.TensorsError, match=r"x18, x19, \.\.\. \(23 in all\)$"):
        hf.load(write(tmp_path / "m", DECODER, tensors))


@pytest.mark.parametrize("left", [4, 12, 200, -1])
def test_a_truncated_file(left, tmp_path):
    folder = write(tmp_path / "m", DECODER, tensors_of(DECODER))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(SafetensorsError, match=rf"{file} is truncated: it has \d+ bytes"):
        hf.load(folder)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (struct.pack("<Q", 4) + b"{]}}", "not a safetensors file"),
        (struct.pack("<Q", 10) + b'{"a": [1]}', "not a safetensors file"),
        (
            struct.pack("<Q", 55) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}     ',
            "4 bytes for shape",
        ),
    ],
)
def test_a_file_that_is_something_else(content, said, tmp_path):
    folder = write(tmp_path / "m", DECODER, {})
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(SafetensorsError, match=said):
        hf.load(folder)


def test_an_index_that_names_what_is_missing(tmp_path):
    hf.save(tmp_path / "m", DECODER, random_parameters(DECODER), file_bytes=300)
    index = tmp_path / "m" / safetensors_io.INDEX
    result = json.loads(index.read_text())
    lost = sorted(set(result["weight_map"].values()))[1:3]
    for name in lost:
        (tmp_path / "m" / name).rename(tmp_path / name)
    with pytest.raises(SafetensorsError, match=f"files that are missing: {', '.join(lost)}"):
        hf.load(tmp_path / "m")
    for name in lost:
        (tmp_path / name).rename(tmp_path / "m" / name)
    result["weight_map"]["another"] = lost[0]
    index.write_text(json.dumps(result))
    with pytest.raises(SafetensorsError, match=f"tensors that are missing: another in {lost[0]}"):
        hf.load(tmp_path / "m")
    for content, said in (("[]", "must be an object"), ('{"weight_map": []}', "is not an index")):
        index.write_text(content)
        with pytest.raises(ValueError, match=f"{index}.* {said}"):
            hf.load(tmp_path / "m")


def test_a_folder_without_safetensors(tmp_path):
    folder = write(tmp_path / "m", DECODER, {})
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SafetensorsError, match=r"pytorch_model\.bin; load it with transformers"):
        hf.load(folder)


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "not JSON"),
        ("[]", r"is \[\]; must be an object"),
        ('{"a": ' + "[" * 300 + "]" * 300 + "}", "nested too deeply"),
        ('{"model_type": "llama", "model_type": "t5"}', "twice"),
        ('{"hidden_size": NaN}', "NaN"),
    ],
)
def test_a_config_that_is_none(content, said, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"{tmp_path}/config.json: .*{said}"):
        hf.load(tmp_path)


# ---------------------------------------------------------------- folders that say two things


def shards(folder, places, tensors):
    """Files by name with the tensors that each has, and an index of (other) places."""
    hf.save(folder, DECODER, random_parameters(DECODER))
    (folder / "model.safetensors").unlink()
    for file, names in tensors.items():
        write_file(folder / file, names)
    index = {"metadata": {}, "weight_map": places}
    (folder / safetensors_io.INDEX).write_text(json.dumps(index))
    return folder


def test_the_single_file_wins_over_an_index_and_that_is_said(tmp_path, capsys):
    stale = {name: array + 1 for name, array in tensors_of(DECODER).items()}
    folder = shards(
        tmp_path / "m", dict.fromkeys(stale, "old.safetensors"), {"old.safetensors": stale}
    )
    write_file(folder / "model.safetensors", tensors_of(DECODER))
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert_same(hf.load(folder)[1], random_parameters(DECODER))
    assert capsys.readouterr().out == (
        f"{folder}: as transformers does, model.safetensors is read, and not old.safetensors, "
        f"pytorch_model.bin, {safetensors_io.INDEX}\n"
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_tensor_in_two_files_is_the_one_that_the_index_names(first, tmp_path, capsys):
    tensors = tensors_of(DECODER)
    stale = {EMBEDDING: tensors[EMBEDDING] + 1}
    right, wrong = ("1.safetensors", "2.safetensors")[:: 1 if first else -1]
    rest = {name: array for name, array in tensors.items() if name != OUTPUT}
    files = {right: rest, wrong: stale | {OUTPUT: tensors[OUTPUT]}}
    places = {OUTPUT: wrong} | dict.fromkeys(rest, right)
    assert_same(hf.load(shards(tmp_path / "m", places, files))[1], random_parameters(DECODER))
    assert (
        f"in several files, read from the one that {safetensors_io.INDEX} names: {EMBEDDING}"
        in (capsys.readouterr().out)
    )
    del places[EMBEDDING]
    with pytest.raises(SafetensorsError, match=f"does not say from which .* to read {EMBEDDING}"):
        hf.load(shards(tmp_path / "n", places, files))


def test_a_tensor_that_the_index_leaves_out_is_read_and_said(tmp_path, capsys):
    tensors = tensors_of(DECODER)
    places = {name: "1.safetensors" for name in tensors if name != OUTPUT}
    folder = shards(tmp_path / "m", places, {"1.safetensors": tensors})
    assert_same(hf.load(folder)[1], random_parameters(DECODER))
    assert f"does not name tensors that its files hold: {OUTPUT}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "file, said",
    [
        ("../x.safetensors", "names files outside of its folder: ../x.safetensors"),
        ("/x.safetensors", "names files outside of its folder: /x.safetensors"),
        ("a/../../x.safetensors", "names files outside of its folder"),
        ("no.safetensors", "names files that are missing: no.safetensors"),
        ("", "names files that are missing"),
        ("no\0", "names files that are missing"),
        (7, "weight_map.model.norm.weight is 7; must be a file's name"),
        (None, "weight_map.model.norm.weight is null; must be a file's name"),
    ],
)
def test_an_index_with_files_that_can_not_be(file, said, tmp_path):
    folder = shards(tmp_path / "m", {"model.norm.weight": file}, {})
    with pytest.raises(SafetensorsError) as error:
        hf.load(folder)
    assert str(error.value).startswith(str(folder / safetensors_io.INDEX))
    assert said in str(error.value)


def test_an_adapter_beside_the_model_is_refused(tmp_path):
    folder = write(tmp_path / "m", DECODER, tensors_of(DECODER))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(SafetensorsError, match="adapter_config.json: .* merge them"):
        hf.load(folder)


def test_a_parameter_under_two_names_is_refused(tmp_path):
    tensors = tensors_of(DECODER)
    tensors["language_model.model.norm.weight"] = tensors["model.norm.weight"] + 1
    with pytest.raises(
        ValueError, match="m: tensors .*model.norm.weight .* same parameter; delete one"
    ):
        hf.load(write(tmp_path / "m", DECODER, tensors))


# ---------------------------------------------------------------- numbers and sizes that can't be


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numbers_that_are_not_finite_are_refused_by_tensor(dtype, bad, tmp_path):
    tensors = {name: array.astype(dtype) for name, array in tensors_of(DECODER).items()}
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 2] = bad
    folder = write(tmp_path / "m", DECODER, tensors)
    for scan_layers in (False, True):
        message = f"^{folder}/model.safetensors: NaN or infinite numbers in tensor {name}$"
        with pytest.raises(safetensors_io.NotFiniteError, match=message):
            hf.load(folder, scan_layers=scan_layers)


@pytest.mark.parametrize(
    "value, dtype, said",
    [
        (np.nan, "F32", "NaN or infinite numbers"),
        (-np.inf, "BF16", "NaN or infinite numbers"),
        (1e5, "F16", "numbers beyond those of F16; choose another dtype"),
        (3.4e38, "BF16", "numbers beyond those of BF16; choose another dtype"),
    ],
)
def test_an_export_refuses_what_is_not_finite_by_tensor(value, dtype, said, tmp_path):
    params = random_parameters(DECODER)
    params["final_norm"]["scale"][1] = value
    with pytest.raises(safetensors_io.NotFiniteError, match=f"tensor model.norm.weight has {said}"):
        hf.save(tmp_path / "m", DECODER, params, dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_layers_are_counted_before_any_work(tmp_path):
    folder = write(tmp_path / "m", DECODER, tensors_of(DECODER), num_hidden_layers=9999)
    with pytest.raises(hf.TensorsError, match=r"says 9999 layers model.layers: of 9997 .* 2, 3, 4"):
        hf.check(folder)
    folder = write(tmp_path / "n", DECODER, tensors_of(DECODER), num_hidden_layers=1)
    with pytest.raises(hf.TensorsError, match="9 extra: model.layers.1.input_layernorm.weight, mo"):
        hf.check(folder)
    t5 = write(tmp_path / "t5", T5, tensors_of(T5), num_decoder_layers=3)
    with pytest.raises(
        hf.TensorsError, match=r"3 layers decoder.block: of 2 there is no tensor, 1"
    ):
        hf.check(t5)


@pytest.mark.parametrize(
    "key, value",
    [("vocab_size", 2**31 - 1), ("vocab_size", 11), ("intermediate_size", 2**30), ("head_dim", 4)],
)
def test_every_size_is_compared_with_the_tensors(key, value, tmp_path):
    folder = write(tmp_path / "m", DECODER, tensors_of(DECODER), **{key: value})
    with pytest.raises(hf.TensorsError, match=f"of another shape: .* says .*{value}"):
        hf.check(folder)


def test_an_export_that_fails_leaves_nothing(tmp_path):
    params = random_parameters(DECODER)
    del params["final_norm"]

    class Broken:
        shape = (4,)

        def __array__(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        hf.save(tmp_path / "m", DECODER, params | {"final_norm": {"scale": Broken()}})
    assert not list(tmp_path.iterdir())


def test_an_export_does_not_overwrite(tmp_path):
    (tmp_path / "mine").write_text("text")
    with pytest.raises(ValueError, match="exists already"):
        hf.save(tmp_path, DECODER, random_parameters(DECODER))
