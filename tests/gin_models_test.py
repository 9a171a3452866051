"""The gin files of public models against their parameter counts and config.json."""

import dataclasses
import json
from pathlib import Path

import gin
import pytest

from cascade_jax.cli import gin_config
from cascade_jax.interop import hf
from cascade_jax.models import families, flops, pair

ROOT = Path(__file__).parents[1]
# Numbers of parameters of the published models; FLAN-T5's are those of T5 1.1.
PARAMETERS = {
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "mt5_small": 300_176_768,
    "mt5_base": 582_401_280,
    "mt5_large": 1_229_581_312,
    "mt5_xl": 3_742_619_648,
    "mt5_xxl": 12_921_057_280,
}


# Sizes of this project's own.
OWN = ("demo_small", "demo_large", "local_small", "local_large")


def test_every_file_of_the_family_has_its_count():
    names = {path.stem for path in (ROOT / "gin/models").glob("*t5_*.gin")}
    assert names == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_size_has_the_published_models_parameters(name):
    gin_config.load([f"gin/models/{name}.gin"])
    reference = gin.query_parameter(f"{name.upper()}/gin.macro.value")
    config = reference.scoped_configurable_fn()
    assert flops.parameter_count(families.parameter_shapes(config)) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name, embedding, others",
    [("gemma3_1b", 302_000_000, 698_000_000), ("gemma3_4b", 675_000_000, 3_209_000_000)],
)
def test_gemma_has_the_parameters_of_its_report(name, embedding, others):
    # Gemma 3 Technical Report, table 1.
    gin_config.load([f"gin/models/{name}.gin"])
    config = gin.query_parameter(f"{name.upper()}/gin.macro.value").scoped_configurable_fn()
    rows = config.vocab_size * config.embed_dim
    assert rows == pytest.approx(embedding, rel=6e-3)
    count = flops.parameter_count(families.parameter_shapes(config))
    assert count - rows == pytest.approx(others, rel=2e-3)


# What config.json of the public decoder-only models says, and how many parameters they have.
SMOLLM2 = {"model_type": "llama", "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 1e5,
           "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": True}  # fmt: skip
QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
         "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128}  # fmt: skip
LLAMA_SCALING = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                 "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
LLAMA3_2 = {"model_type": "llama", "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
            "rope_scaling": LLAMA_SCALING, "bos_token_id": 128000, "eos_token_id": 128001,
            "tie_word_embeddings": True}  # fmt: skip
GEMMA3 = {"model_type": "gemma3_text", "vocab_size": 262144, "head_dim": 256,
          "query_pre_attn_scalar": 256, "sliding_window": 512, "sliding_window_pattern": 6,
          "rope_theta": 1e6, "rope_local_base_freq": 1e4, "bos_token_id": 2}  # fmt: skip
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "intermediate_size")  # fmt: skip
DECODERS = {
    "smollm2_135m": (SMOLLM2, (576, 30, 9, 3, 1536), {}, 134_515_008),
    "smollm2_360m": (SMOLLM2, (960, 32, 15, 5, 2560), {}, 361_821_120),
    "smollm2_1_7b": (SMOLLM2, (2048, 24, 32, 32, 8192), {"rope_theta": 1.3e5}, 1_711_376_384),
    "gemma3_270m": (GEMMA3, (640, 18, 4, 1, 2048), {}, 268_098_176),
    "gemma3_1b": (GEMMA3, (1152, 26, 4, 1, 6912), {}, 999_885_952),
    "qwen3_0_6b": (QWEN3, (1024, 28, 16, 8, 3072), {"tie_word_embeddings": True}, 596_049_920),
    "qwen3_8b": (QWEN3, (4096, 36, 32, 8, 12288), {"tie_word_embeddings": False}, 8_190_735_360),
    "llama3_2_1b": (LLAMA3_2, (2048, 16, 32, 8, 8192), {}, 1_235_814_400),
    "llama3_2_3b": (LLAMA3_2, (3072, 28, 24, 8, 8192), {}, 3_212_749_824),
}


def model_of(name):
    """The model that a file of gin/models binds."""
    gin_config.load([f"gin/models/{name}.gin"])
    return gin.query_parameter(f"{name.upper()}/gin.macro.value").scoped_configurable_fn()


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_what_its_config_json_says(name, tmp_path):
    family, sizes, own, parameters = DECODERS[name]
    contents = {**family, **dict(zip(SIZES, sizes, strict=True)), **own}
    (tmp_path / "config.json").write_text(json.dumps(contents))
    _, public = hf.read_family(tmp_path)
    layout = {"dtype": "bfloat16", "remat": "full", "scan_layers": True}
    if family is SMOLLM2:  # id 0 starts a text: it is padding's here, whose id was 1
        layout["bos_id"] = 1
    config = model_of(name)
    assert config == dataclasses.replace(public, **layout)
    assert flops.parameter_count(families.parameter_shapes(config)) == parameters


def test_every_file_of_a_decoder_is_compared():
    names = {path.stem for path in (ROOT / "gin/models").glob("*.gin")}
    assert names == {*PARAMETERS, *DECODERS, "gemma3_4b", *OWN}


@pytest.mark.parametrize("file", sorted((ROOT / "gin/pairs").glob("*.gin")), ids=lambda f: f.stem)
def test_the_models_of_a_pair_share_a_vocabulary(file):
    gin_config.load([f"gin/pairs/{file.name}"])
    student, teacher = (
        gin.query_parameter(f"{role}/gin.macro.value").scoped_configurable_fn()
        for role in ("STUDENT", "TEACHER")
    )
    pair.ModelPair(student, teacher)
    assert student.embed_dim < teacher.embed_dim


@pytest.mark.parametrize("name", ["t5_1_1_small_large", "t5_1_1_base_xxl"])
def test_a_pair_file_says_which_is_which(name):
    gin_config.load([f"gin/pairs/{name}.gin"])
    small, large = (
        gin.query_parameter(f"{role}/gin.macro.value") for role in ("STUDENT", "TEACHER")
    )
    assert repr(small) == f"%T5_1_1_{name.split('_')[-2].upper()}"
    assert repr(large) == f"%T5_1_1_{name.split('_')[-1].upper()}"
