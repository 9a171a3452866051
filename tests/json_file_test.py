"""Dataclasses survive the way through a JSON file; every refusal names the file and the field."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping

import numpy as np
import pytest

from cascade_jax import json_file
from cascade_jax.json_file import Number, NumberOrNull


@dataclasses.dataclass(frozen=True)
class Part:
    size: Number
    quality: Mapping[str, NumberOrNull]

    def __post_init__(self):
        if self.size == 13:
            raise ValueError("size must not be 13")


@dataclasses.dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    by_name: Mapping[str, Part]
    count: int = 1
    pair: tuple[float, float] | None = None


GOOD = {"name": "a", "parts": [{"size": 1.5, "quality": {"x": None, "y": 2}}], "by_name": {}}
WHOLE = Whole(
    name="π",
    parts=(Part(math.inf, {"x": math.nan, "y": -math.inf}), Part(0.1 + 0.2, {})),
    by_name={"some.name": Part(5e-324, {})},
    pair=(1.0, 2.0),
)


@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_written_is_read(tmp_path, indent):
    json_file.write(tmp_path / "deep" / "a.json", WHOLE, indent)
    values = json_file.read_values(tmp_path / "deep" / "a.json")
    read = json_file.from_values(values, Whole, complete=True)
    assert read.parts[1:] == WHOLE.parts[1:] and read.by_name == WHOLE.by_name
    assert (read.name, read.count, read.pair) == ("π", 1, (1.0, 2.0))
    assert read.parts[0].size == math.inf and math.isnan(read.parts[0].quality["x"])
    assert values["parts"][0] == {"size": "inf", "quality": {"x": None, "y": "-inf"}}


def test_numpy_arrays_and_numbers_become_values():
    values = json_file.to_values({"a": np.array([1.0, np.nan]), "b": np.float32(0.5), 3: (True,)})
    assert values == {"a": [1.0, None], "b": 0.5, "3": [True]}
    assert json.dumps(values) == '{"a": [1.0, null], "b": 0.5, "3": [true]}'


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.pop("name"), "field 'name' is missing"),
        (lambda d: d.update(nmae=d.pop("name")), "field 'name' is missing; did you mean 'nmae'"),
        (lambda d: (d.pop("name"), d.pop("by_name")), "fields 'name', 'by_name' are missing$"),
        (lambda d: d["parts"][0].clear(), r"fields 'size', 'quality' are missing in parts\[0\]$"),
        (lambda d: d.update(cuont=1), "unknown field 'cuont'; did you mean 'count'"),
        (lambda d: d["parts"][0].pop("size"), r"field 'size' is missing in parts\[0\]"),
        (lambda d: d["parts"][0].update(siz=1), r"unknown field 'siz' of parts\[0\]; .* 'size'"),
        (lambda d: d.update(name=3), "name must be a text, got 3"),
        (lambda d: d.update(count=True), "count must be a whole number, got true"),
        (lambda d: d.update(count=2.5), "count must be a whole number, got 2.5"),
        (lambda d: d.update(parts={}), "parts must be a list, got {}"),
        (lambda d: d.update(pair=[1]), r"pair must be a list of length 2, got \[1\]"),
        (lambda d: d.update(pair="x" * 99), "pair must be a list or null, got .x{56}"),
        (
            lambda d: d["parts"][0].update(size="1"),
            r'parts\[0\].size must be a number, "inf" or .*"1"',
        ),
        (lambda d: d["parts"][0].update(size=None), r"parts\[0\].size must be a number, .*null"),
        (lambda d: d["parts"][0].update(size=13), r"parts\[0\]: size must not be 13"),
        (
            lambda d: d["parts"][0]["quality"].update({"z.1": "high"}),
            r"parts\[0\].quality.z.1 must be a number, null if not known, .* got \"high\"",
        ),
        (
            lambda d: d["by_name"].update(one={"size": 1, "quality": {}}, other={"size": 1}),
            "field 'quality' is missing in by_name.other",
        ),
    ],
)
def test_what_is_refused_is_named(change, message):
    values = json.loads(json.dumps(GOOD))
    assert json_file.from_values(values, Whole).count == 1
    change(values)
    with pytest.raises(ValueError, match=f"^f.json: {message}"):
        json_file.from_values(values, Whole, "f.json")


def test_defaults_may_be_asked_for():
    with pytest.raises(ValueError, match="^missing fields: count, pair$"):
        json_file.from_values(GOOD, Whole, complete=True)


def test_nan_is_written_only_where_it_may_be():
    with pytest.raises(ValueError, match="Part: size must be a number, .*, got NaN"):
        json_file.to_text(Part(math.nan, {}))


@pytest.mark.parametrize("text", [b"", b"[", b'{"a": NaN}', b"\x00", b"\xff"])
def test_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"a.json: (not JSON \(|not UTF-8 \(|holds NaN)"):
        json_file.read_values(tmp_path / "a.json")


def test_a_digest_tells_an_edit_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    whole = Whole("a", (), {"b": Part(math.inf, {"x": math.nan})}, 3)
    json_file.write(path, whole, with_digest=True)
    values = json_file.read_object(path)
    assert json_file.from_values(json_file.without_digest(values), Whole).count == 3
    respelt = dict(reversed([*values.items()])) | {"count": 3.0}
    assert "digest" not in json_file.without_digest(respelt)
    assert json_file.without_digest({"name": "b"}) == {"name": "b"}  # an old file
    for change in ({"count": 4}, {"name": "a "}, {"more": 1}, {"digest": ""}, {"parts": [1]}):
        with pytest.raises(
            ValueError, match="^a.json: was edited after it was written: its digest"
        ):
            json_file.without_digest(values | change, "a.json")


def test_the_wrong_one_of_many_keys_is_named_soon():
    """Each key is tried alone, without a copy of the others."""
    values = {"a": {"size": 1, "quality": {str(i): 1.0 for i in range(5000)} | {"last": "x"}}}
    start = time.process_time()
    with pytest.raises(ValueError, match=r"a.quality.last"):
        json_file.from_values(values, dict[str, Part])
    assert time.process_time() - start < 2
