"""Deferral scores and learned routers on made answers of which it is known what tells the errors.

    python tests/benchmarks/scores.py            # areas, the tables of docs/scores.md; seconds
    python tests/benchmarks/scores.py --speed    # seconds for a million answers of 32 tokens; 6 GB
    python tests/benchmarks/scores.py --samples  # seconds for 3,000 examples of ten samples

Two kinds of answers, by the small model; the large model is right on 85 % of all.

spiky: right answers are a little unsure everywhere, wrong ones have a few very unsure tokens among
sure ones. How unsure a token is on average is drawn alike for both, so the mean says nothing.

length: an answer is the likelier wrong the less sure its tokens are on average, whatever its
length, which is drawn from 1 to 60 evenly in its logarithm.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from cascade_jax.deferral import (
    routers,  # noqa: E402
    scores,  # noqa: E402
)
from cascade_jax.evaluation import curves  # noqa: E402

ROUTERS = (
    routers.LogisticRouter(),
    routers.MlpRouter(),
    routers.BoostedRouter(),
    routers.EdgeRouter(),
)
Examples = tuple[scores.AnswerTokens, np.ndarray, np.ndarray]


def spiky(n: int, seed: int) -> Examples:
    """Answers, and both models' quality, where quantiles tell the errors and the mean does not."""
    rng = np.random.default_rng(seed)
    is_right = rng.random(n) < 0.6
    lengths = rng.integers(8, 40, n)
    row = np.repeat(np.arange(n), lengths)
    even, uneven = rng.gamma(4.0, 1.0, len(row)), rng.gamma(0.3, 1.0, len(row)) + 1e-6
    level = np.exp(rng.normal(-1.0, 0.5, n))
    return _examples(np.where(is_right[row], even, uneven), lengths, level, is_right, rng, seed)


def length_biased(n: int, seed: int) -> Examples:
    """Answers, and both models' quality, where the mean tells the errors and length does not."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.uniform(0.0, np.log(61.0), n)).astype(np.int64)
    level = np.exp(rng.normal(-1.0, 0.7, n))
    is_right = rng.random(n) < 1 / (1 + np.exp(6.0 * (level - 0.45)))
    shape = rng.gamma(2.0, 1.0, int(lengths.sum()))
    return _examples(shape, lengths, level, is_right, rng, seed)


def _examples(shape, lengths, level, is_right, rng, seed) -> Examples:
    """Log-probs in the given shape, scaled so that each answer's mean is minus its level."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    mean = np.add.reduceat(shape, offsets[:-1]) / lengths
    log_probs = -(shape * np.repeat(level / mean, lengths)).astype(np.float32)
    ids = [f"made/{seed}/{i}" for i in range(len(lengths))]
    teacher = (rng.random(len(lengths)) < 0.85).astype(np.float64)
    answers = scores.AnswerTokens(log_probs, None, offsets, ids)
    return answers, is_right.astype(np.float64), teacher


def area(score, examples: Examples) -> float:
    """Area under quality against deferral rate."""
    answers, *qualities = examples
    return curves.area(curves.deferral_curve(score(answers), *qualities, 1.0, 1.0))


MAKES = {"spiky": spiky, "length": length_biased}


def areas(make, n: int = 10_000) -> dict[str, float]:
    """Of every score on 10,000 examples; the routers fitted on 2,000 others."""
    calibration, judged = make(2000, seed=1), make(n, seed=2)
    result = {"deferring at random": curves.random_area(*map(np.mean, judged[1:]))}
    result |= {score.name: area(score, judged) for score in scores.available(judged[0])}
    for router in ROUTERS:
        result[router.name] = area(router.fit(*calibration, "calibration"), judged)
    student, teacher = judged[1:]
    oracle = curves.deferral_curve(teacher - student, student, teacher, 1.0, 1.0)
    return result | {"oracle": curves.area(oracle)}


def million(n: int = 1_000_000) -> scores.AnswerTokens:
    """Answers of 1 to 63 tokens, 32 on average, with ten log-probs each."""
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 64, n))])
    top = np.empty((offsets[-1], 10), np.float32)
    top[:, 0] = -rng.exponential(size=len(top))
    for k in range(1, 10):
        top[:, k] = top[:, 0] - k
    return scores.AnswerTokens(top[:, 0].copy(), -top[:, 0], offsets, None, top)


def sampled(n: int = 3000, samples: int = 10, words: int = 12) -> scores.AnswerTokens:
    """Sampled answers of `words` words, almost no two of them equal."""
    rng = np.random.default_rng(0)
    texts = rng.integers(0, 500, (n, 1, words)).repeat(samples, axis=1)
    is_other = rng.random(texts.shape) < 0.4
    texts = np.where(is_other, rng.integers(0, 500, texts.shape), texts)
    spoken = [[" ".join(map(str, text)) for text in row] for row in texts.tolist()]
    log_probs = -rng.exponential(size=n * samples * (words + 1))
    made = scores.SampledAnswers(
        texts=[text for row in spoken for text in row],
        offsets=np.arange(0, n * samples + 1, samples),
        log_probs=log_probs,
        token_offsets=np.arange(0, len(log_probs) + 1, words + 1),
        greedy=[row[0] for row in spoken],
    )
    one_each = np.arange(n + 1)
    return scores.AnswerTokens(np.zeros(n), None, one_each, samples_fn=lambda: made)


def print_seconds(answers: scores.AnswerTokens, several) -> None:
    """Seconds that each score takes, in order: a similarity is computed by the first that asks."""
    print(f"| score | seconds, {answers.num_examples:,} answers |\n| --- | --- |")
    for score in several:
        start = time.perf_counter()
        score(answers)
        print(f"| {score.name} | {time.perf_counter() - start:.2f} |")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--samples", action="store_true")
    options = parser.parse_args()
    if options.samples:
        print_seconds(sampled(), scores.FROM_SAMPLES)
        return
    if options.speed:
        answers = million()
        fitted = [router.fit(*spiky(2000, seed=1), "calibration") for router in ROUTERS]
        print_seconds(answers, [*scores.available(answers), *fitted])
        return
    columns = {kind: areas(make) for kind, make in MAKES.items()}
    print("| score | spiky | length |\n| --- | --- | --- |")
    for name in columns["spiky"]:
        print(f"| {name} | {columns['spiky'][name]:.3f} | {columns['length'][name]:.3f} |")


if __name__ == "__main__":
    main()
