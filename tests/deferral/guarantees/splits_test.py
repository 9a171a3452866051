"""Splits that share examples are refused, and the shared ones named."""

import pytest

from cascade_jax.deferral.guarantees import splits


def test_disjoint_splits_pass():
    splits.check_disjoint({"one": ["a", "b"], "two": ["c"], "test": [], "more": ("d",)})


def test_shared_examples_are_named():
    with pytest.raises(ValueError, match="'one' and 'test' share 2 of 3 examples: 'b', 'c'; take"):
        splits.check_disjoint({"one": list("abc"), "two": ["x"], "test": ["b", "y", "c"]})
    with pytest.raises(ValueError, match="share 7 of 7.*'4', …;"):
        splits.check_disjoint({"one": list("0123456"), "two": list("0123456")})


def test_copies_in_one_split_are_named():
    with pytest.raises(ValueError, match="'one' has 1 of its 3 examples more than once: 'a'"):
        splits.check_disjoint({"one": ["a", "b", "a"]})


def test_fingerprints_tell_texts_apart():
    seen = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("c", "ab")]
    assert len({splits.example_fingerprint(*texts) for texts in seen}) == len(seen)
    assert splits.example_fingerprint("ab", "c") == splits.example_fingerprint("ab", "c")
    assert splits.split_fingerprint(["a", "b"]) == splits.split_fingerprint(["b", "a"])
    assert splits.split_fingerprint(["a", "b"]) != splits.split_fingerprint(["ab"])
