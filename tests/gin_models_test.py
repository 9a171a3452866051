"""The T5 family's gin files against the parameter counts of the public checkpoints."""

from pathlib import Path

import gin
import pytest

from cascade_jax.cli import gin_config
from cascade_jax.models import families, flops

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


@pytest.mark.parametrize("pair", ["t5_1_1_small_large", "t5_1_1_base_xxl"])
def test_a_pair_file_says_which_is_which(pair):
    gin_config.load([f"gin/pairs/{pair}.gin"])
    small, large = (
        gin.query_parameter(f"{role}/gin.macro.value") for role in ("STUDENT", "TEACHER")
    )
    assert repr(small) == f"%T5_1_1_{pair.split('_')[-2].upper()}"
    assert repr(large) == f"%T5_1_1_{pair.split('_')[-1].upper()}"
