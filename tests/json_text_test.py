"""What is JSON is read as the standard library reads it; what is not is refused in one line."""

import json
import math

import hypothesis
import pytest
from hypothesis import strategies as st

from cascade_jax import json_file, json_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@hypothesis.given(VALUES, st.booleans())
def test_values_come_back(value, is_ascii):
    text = json.dumps(value, ensure_ascii=is_ascii)
    assert json_text.parse(text) == json_text.parse(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}\n', {"a": 1}),  # a byte order mark
        ('\ufeff"a"', "a"),
        ('"\\ud83d\\ude42 \\\\ud83d"', "🙂 \\ud83d"),
        ("1000000000000000019884624838656", 1000000000000000019884624838656),  # model_max_length
        ("[1e300, 1E+0300, -1.7976931348623157e308]", [1e300, 1e300, -1.7976931348623157e308]),
        ('"e0003 ' + "7" * 999 + '"', "e0003 " + "7" * 999),
        ("0." + "0" * 400 + "1", 0.0),
        ("9" * 300, int("9" * 300)),
        ("[" * 100 + "]" * 100, json.loads("[" * 100 + "]" * 100)),
        (json.dumps([{"[": "{"}] * 500), [{"[": "{"}] * 500),
    ],
)
def test_unusual_but_right(text, value):
    assert json_text.parse(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", r"not JSON \(Expecting value at column 1\)"),
        (b'{"a": 1,\n "b" 2}', r"not JSON \(Expecting ':' delimiter at line 2, column 6\)"),
        (b'{"a": "tab\there"}', "not JSON .Invalid control character at column 11"),
        (b'{"a": 1} {"a": 1}', "not JSON .Extra data at column 10"),
        (b'{"a": NaN}', "holds NaN, which is no number of JSON"),
        (b'{"a": [-Infinity]}', "holds -Infinity, which is no number of JSON"),
        (b'{"a": 1e999}', r"holds the number 1e999; must be in the range of a double"),
        (b'{"a": -1E+0400}', r"holds the number -1E\+0400; must be"),
        (b"9" * 250 + b"e99", r"holds the number 9{20}... of 253 characters; must be in the range"),
        (b"9" * 400, r"holds the number 9{20}... of 400 characters; must be in the range"),
        (b"-" + b"9" * 5000, r"holds the number -9{19}... of 5,001 characters; must be in the"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', 'has the key "b" twice in one object'),
        (b'{"a": "\\ud83d"}', r"holds half of a character, such as \\ud83d alone"),
        (b'{"\\uDE42\\uD83d": 1}', "holds half of a character"),
        (b'{"a": "\xed\xa0\xbd"}', "not UTF-8 .invalid continuation byte: 0xed at byte 8."),
        ('{"a": "\ud83d"}', "holds half of a character"),
        ('{\n"a": "é"}'.encode("latin-1"), r"not UTF-8 \(.*: 0xe9 at line 2, byte 7\); save it as"),
        ('{"a": 1}'.encode("utf-16"), r"not UTF-8 \(UTF-16, or no text"),
        ('{"a": 1}'.encode("utf-16-be"), r"not UTF-8 \(UTF-16, or no text"),
        (b'{"a": "\0"}', "not UTF-8 .* zero bytes"),
        (b"[" * 101 + b"]" * 101, "nested too deeply to be read: more than 100"),
        (b'{"a":' * 800 + b"1" + b"}" * 800, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_refused(text, problem):
    with pytest.raises(ValueError, match=f"^f: {problem}") as refused:
        json_text.parse(text, "f")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é🙂 \ufffd", '"é🙂 \ufffd"'),
        ("a\u2028b\x85\n", '"a\\u2028b\\u0085\\n"'),
        ({"a": [1, None]}, '{"a": [1, null]}'),
        ("x" * 99, '"' + "x" * 56 + "..."),
    ],
)
def test_values_in_messages_take_one_line(value, text):
    assert json_text.shown(value) == text


def test_nan_where_it_is_allowed():
    values = json_text.parse("[NaN, Infinity, -Infinity]", allow_nan=True)
    assert math.isnan(values[0]) and values[1:] == [math.inf, -math.inf]
    with pytest.raises(ValueError, match="1e999"):
        json_text.parse("[NaN, 1e999]", allow_nan=True)


def test_files(tmp_path):
    (tmp_path / "a").write_text("[1]")
    assert json_file.read_values(tmp_path / "a") == [1]
    with pytest.raises(ValueError, match=r"/a: is \[1\]; must be an object"):
        json_file.read_object(tmp_path / "a")
    (tmp_path / "a").write_text('{"a": 1, "a": 2}')
    with pytest.raises(ValueError, match='/a: has the key "a" twice'):
        json_file.read_object(tmp_path / "a")


def test_a_key_twice_among_many_is_told_at_once():
    keys = ", ".join(f'"{i}": 0' for i in range(100_000))
    with pytest.raises(ValueError, match='has the key "x" twice'):
        json_text.parse(f'{{{keys}, "x": 1, "x": 2}}')
