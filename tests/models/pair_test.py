"""A pair shares one vocabulary."""

import dataclasses

import pytest

from cascade_jax.models.config import T5Config
from cascade_jax.models.pair import ModelPair

SMALL = T5Config(32, 8, 2, 4, 16, 1, 1)


def test_pair_of_other_widths_is_fine():
    large = dataclasses.replace(SMALL, embed_dim=16, num_decoder_layers=3)
    pair = ModelPair(student=SMALL, teacher=large)
    assert (pair.student, pair.teacher) == (SMALL, large)


def test_other_vocabulary_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match="student.vocab_size = 32, teacher.vocab_size = 48"):
        ModelPair(student=SMALL, teacher=dataclasses.replace(SMALL, vocab_size=48))
