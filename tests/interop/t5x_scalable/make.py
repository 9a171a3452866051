"""Makes scanned.npz and unscanned.npz: T5X trains its scalable network and computes logits.

T5X alone trains the networks, writes the checkpoints and computes the logits; docs/t5x.md says how
to get it. From the project's folder:

    PYTHONPATH=.:$PYTHONPATH python tests/interop/t5x_scalable/make.py

Each file has the checkpoint's parameters under T5X's own names, "target/decoder/...", the tokens
given to the network and, for some positions, its logits.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from t5x.examples.scalable_t5 import network

HERE = pathlib.Path(__file__).parent
STEPS = 3
SETTINGS = {  # differ from train.gin's
    "scanned": {"scan_layers": True, "logits_via_embedding": False},
    "unscanned": {"scan_layers": False, "logits_via_embedding": True},
}
SIZES = {  # train.gin's
    "vocab_size": 384, "emb_dim": 8, "num_heads": 3, "head_dim": 4, "mlp_dim": 12,
    "num_encoder_layers": 2, "num_decoder_layers": 3, "mlp_activations": ("gelu", "linear"),
    "dropout_rate": 0.0,
}  # fmt: skip
POSITIONS = (0, 5, 23)


def train(name: str, folder: pathlib.Path) -> dict:
    """What T5X has trained, restored by Orbax."""
    config = "t5x.examples.scalable_t5.network.T5Config"
    flags = [f"--gin.{config}.{key}={value}" for key, value in SETTINGS[name].items()]
    command = [sys.executable, "-m", "t5x.train", f"--gin_file={HERE / 'train.gin'}"]
    subprocess.run([*command, f"--gin.MODEL_DIR='{folder}'", *flags], check=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(folder / f"checkpoint_{STEPS}" / "state")["target"]


def tokens() -> dict[str, np.ndarray]:
    """Rows so long that distances reach the logarithmic buckets, some of the inputs padded."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(3, 259, (2, 40))
    inputs[1, 29:] = 0
    targets = rng.integers(3, 259, (2, 24))
    decoder_inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    return {"inputs": inputs, "decoder_inputs": decoder_inputs, "targets": targets}


def main() -> None:
    rows = tokens()
    for name, settings in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            target = train(name, pathlib.Path(folder) / name)
        model = network.Transformer(network.T5Config(**SIZES, **settings))
        logits = model.apply({"params": target}, *rows.values(), enable_dropout=False)
        arrays = {key: array.astype(np.int16) for key, array in rows.items()}
        arrays |= {"positions": np.array(POSITIONS), "logits": logits[:, np.array(POSITIONS)]}
        arrays |= {f"target/{key}": value for key, value in flatten_dict(target, sep="/").items()}
        arrays = {key: np.asarray(array) for key, array in arrays.items()}
        np.savez_compressed(HERE / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
