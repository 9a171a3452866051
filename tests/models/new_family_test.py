"""A family of models that is added by one config and one module."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cascade_jax.batch import Batch
from cascade_jax.models import families, flops, layer_flops
from cascade_jax.models.config import ModelConfig
from cascade_jax.runs import run_folder
from cascade_jax.unembedding import Unembedding


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A value inside of a config."""

    scale: float


@dataclasses.dataclass(frozen=True)
class BagConfig(ModelConfig):
    """A model that predicts every target from the sum of its inputs' embeddings."""

    vocab_size: int
    embed_dim: int
    sizes: Sizes
    tied_logits: bool = True
    dtype: str = "float32"


class Bag(nn.Module):
    """The module of the family."""

    config: BagConfig

    def setup(self):
        shape = self.config.vocab_size, self.config.embed_dim
        self.embedding = self.param("embedding", nn.initializers.normal(), shape)

    def __call__(self, inputs, targets):
        return self.unembed(self.hidden(inputs, targets))

    def hidden(self, inputs, targets, deterministic=True):
        summed = self.encode(inputs).sum(1, keepdims=True)
        return jnp.broadcast_to(summed, (*targets.shape, summed.shape[-1]))

    def encode(self, inputs):
        return self.config.sizes.scale * self.embedding[inputs]

    def hidden_after(self, inputs, answers):
        is_own = inputs.segment_ids[:, None, :] == answers.segment_ids[:, :, None]
        return jnp.einsum("bws,bsd->bwd", is_own.astype(jnp.float32), self.encode(inputs.tokens))

    def unembed(self, hidden):
        return hidden @ self.embedding.T

    @nn.nowrap
    def example_arguments(self):
        tokens = jnp.zeros((1, 1), jnp.int32)
        return tokens, tokens

    @nn.nowrap
    def check_reads(self, architecture, pack):
        if pack:
            raise ValueError("a bag cannot be packed")

    @nn.nowrap
    def reading(self, batch):
        return (batch.inputs, batch.targets), {}

    @nn.nowrap
    def unembedding(self, params):
        return Unembedding(params["embedding"], tied=True)

    @nn.nowrap
    def prefill_flops(self, input_length):
        return 0

    @nn.nowrap
    def state_flops(self, input_length, layer):
        return 0

    @nn.nowrap
    def forward_flops(self, input_length, target_length):
        return target_length * layer_flops.logits(self.config)

    @nn.nowrap
    def decode_flops(self, input_length, position):
        return layer_flops.logits(self.config)


def test_a_new_family_is_used_like_the_others(monkeypatch):
    monkeypatch.setitem(families.FAMILIES, BagConfig, Bag)
    config = BagConfig(7, 3, Sizes(2.0))
    model = families.build(config)
    assert families.is_model(model)
    params = families.initialize(model, jax.random.key(0))
    assert flops.parameter_count(families.parameter_shapes(config)) == 21
    batch = Batch(
        jnp.array([[1, 2]]), jnp.array([[0, 3, 4]]), jnp.array([[3, 4, 5]]), jnp.ones((1, 3))
    )
    logits = families.logits(model, params, batch)
    expected = 2 * (params["embedding"][1] + params["embedding"][2]) @ params["embedding"].T
    np.testing.assert_allclose(logits[0], np.tile(expected, (3, 1)), rtol=1e-5)
    hidden, unembedding = families.hidden_and_unembedding(model, params, batch)
    np.testing.assert_allclose(unembedding.logits(hidden), logits, rtol=1e-5)
    assert flops.answer_flops(config, 5, 4) == 4 * 2 * 3 * 7
    assert flops.ranking_flops(config, 5, [1, 2]) == 3 * 2 * 3 * 7
    assert run_folder.model_of({"model": run_folder.describe(config)}) == config
