"""The losses in NumPy float64, one token at a time, from the papers' formulas; no test by itself.

Gradients go the long way, by the Jacobian of the softmax, so that no closed form of the package is
repeated here. alpha and every "is right" are constants for them.
"""

import dataclasses

import numpy as np

DEFAULTS = dict(
    normalizer="tokens",
    label_smoothing=0.0,
    z_loss=0.0,
    label_weight=0.5,
    temperature=1.0,
    divergence="cross_entropy",
    beta=0.5,
    correct_weight=0.5,
    direction="to_uniform",
    labels="data",
)


@dataclasses.dataclass
class Logits:
    """The teacher's logits, [n, V]."""

    values: np.ndarray


@dataclasses.dataclass
class TopK:
    """The teacher's log-probs of some tokens, [n, k], and their ids."""

    log_probs: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass
class Argmax:
    """Whether the teacher's argmax is the label, [n]."""

    is_right: np.ndarray


@dataclasses.dataclass
class Sums:
    """What a loss head must give; `gradient` is that of loss_sum for the student's logits."""

    loss_sum: float
    count: float
    gradient: np.ndarray
    metrics: dict[str, tuple[float, float]]


def sums(variant, options, student, teacher, targets, weights):
    """Sums over the tokens with a weight; `student` is logits [n, V], labels, weights [n]."""
    options = DEFAULTS | options
    student = np.asarray(student, np.float64)
    result = Sums(0.0, 0.0, np.zeros(student.shape), {})
    for i in range(len(student)):
        if weights[i] == 0:
            continue
        weight, facts = float(weights[i]), at(teacher, i)
        value, gradient, kept = token(variant, options, student[i], facts, targets[i])
        result.loss_sum += weight * value
        result.gradient[i] = weight * gradient
        result.count += weight if options["normalizer"] == "tokens" else weight * kept
        for name, (number, mask) in metrics(student[i], facts, targets[i], kept).items():
            above, below = result.metrics.get(name, (0.0, 0.0))
            result.metrics[name] = above + weight * mask * number, below + weight * mask
    result.metrics["loss"] = result.loss_sum, result.count
    return result


def at(teacher, i):
    """The teacher of token i: float64 logits, a pair (log-probs, ids), a bool, or None."""
    match teacher:
        case None:
            return None
        case Logits(values):
            return np.asarray(values[i], np.float64)
        case TopK(log_probs, ids):
            return np.asarray(log_probs[i], np.float64), np.asarray(ids[i])
        case Argmax(is_right):
            return bool(is_right[i])


def token(variant, options, s, teacher, y):
    """(loss, gradient for s, alpha) of one token."""
    if variant == "Gatekeeper":
        value, gradient = gatekeeper(options, s, teacher, y)
        kept = True
    else:
        ok_s, ok_l = s[y] == s.max(), teacher_is_right(teacher, y)
        kept = {"L": ok_l, "S": ok_s}.get(variant[-1], ok_s or ok_l) if "CAT" in variant else True
        value, gradient = hard(options, s, y)
        if "Dist" in variant and options["label_weight"] < 1:
            w, t = options["label_weight"], options["temperature"]
            soft, d_soft = divergence(options, s, teacher)
            value = w * value + (1 - w) * t**2 * soft
            gradient = w * gradient + (1 - w) * t**2 * d_soft
    log_z = np.log(np.exp(s).sum())
    value = value + options["z_loss"] * log_z**2
    gradient = gradient + options["z_loss"] * 2 * log_z * softmax(s)
    return kept * value, kept * gradient, float(kept)


def gatekeeper(options, s, teacher, y):
    """a [right] ce + (1 - a) [wrong] KL, against the label or the teacher's argmax."""
    a, size, p = options["correct_weight"], len(s), softmax(s)
    if options["labels"] == "teacher":
        y = teacher_argmax(teacher)
    if s[y] == s.max():
        value, gradient = hard(options, s, y)
        return a * value, a * gradient
    if options["direction"] == "to_uniform":  # sum_v p(v) log(p(v) / (1/V))
        value, d_p = (p * np.log(p * size)).sum(), np.log(p * size) + 1
    else:  # sum_v (1/V) log((1/V) / p(v))
        value, d_p = -np.log(p * size).mean(), -1 / (size * p)
    return (1 - a) * value, (1 - a) * softmax_jacobian(p) @ d_p


def hard(options, s, y):
    """T5X: cross-entropy with the smoothed label, less that label's entropy."""
    e, p = options["label_smoothing"], softmax(s)
    q = np.full(len(s), e / (len(s) - 1))
    q[y] = 1 - e
    entropy = -sum(x * np.log(x) for x in q if x > 0)
    return -(q * np.log(p)).sum() - entropy, p - q


def divergence(options, s, teacher):
    """(D, gradient for s) at the temperature, without its square."""
    t = options["temperature"]
    if isinstance(teacher, tuple):  # k tokens and the others together, then the temperature
        log_probs, ids = teacher
        of_bucket = np.zeros((len(ids), len(s)))
        of_bucket[np.arange(len(ids)), ids] = 1
        known = np.exp(log_probs)
        if len(ids) < len(s):
            of_bucket = np.vstack([of_bucket, 1 - of_bucket.sum(0)])
            known = np.append(known, max(1 - known.sum(), 1e-7))
        ours = of_bucket @ softmax(s)
        # d log(bucket) / d s, and the softmax of log(bucket) / t after it
        d_log = of_bucket * softmax(s) / ours[:, None] - softmax(s)
        p, q = softmax(np.log(ours) / t), softmax(np.log(known) / t)
    else:
        d_log = np.eye(len(s))
        p, q = softmax(s / t), softmax(teacher / t)
    match options["divergence"]:
        case "cross_entropy":
            value, d_p = -(q * np.log(p)).sum(), -q / p
        case "forward_kl":
            value, d_p = (q * np.log(q / p)).sum(), -q / p
        case "reverse_kl":
            value, d_p = (p * np.log(p / q)).sum(), np.log(p / q) + 1
        case "jensen_shannon":
            b = options["beta"]
            m = b * q + (1 - b) * p
            value = b * (q * np.log(q / m)).sum() + (1 - b) * (p * np.log(p / m)).sum()
            d_p = -b * q * (1 - b) / m + (1 - b) * (np.log(p / m) + 1 - p * (1 - b) / m)
    return value, d_log.T @ softmax_jacobian(p) @ d_p / t


def metrics(s, teacher, y, kept):
    """Each metric of a token as (number, whether the token counts for it)."""
    p = softmax(s)
    ok_s, entropy = s[y] == s.max(), -(p * np.log(p)).sum()
    result = {
        "cross_entropy": (-np.log(p[y]), True),
        "student_token_accuracy": (ok_s, True),
        "kept": (kept, True),
        "student_entropy_right": (entropy, ok_s),
        "student_entropy_wrong": (entropy, not ok_s),
    }
    if teacher is not None:
        ok_l = teacher_is_right(teacher, y)
        result["teacher_token_accuracy"] = ok_l, True
        result["right_both"] = ok_s and ok_l, True
        result["right_student_only"] = ok_s and not ok_l, True
        result["right_teacher_only"] = ok_l and not ok_s, True
    if isinstance(teacher, np.ndarray):
        q = softmax(teacher)
        result["teacher_kl"] = (q * np.log(q / p)).sum(), True
    return result


def teacher_is_right(teacher, y):
    """No token has a larger logit (or known log-prob) than the label."""
    match teacher:
        case None:
            return False
        case bool():
            return teacher
        case (log_probs, ids):
            return any(i == y and x == max(log_probs) for x, i in zip(log_probs, ids, strict=True))
        case _:
            return teacher[y] == teacher.max()


def teacher_argmax(teacher):
    """Its most likely token; of several, the smallest id."""
    if isinstance(teacher, tuple):
        log_probs, ids = teacher
        return min(i for x, i in zip(log_probs, ids, strict=True) if x == max(log_probs))
    return int(np.flatnonzero(teacher == teacher.max())[0])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def softmax_jacobian(p):
    """d p / d logits."""
    return np.diag(p) - np.outer(p, p)
