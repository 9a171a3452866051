"""Greedy answers in one call."""

from cascade_jax.inference.generate import make_generate_fn


def generate(model, params, inputs, *, max_length, eos_id, top_k=0):
    """What `make_generate_fn` gives for these inputs."""
    return make_generate_fn(model, max_length, eos_id, top_k)(params, inputs)
