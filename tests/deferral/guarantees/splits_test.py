"""Splits share no example by id or text; the seed alone decides them, and the sizes are kept."""

import numpy as np
import pytest

from cascade_jax.deferral.guarantees import splits

IDS = [f"task/validation/{i}" for i in range(40)]
TEXTS = [f"input number {i}" for i in range(40)]


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


def parts(result):
    return [result.first.tolist(), result.second.tolist(), result.test.tolist()]


@pytest.mark.parametrize("sizes", [(10, 10, 20), (5, 8, 3), (1, 1, None)])
def test_a_draw_shares_no_row_and_has_the_sizes(sizes):
    result = parts(splits.draw(np.arange(40), None, sizes, seed=3))
    rows = sum(result, [])
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(40))
    assert [len(part) for part in result] == [sizes[0], sizes[1], sizes[2] or 38]


def test_the_seed_alone_decides():
    draws = [parts(splits.draw(np.arange(40), None, (10, 10, 20), seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_rows_of_another_split_are_tested_on_and_nothing_else_of_them():
    result = splits.draw(np.arange(25), np.arange(25, 40), (10, 15, None), seed=0)
    assert sorted([*result.first, *result.second]) == list(range(25))
    assert sorted(result.test) == list(range(25, 40))


@pytest.mark.parametrize("sizes, test_rows", [((30, 10, None), None), ((10, 10, 21), None),
                                              ((10, 10, 6), np.arange(40, 45))])  # fmt: skip
def test_more_than_there_is_is_refused(sizes, test_rows):
    with pytest.raises(ValueError, match=r"do not fit into the 40 examples without repeated"):
        splits.draw(np.arange(40), test_rows, sizes, seed=0)


def test_a_text_that_comes_again_is_left_out_whatever_its_white_space():
    assert splits.without_repetitions(["a b", "c", " a  b\n", "A b"]).tolist() == [0, 1, 3]


def test_overlaps_are_refused_by_id_and_by_text():
    first, second = (IDS[:5], TEXTS[:5]), (IDS[5:9], TEXTS[5:9])
    splits.check_examples_disjoint({"first": first, "second": second})
    with pytest.raises(ValueError, match="'first' and 'test' share 1 of 2 .*task/validation/4"):
        splits.check_examples_disjoint(
            {"first": first, "second": second, "test": ([IDS[4], "x"], ["y", "z"])}
        )
    with pytest.raises(ValueError, match="'second' and 'test' share 1 of 1 .*input number 7"):
        splits.check_examples_disjoint(
            {"first": first, "second": second, "test": (["x"], ["input  number 7 "])}
        )


def test_the_fingerprint_is_of_ids_and_texts_in_any_order():
    whole = splits.fingerprint(IDS, TEXTS)
    assert whole == splits.fingerprint(IDS[::-1], TEXTS[::-1])
    assert whole != splits.fingerprint(IDS, [*TEXTS[:-1], "changed"])
    assert whole != splits.fingerprint([*IDS[:-1], "changed"], TEXTS)


def test_numbers_of_texts_leave_white_space_aside_and_know_no_blank_text():
    texts = ["a b", "c", " a \n b", "", " ", "c"]
    assert splits.text_numbers(texts).tolist() == [0, 1, 0, 2, 3, 1]
