"""Answers are found again wherever they hold; damage and other facts are noticed."""

import errno
from pathlib import Path

import numpy as np
import pytest

from cascade_jax import array_file
from cascade_jax.calibration import answer_store
from cascade_jax.calibration.answer_store import AnswerStore
from cascade_jax.calibration.pool import CascadeAnswers

SIZE = 12


def answers(n=SIZE, seed=0, blocks=1):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.random((2, n, blocks)).astype(np.float32), axis=0)
    return CascadeAnswers(
        cost=rng.random(n),
        quality={"rouge1": rng.random(n), "chrf": rng.random(n)},
        holds_from=ends[0],
        holds_below=ends[1],
        is_deferred=rng.random((n, 3)) < 0.5,
        lengths=rng.integers(1, 4, n),
    )


@pytest.mark.parametrize("blocks", [1, 3])
def test_an_answer_is_found_wherever_it_holds_and_nowhere_else(tmp_path, blocks):
    rng = np.random.default_rng(1)
    store, added = AnswerStore(tmp_path / "x", {"model": 1}, SIZE), []
    for seed in range(4):
        rows = rng.permutation(SIZE)[: rng.integers(3, SIZE)]
        added.append((rows, answers(len(rows), seed, blocks)))
        store.add(*added[-1])
    for one in (store, AnswerStore(tmp_path / "x", {"model": 1}, SIZE)):
        hits = 0
        for _ in range(50):
            rows, arguments = rng.permutation(SIZE)[:7], rng.random((7, blocks)).astype(np.float32)
            result = one.find(arguments, rows)
            taken = one.take(result[result >= 0])
            costs = dict(zip(rows[result >= 0], taken.cost, strict=True))
            for row, at in zip(rows, arguments, strict=True):
                holding = [
                    part.cost[i]
                    for of, part in added
                    for i in np.flatnonzero(of == row)
                    if np.all((part.holds_from[i] <= at) & (at < part.holds_below[i]))
                ]
                assert (row in costs) == bool(holding)
                assert not holding or costs[row] in holding
                hits += bool(holding)
        assert 20 < hits < 330


def test_infinite_thresholds_are_found_where_an_answer_holds_up_to_the_end(tmp_path):
    store, kept = AnswerStore(tmp_path, {}, 2), answers(2)
    columns = kept.columns() | {"holds_from": np.array([[-np.inf], [0.5]], np.float32),
                                "holds_below": np.array([[0.5], [np.inf]], np.float32)}  # fmt: skip
    store.add(np.arange(2), CascadeAnswers.from_columns(columns))
    ends = [np.full((2, 1), end) for end in (-np.inf, np.inf)]
    assert [store.find(end, np.arange(2)).tolist() for end in ends] == [[0, -1], [-1, 1]]


def test_what_is_written_is_read(tmp_path):
    store, written = AnswerStore(tmp_path / "x", {"model": 1}, SIZE), answers()
    arguments = written.holds_from
    assert np.all(store.find(arguments, np.arange(SIZE)) == -1)
    store.add(np.arange(SIZE), written)
    again = AnswerStore(tmp_path / "x", {"model": 1}, SIZE)
    columns = again.take(again.find(arguments, np.arange(SIZE))).columns()
    assert columns.keys() == written.columns().keys()
    for name, values in written.columns().items():
        np.testing.assert_array_equal(columns[name], values)
    assert [path.suffix for path in (tmp_path / "x").iterdir()] == [".npz"]  # nothing half written


def test_other_facts_are_other_answers(tmp_path):
    written = answers()
    AnswerStore(tmp_path, {"model": 1}, SIZE).add(np.arange(SIZE), written)
    other = AnswerStore(tmp_path, {"model": 2}, SIZE)
    assert np.all(other.find(written.holds_from, np.arange(SIZE)) == -1)


def test_of_answers_that_overlap_the_first_stays(tmp_path):
    """As rounding may make them: what was found once must not change."""
    store, first, second = AnswerStore(tmp_path, {}, SIZE), answers(seed=3), answers(seed=4)
    store.add(np.arange(SIZE), first)
    at = (first.holds_from + first.holds_below) / 2
    columns = second.columns() | {"holds_from": first.holds_from, "holds_below": first.holds_below}
    for one in (store, AnswerStore(tmp_path, {}, SIZE)):
        one.add(np.arange(SIZE), CascadeAnswers.from_columns(columns))
        np.testing.assert_array_equal(one.take(one.find(at, np.arange(SIZE))).cost, first.cost)


def test_two_that_add_at_once_lose_nothing(tmp_path):
    both = [AnswerStore(tmp_path, {}, SIZE) for _ in range(2)]
    arguments = answers()
    for row in range(SIZE):
        both[row % 2].add(np.array([row]), arguments.take(np.array([row])))
    sorted(tmp_path.iterdir())[3].unlink()  # and a file that is gone hides no other
    result = AnswerStore(tmp_path, {}, SIZE).find(arguments.holds_from, np.arange(SIZE))
    assert np.sum(result >= 0) == SIZE - 1


def test_a_file_that_can_not_be_read_now_ends_it_and_stays(tmp_path, monkeypatch):
    AnswerStore(tmp_path, {}, SIZE).add(np.arange(SIZE), answers())

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    (file,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", stale)
        with pytest.raises(OSError, match=f"Stale file handle.*{file.name}"):
            AnswerStore(tmp_path, {}, SIZE)
    assert [*tmp_path.iterdir()] == [file]


def test_no_flipped_bit_goes_unseen(tmp_path, capsys):
    written, rows = answers(), np.arange(SIZE)
    AnswerStore(tmp_path, {}, SIZE).add(rows, written)
    (path,) = tmp_path.iterdir()
    data, rng, seen = path.read_bytes(), np.random.default_rng(0), 0
    for place in rng.permutation(len(data))[:300].tolist():
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        store = AnswerStore(tmp_path, {}, SIZE)
        result = store.find(written.holds_from, rows)
        if np.all(result >= 0):  # of what the archive does not use: times of its members, say
            for name, values in store.take(result).columns().items():
                np.testing.assert_array_equal(values, written.columns()[name])
        else:
            assert np.all(result < 0) and f"{path} is damaged (" in capsys.readouterr().out
            path.with_suffix(".damaged").unlink()
            seen += 1
    assert seen > 150


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "another", "rows"])
def test_a_damaged_file_is_said_and_not_used(tmp_path, capsys, damage):
    def opened(size=400):
        return AnswerStore(tmp_path, {"model": 1}, size)

    written, rows = answers(400), np.arange(400)
    opened().add(rows, written)
    opened().add(rows[:5], answers(5, seed=2))
    path, second = sorted(tmp_path.iterdir())
    data = bytearray(path.read_bytes())
    if damage == "another":
        AnswerStore(tmp_path, {"model": 2}, 400).add(rows, written)
        (other,) = {*tmp_path.iterdir()} - {path, second}
        data = other.read_bytes()
        other.unlink()
    if damage == "flipped":
        data[len(data) // 3] ^= 255
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"no npz"}.get(damage, data))
    store = opened(399 if damage == "rows" else 400)
    assert f"{path} is damaged (" in capsys.readouterr().out
    assert np.sum(store.find(written.holds_from[:300], rows[:300]) >= 0) <= 5  # of the second file
    assert {*tmp_path.iterdir()} == {path.with_suffix(".damaged"), second}
    store.add(rows[:300], written.take(rows[:300]))
    result = opened().find(written.holds_from[:300], rows[:300])
    assert np.all(result >= 0) and not capsys.readouterr().out


def test_answers_that_compress_well_are_read_again(tmp_path):
    count = 100_000
    zeros, ends = np.zeros(count), np.zeros((count, 1), np.float32)
    kept = CascadeAnswers(
        cost=zeros, quality={}, holds_from=ends, holds_below=ends + 1,
        is_deferred=np.zeros((count, 30), bool), lengths=zeros.astype(int),
    )  # fmt: skip
    AnswerStore(tmp_path, {}, count).add(np.zeros(count, int), kept)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 30_000
    again = AnswerStore(tmp_path, {}, count)
    assert again.find(ends, np.arange(count))[0] == 0
    assert path.exists()


def test_a_file_of_the_version_before_is_read_and_a_changed_one_is_not(tmp_path, capsys):
    """It has a checksum of its own in place of the digest."""
    store = AnswerStore(tmp_path, {}, SIZE)
    store.add(np.arange(SIZE), answers())
    (path,) = tmp_path.iterdir()
    columns = array_file.read(path)
    stated = answer_store._sum(columns["rows"], answers())
    for checksum, count in ((stated, SIZE), ("0" * 16, 0)):
        np.savez_compressed(path, **columns, sum=checksum)
        result = AnswerStore(tmp_path, {}, SIZE).find(answers().holds_from, np.arange(SIZE))
        assert np.sum(result >= 0) == count
    assert f"{path} is damaged (its content is not what was written)" in capsys.readouterr().out
