"""cascade_jax: train, measure and calibrate cascades of a small and a large language model."""

__version__ = "0.1.0"
