"""Sentences, and worse versions of them."""

WORDS = ["The", "cat", "sat,", "on", "it.", "U.S.", "3.5%", "(no)", "Cat", "ran"]


def sentences(rng, count):
    return [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(count)]


def spoilt(rng, targets, share):
    """Answers that lose or change a share of the words."""
    return [
        " ".join(w if rng.random() > share else str(rng.choice(WORDS)) for w in text.split())
        for text in targets
    ]
