"""With T5X itself: its scalable network reads what we write, and we read what it has trained."""

import dataclasses

import jax
import numpy as np
import pytest

from cascade_jax.interop import t5x_checkpoints, t5x_storage
from cascade_jax.models import families, t5
from cascade_jax.models.config import T5Config
from tests.support import fakes, t5x_peer
from tests.support.t5x_peer import run

pytestmark = [pytest.mark.medium, t5x_peer.needed]

CONFIG = T5Config(64, 16, 2, 8, 24, 2, 3, dropout_rate=0.0)
SCALABLE = """
import sys
import jax
import numpy as np
from t5x import checkpoints
from t5x.examples.scalable_t5 import network
config = network.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_encoder_layers=2,
    num_decoder_layers=3, mlp_activations=("gelu", "linear"), dropout_rate=0.0,
    scan_layers=sys.argv[4] == "scanned")
params = checkpoints.load_t5x_checkpoint(sys.argv[1])["target"]
batch = np.load(sys.argv[2])
logits = network.Transformer(config).apply(
    {"params": jax.tree.map(np.asarray, params)}, batch["inputs"], batch["decoder_inputs"],
    batch["targets"], enable_dropout=False)
np.savez(sys.argv[3], logits=logits)
"""


@pytest.mark.parametrize(
    ("per_layer", "layout"), [(False, "scanned"), (True, "scanned"), (True, "unrolled")]
)
def test_t5xs_scalable_network_gives_our_logits_from_an_export(tmp_path, per_layer, layout):
    config = dataclasses.replace(CONFIG, relative_bias_per_layer=per_layer)
    params = families.initialize(families.build(config), jax.random.key(3))
    export = t5x_checkpoints.save(tmp_path, config, params, layout=layout)
    batch = fakes.ragged_batch(6)
    tokens = {name: getattr(batch, name) for name in ("inputs", "decoder_inputs", "targets")}
    np.savez(tmp_path / "batch.npz", **tokens)
    run("-c", SCALABLE, export, tmp_path / "batch.npz", tmp_path / "logits.npz", layout)
    theirs = np.load(tmp_path / "logits.npz")["logits"]
    ours = t5.T5(config).apply({"params": params}, batch.inputs, batch.decoder_inputs)
    counted = batch.weights > 0
    np.testing.assert_allclose(ours[counted], theirs[counted], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_what_t5x_trained_with_its_scalable_network_comes_in_and_goes_out(tmp_path, scan_layers):
    """The checkpoint that `t5x.train` writes, statistics of its optimizer included."""
    scan = f"--gin.t5x.examples.scalable_t5.network.T5Config.scan_layers={scan_layers}"
    arguments = ["--gin_file=tests/interop/t5x_scalable/train.gin", scan]
    run("-m", "t5x.train", *arguments, f"--gin.MODEL_DIR='{tmp_path}'")
    path = tmp_path / "checkpoint_3"
    config = t5x_checkpoints.config_of(path)
    assert config.relative_bias_per_layer
    trained = t5x_checkpoints.load(path, config, optimizer=True)
    out = t5x_checkpoints.save(
        tmp_path / "out", config, trained.params, trained.step,
        statistics=trained.statistics, layout=trained.layout,
    )  # fmt: skip
    theirs, ours = (
        dict(t5x_storage.read_all(folder, t5x_storage.open_checkpoint(folder)))
        for folder in (path, out)
    )
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg="/".join(name))
