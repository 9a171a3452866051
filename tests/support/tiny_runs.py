"""Tiny runs for plans: large enough that matmuls are what they compute.

Layers are many, which costs a scanned model nothing, so that a stack of them is the largest array.
"""

from cascade_jax.data import pipeline
from cascade_jax.losses import variants
from cascade_jax.training.experiment import TrainRun
from cascade_jax.training.optimizers import Adafactor
from tests.support import fakes

LAYERS = 12
OPTIMIZER = Adafactor(learning_rate=1e-3, min_dim_size_to_factor=8)


def run(**changes) -> TrainRun:
    """A CAT-Dist run of a scanned T5 with a larger teacher; nothing of it is on disk."""
    settings = dict(vocab_size=256, head_dim=8, mlp_dim=128, scan_layers=True)
    settings |= dict(num_encoder_layers=LAYERS, num_decoder_layers=LAYERS)
    student = fakes.t5_config(32, **settings, remat="full", dropout_rate=0.1)
    fields = dict(
        name="cat_dist",
        model=student,
        teacher=fakes.t5_config(64, **settings),
        teacher_run="teacher",
        data=pipeline.DataConfig(
            "no_such_mixture", input_length=32, target_length=16, batch_size=32
        ),
        loss=variants.CATDist(),
        optimizer=OPTIMIZER,
        steps=1000,
    )
    return TrainRun(**(fields | changes))
