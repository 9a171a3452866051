"""Tiny models, ragged batches and a JSONL task, shared by tests."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from cascade_jax.batch import Batch
from cascade_jax.models import families
from cascade_jax.models.config import T5Config

VOCAB_SIZE = 64

# By one compiled program, which takes a tenth of an operation at a time.
logits = jax.jit(families.logits, static_argnums=0)
_initialize = jax.jit(families.initialize, static_argnums=0)


def t5_config(embed_dim: int = 16, **changes) -> T5Config:
    """A one-layer T5 whose sizes divide by 8, without dropout."""
    settings = dict(
        vocab_size=VOCAB_SIZE,
        embed_dim=embed_dim,
        num_heads=8,
        head_dim=4,
        mlp_dim=32,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dropout_rate=0.0,
    )
    return T5Config(**(settings | changes))


def initialize(model: families.Model, seed: int = 0) -> dict:
    """Fresh parameters."""
    return _initialize(model, jax.random.key(seed))


def ragged_batch(rows: int, seed: int = 0, input_length: int = 12, target_length: int = 8) -> Batch:
    """Random tokens; every row has another number of targets, from 0 up."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(2, VOCAB_SIZE, (rows, target_length))
    lengths = np.arange(rows) % (target_length + 1)
    weights = (np.arange(target_length) < lengths[:, None]).astype(np.float32)
    targets = (targets * (weights > 0)).astype(np.int32)
    decoder_inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    inputs = rng.integers(1, VOCAB_SIZE, (rows, input_length)).astype(np.int32)
    return Batch(inputs=inputs, decoder_inputs=decoder_inputs, targets=targets, weights=weights)


def write_jsonl(folder: Path, task: str, split: str, rows: Sequence[dict], before="") -> Path:
    """Writes `<folder>/<task>/<split>.jsonl`: a line for each row, after the text `before`."""
    file = folder / task / f"{split}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(before + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file
