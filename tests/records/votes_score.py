"""A deferral score of a column that the library does not know; see columns_test.py."""

import dataclasses

import numpy as np

from cascade_jax.deferral.scores import AnswerTokens


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """1 - the share of votes for the answer, plus how rough its tokens sound at most."""

    name = "disagreement"

    def __call__(self, answers: AnswerTokens) -> np.ndarray:
        roughest = np.maximum.reduceat(answers.per_token["roughness"], answers.offsets[:-1])
        return 1.0 - answers.per_example["votes"] + roughest
