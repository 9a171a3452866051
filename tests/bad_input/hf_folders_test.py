"""Folders of transformers that can't be imported: status 2 and one line that names file and place.

The same refusals by themselves: interop/hf_tensors_test.py (folders, numbers, sizes),
interop/safetensors_header_test.py, interop/hf_families_test.py (keys of config.json) and
data/vocabulary/tokenizer_check_test.py.
"""

import json

import numpy as np
import pytest

from cascade_jax.cli import import_checkpoint, main

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 384,
    "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 6, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LAYER = {
    "self_attn.q_proj": (4, 4), "self_attn.k_proj": (2, 4), "self_attn.v_proj": (2, 4),
    "self_attn.o_proj": (4, 4), "mlp.gate_proj": (6, 4), "mlp.up_proj": (6, 4),
    "mlp.down_proj": (4, 6), "input_layernorm": (4,), "post_attention_layernorm": (4,),
}  # fmt: skip
SHAPES = {"model.embed_tokens.weight": (384, 4), "model.norm.weight": (4,)}
SHAPES |= {f"model.layers.0.{name}.weight": shape for name, shape in LAYER.items()}
NORM = "model.norm.weight"


def write(folder, change_header=lambda entries: None, bad_number=None, **keys):
    """A folder with some keys of config.json, entries of the header or a number changed."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | keys))
    entries, data = {}, b""
    for name, shape in SHAPES.items():
        array = np.ones(shape, np.float32)
        if name == NORM and bad_number is not None:
            array[1] = bad_number
        offsets = [len(data), len(data) + array.nbytes]
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        data += array.tobytes()
    change_header(entries)
    header = json.dumps(entries).encode()
    size = len(header).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(size + header + data)
    return folder


def set_entry(key, value):
    return lambda entries: entries[NORM].update({key: value})


def deep():
    value = []
    for _ in range(300):
        value = [value]
    return value


@pytest.fixture
def message(tmp_path, capsys, monkeypatch):
    """What the import of a changed folder says, in one line."""
    facts = {"size": 259, "fingerprint": "byte-259"}  # without TensorFlow
    monkeypatch.setattr(import_checkpoint, "facts_apart", lambda spec: facts)

    def run(**changes):
        folder = write(tmp_path / "public", **changes)
        out = tmp_path / "run"
        flags = [f"--path={folder}", f"--out={out}", "--vocabulary=byte"]
        assert main.main(["import", "--from=hf", *flags]) == 2
        *bars, line = capsys.readouterr().err.splitlines()
        assert all(not bar or "tensors" in bar for bar in bars)
        assert [path.name for path in tmp_path.iterdir()] == ["public"]
        return line.removeprefix(f"cascade-jax import: {folder}/")

    return run


@pytest.mark.parametrize(
    "keys, text",
    [
        ({"is_causal": False}, "config.json: is_causal = false is not supported: true is"),
        ({"model_type": ["llama"]}, 'config.json: model_type = ["llama"] is not supported: llama'),
        ({"rope_scaling": "x"}, 'config.json: rope_scaling = "x" is not supported: an object is'),
        ({"rope_theta": None}, "config.json: rope_theta = null is not supported: a number"),
        ({"deep": deep()}, "config.json: nested too deeply to be read: more than 100"),
        ({"num_hidden_layers": 10**9}, "config.json: num_hidden_layers = 1000000000 is not"),
    ],
)
def test_a_config_is_refused_by_key(keys, text, message):
    assert message(**keys).startswith(text)


def test_a_config_of_many_unknown_keys_is_refused_in_a_line_that_can_be_read(message):
    line = message(**{f"{i:03}" + "x" * 5000: i + 1 for i in range(300)})
    assert line.startswith("config.json: 000xxx") and line.endswith("; and 288 more")
    assert len(line) < 5000


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("shape", [4.0], "shape is [4.0]; must be a list of integers of at least 0"),
        ("data_offsets", [-16, 0], "data_offsets is [-16, 0]; must be the first byte and the end"),
    ],
)
def test_a_header_is_refused_by_tensor(key, value, text, message):
    line = message(change_header=set_entry(key, value))
    assert line == f'model.safetensors is not a safetensors file: tensor "{NORM}": {text}'


def test_numbers_of_two_tensors_do_not_overlap(message):
    line = message(change_header=set_entry("data_offsets", [0, 16]))
    assert line.startswith("model.safetensors is not a safetensors file: tensor ")
    assert "overlaps another tensor: its numbers start at byte 0" in line


def test_numbers_that_are_not_finite_are_refused_by_tensor(message):
    line = message(bad_number=np.nan)
    assert line == f"model.safetensors: NaN or infinite numbers in tensor {NORM}"
