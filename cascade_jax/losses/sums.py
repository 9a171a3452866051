"""From per-token terms to sums that add up over microbatches and shards."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cascade_jax import metrics, numerics


@flax.struct.dataclass
class LossSums:
    """Sums over the tokens of one microbatch."""

    loss_sum: Float[Array, ""]  # of the per-token losses, weights applied
    count: Float[Array, ""]  # divides the loss in the end; 0 gives loss and gradient 0
    metrics: dict[str, metrics.Ratio]  # keyed by the constants of `cascade_jax.metrics`


@flax.struct.dataclass
class TokenTerms:
    """What a loss head finds out about each token; all float32 or bool, of one shape."""

    loss: Float[Array, "*n"]  # the variant's, alpha applied, weights not
    kept: Float[Array, "*n"]  # alpha, 0 or 1
    cross_entropy: Float[Array, "*n"]  # -log p_S(y), nats, whatever the variant
    entropy: Float[Array, "*n"]  # of the student's distribution, nats
    student_ok: Bool[Array, "*n"]  # no token has a larger logit than the label
    teacher_ok: Bool[Array, "*n"] | None  # likewise; None without a teacher
    teacher_kl: Float[Array, "*n"] | None  # KL(p_L || p_S), nats; None if not asked for or known


def reduce(terms: TokenTerms, weights: Float[Array, "*n"], normalizer: str) -> LossSums:
    """The sums of a microbatch; `terms` may be anything, NaN included, where the weight is 0.

    The normalizer "tokens" counts all weights, "kept" those of the tokens that alpha keeps.
    """
    weights = weights.astype(jnp.float32)
    tokens = jnp.sum(weights)
    loss_sum = numerics.masked_sum(terms.loss, weights)
    count = tokens if normalizer == "tokens" else numerics.masked_sum(terms.kept, weights)

    def mean(values, mask=weights):
        return metrics.Ratio(numerics.masked_sum(values, mask), jnp.sum(mask))

    right = weights * terms.student_ok
    means = {
        metrics.LOSS: metrics.Ratio(loss_sum, count),
        metrics.CROSS_ENTROPY: mean(terms.cross_entropy),
        metrics.STUDENT_ACCURACY: mean(terms.student_ok),
        metrics.KEPT: mean(terms.kept),
        metrics.ENTROPY_RIGHT: mean(terms.entropy, right),
        metrics.ENTROPY_WRONG: mean(terms.entropy, weights - right),
    }
    if terms.teacher_ok is not None:
        means[metrics.TEACHER_ACCURACY] = mean(terms.teacher_ok)
        means[metrics.RIGHT_BOTH] = mean(terms.student_ok & terms.teacher_ok)
        means[metrics.RIGHT_STUDENT_ONLY] = mean(terms.student_ok & ~terms.teacher_ok)
        means[metrics.RIGHT_TEACHER_ONLY] = mean(terms.teacher_ok & ~terms.student_ok)
    if terms.teacher_kl is not None:
        means[metrics.TEACHER_KL] = mean(terms.teacher_kl)
    return LossSums(loss_sum, count, means)
