"""Loss variants with options that between them use every formula, and random batches for them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cascade_jax.losses import teachers, variants
from cascade_jax.unembedding import Unembedding

# test id -> (class in variants.py, options)
CASES = {
    "xent": ("Xent", {}),
    "xent_smoothing_z": ("Xent", dict(label_smoothing=0.1, z_loss=0.01)),
    "dist": ("Dist", {}),
    "dist_w1": ("Dist", dict(label_weight=1.0)),
    "dist_w0_t2": ("Dist", dict(label_weight=0.0, temperature=2.0)),
    "dist_w.3_t.5_all": (
        "Dist",
        dict(label_weight=0.3, temperature=0.5, label_smoothing=0.2, z_loss=0.02),
    ),
    "dist_forward_t3": ("Dist", dict(divergence="forward_kl", temperature=3.0)),
    "dist_reverse": ("Dist", dict(divergence="reverse_kl")),
    "dist_reverse_t2": ("Dist", dict(divergence="reverse_kl", temperature=2.0, label_weight=0.2)),
    "dist_jsd": ("Dist", dict(divergence="jensen_shannon")),
    "dist_jsd_t1.5": (
        "Dist",
        dict(divergence="jensen_shannon", beta=0.2, temperature=1.5, label_weight=0.0),
    ),
    "cat_xent": ("CATXent", {}),
    "cat_xent_kept_z": ("CATXent", dict(normalizer="kept", z_loss=0.05, label_smoothing=0.1)),
    "cat_xent_l": ("CATXentL", {}),
    "cat_xent_s": ("CATXentS", dict(normalizer="kept")),
    "cat_dist": ("CATDist", {}),
    "cat_dist_kept": ("CATDist", dict(normalizer="kept", label_weight=0.7, z_loss=0.01)),
    "cat_dist_l": ("CATDistL", dict(temperature=2.0)),
    "cat_dist_s": ("CATDistS", dict(divergence="jensen_shannon", beta=0.7)),
    "gatekeeper": ("Gatekeeper", dict(correct_weight=0.3)),
    "gatekeeper_from": ("Gatekeeper", dict(correct_weight=0.8, direction="from_uniform")),
    "gatekeeper_teacher": ("Gatekeeper", dict(labels="teacher", label_smoothing=0.1, z_loss=0.02)),
    "gatekeeper_from_teacher": (
        "Gatekeeper",
        dict(labels="teacher", direction="from_uniform", correct_weight=0.1),
    ),
}
# Those that a teacher's right or wrong is enough for.
ARGMAX_CASES = [n for n in CASES if n.startswith(("xent", "cat_xent"))] + ["gatekeeper", "dist_w1"]


def build(case):
    """The variant of a case."""
    name, options = CASES[case]
    return getattr(variants, name)(**options)


def labels_often_right(rng, student, teacher):
    """int32 labels of which some are the student's argmax, some the teacher's, some neither's."""
    shape, vocabulary = student.shape[:-1], student.shape[-1]
    draw, anything = rng.random(shape), rng.integers(0, vocabulary, shape)
    result = np.where(
        draw < 0.3, student.argmax(-1), np.where(draw < 0.6, teacher.argmax(-1), anything)
    )
    return result.astype(np.int32)


def top_k(logits, k):
    """(float32 log-probs, int32 ids) of the k largest of each row, in float64."""
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ids = np.argsort(-log_p, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(log_p, ids, -1).astype(np.float32), ids.astype(np.int32)


@dataclasses.dataclass
class Problem:
    """Hidden states of 8 rows, the output maps of both models, labels, and uneven weights.

    The models differ in all that they may: width, tied or not, scale, bias, cap, padding columns.
    """

    hidden: jax.Array
    ours: Unembedding
    theirs: jax.Array
    their_map: Unembedding
    targets: jax.Array
    weights: jax.Array

    ROWS, LENGTH, WIDTH, THEIR_WIDTH, VOCAB = 8, 6, 16, 24, 50
    COLUMNS, THEIR_COLUMNS = 56, 64

    @classmethod
    def draw(cls, seed=0, ours=None, their_map=None, hidden_dtype="float32"):
        """`ours` and `their_map` are settings of the maps that replace the usual ones."""
        rng = np.random.default_rng(seed)
        tokens = cls.ROWS, cls.LENGTH
        our_settings = dict(bias=True, soft_cap=4.0, vocab_size=cls.VOCAB) if ours is None else ours
        their_settings = dict(tied=True, scale=0.5, vocab_size=cls.VOCAB)
        our_map = draw_map(rng, cls.WIDTH, cls.COLUMNS, **our_settings)
        their_map = draw_map(
            rng, cls.THEIR_WIDTH, cls.THEIR_COLUMNS, **(their_map or their_settings)
        )
        hidden = jnp.asarray(rng.normal(size=(*tokens, cls.WIDTH)), hidden_dtype)
        theirs = jnp.asarray(rng.normal(size=(*tokens, cls.THEIR_WIDTH)), hidden_dtype)
        targets = labels_often_right(rng, logits(our_map, hidden), logits(their_map, theirs))
        weights = rng.choice([0, 0, 0.25, 1, 1, 1, 2], tokens).astype(np.float32)
        weights[:, 0], weights[:, -1] = 1, 0
        return cls(hidden, our_map, theirs, their_map, jnp.asarray(targets), jnp.asarray(weights))

    @property
    def arrays(self):
        """(what is differentiated, the rest) as arguments of a compiled function."""
        rest = self.theirs, self.their_map, self.targets, self.weights
        return (self.hidden, self.ours), rest

    def top_k(self, k=5):
        """The teacher's top-k facts, from float64."""
        return teachers.TeacherTopK(
            *map(jnp.asarray, top_k(logits(self.their_map, self.theirs), k))
        )

    def argmax(self):
        """The teacher's argmax facts, from float64."""
        theirs = logits(self.their_map, self.theirs)
        label = np.take_along_axis(theirs, np.asarray(self.targets)[..., None], -1)[..., 0]
        return teachers.TeacherArgmax(jnp.asarray(label >= theirs.max(-1)))


def draw_map(rng, width, columns, tied=False, bias=False, **settings):
    """A random Unembedding."""
    kernel = rng.normal(size=(columns, width) if tied else (width, columns)) * 2 / np.sqrt(width)
    bias = jnp.asarray(rng.normal(size=columns), jnp.float32) if bias else None
    return Unembedding(jnp.asarray(kernel, jnp.float32), bias=bias, tied=tied, **settings)


def logits(head, hidden):
    """Logits in float64 of the operands as the head's dtype rounds them."""
    kernel = np.asarray(head.kernel.astype(head.dtype), np.float64)
    kernel = kernel.T if head.tied else kernel
    result = np.asarray(hidden.astype(head.dtype), np.float64) * head.scale @ kernel
    result = result if head.bias is None else result + np.asarray(head.bias, np.float64)
    if head.soft_cap is not None:
        result = head.soft_cap * np.tanh(result / head.soft_cap)
    return result[..., : head.num_ids]
