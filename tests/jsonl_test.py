"""Lines of JSONL files: what is read, and what is refused by file and line."""

import json

import pytest

from cascade_jax import jsonl


class OwnError(ValueError):
    pass


def test_objects_come_with_their_places(tmp_path):
    objects = [{"a": 1}, {"b": ["é", "🙂", None]}, {}]
    lines = [json.dumps(objects[0]), "", json.dumps(objects[1]), "  ", "{}\r"]
    (tmp_path / "a").write_text("\ufeff" + "\n".join(lines), "utf-8")
    read = list(jsonl.read_objects(tmp_path / "a"))
    assert [value for _, value in read] == objects
    assert [where for where, _ in read] == [f"{tmp_path}/a:{number}" for number in (1, 3, 5)]
    assert list(jsonl.read_objects(tmp_path / "a"))[1][1]["b"][1] == "🙂"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"a:2: not JSON \(.* at column 2\)"),
        (b'{"a": \xff}', r"a:2: not UTF-8 \(invalid start byte: 0xff at byte 7\)"),
        (b'{"a": 1, "a": 1}', r'a:2: has the key "a" twice'),
        (b"[1, 2]", r"a:2: is \[1, 2\]; must be an object"),
        (b'{"a": "\\ud83d"}', r"a:2: holds half of a character, such as \\ud83d alone"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "a:2: nested too deeply"),
    ],
)
def test_lines_that_are_refused(tmp_path, line, message):
    (tmp_path / "a").write_bytes(b"{}\n" + line)
    with pytest.raises(OwnError, match=message):
        list(jsonl.read_objects(tmp_path / "a", OwnError))


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "other", "custom_id": "q7", "text": "\\ud83d"}',
        b'{"text": "\xed\xa0\xbd", "custom_id": "q7"}',
        b'{"example_id":"q7","a":1e999,"id":[1]}',
        b'{"id": "q7", "text": "no end',
    ],
)
def test_the_id_of_a_line_that_can_not_be_read(tmp_path, line):
    (tmp_path / "a").write_bytes(line)
    with pytest.raises(ValueError, match=r'/a:1 \(id "q7"\): '):
        list(jsonl.read_objects(tmp_path / "a"))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        list(jsonl.read_objects(tmp_path / "gone"))
