"""What is wrong with a gin file or binding is named by line or flag, with what to write."""

import pytest

from cascade_jax.cli import gin_text
from cascade_jax.cli.flags import UsageError

READ = [
    "A=5", "A=-1.5e-3", "A='x'", 'A="/a/b"', "A=['x', 'y',]", "A=(1, 2)", "A={'k': 1}", "A=None",
    "A=%B", "A=@module.Class()", "A=@scope/module.fn", "scope/module.Class.field=3", "A = 5 # b",
    "A=[1,\n  2]", "A='it\\'s'", "A='a' 'b'", "A='# no comment'", "A=[@a.B(), @a.C()]",
]  # fmt: skip
BINDINGS = {
    "A=/a/b": "write --gin.A=\"'/a/b'\"",
    "A=runs": "write --gin.A=\"'runs'\"",
    "A=a,b": "write --gin.A=\"'a,b'\"",
    "A=it's": "a bracket or quote is not closed",
    "A=1,000": "write --gin.A=1000",
    "A=12,345,678.5": "write --gin.A=12345678.5",
    "A=1 000": "write --gin.A=1000",
    "A=+5": "write --gin.A=5",
    "A=f'x'": "write --gin.A='\"f'",
    "A=true": "write --gin.A=True",
    "A=null": "write --gin.A=None",
    "A=": "an empty text is ''",
    "A=[x, y]": "write --gin.A=\"['x', 'y']\"",
    "A=[x, 3]": "write --gin.A=\"['x', 3]\"",
    "A=['x'": "a bracket or quote is not closed",
    "A='x": "a bracket or quote is not closed",
    "A=['x'))": "a value is a number, True",
    "A=1/2": "gin does not calculate: write the number itself, or for a text --gin.A=\"'1/2'\"",
    "A=2024-01-01": "or for a text --gin.A=\"'2024-01-01'\"",
    "A=\u201cx\u201d": "it holds '\u201c' (U+201C), which gin does not know",
    "A=\u00a05": "(U+00A0), which gin does not know",
    "A==5": "write --gin.MACRO=VALUE",
    "=5": "write --gin.MACRO=VALUE",
    "A-B=5": "write --gin.MACRO=VALUE",
    "A=1\nB=2": "holds 2 bindings; give each a --gin. of its own",
    "A=" + "[" * 2000: "a bracket or quote is not closed|too many brackets",
    "A=" + "[" * 2000 + "]" * 2000: "too many brackets in each other",
}


@pytest.mark.parametrize("binding", READ)
def test_a_binding_that_gin_reads_passes(binding):
    gin_text.check_binding(binding)


@pytest.mark.parametrize("binding", BINDINGS, ids=lambda binding: binding[:20])
def test_a_binding_that_gin_can_not_read_is_named_with_what_to_write(binding):
    with pytest.raises(UsageError) as caught:
        gin_text.check_binding(binding)
    said = str(caught.value)
    assert any(text in said for text in BINDINGS[binding].split("|"))
    assert said.startswith("--gin.") and "\n" not in said and len(said) < 300


FILES = {
    "value": (
        b"A = 1\nB = runs/x\n",
        "x.gin:2: gin can not read this: B = runs/x; write B = 'runs/x'",
    ),
    "number": (b"A = 1,000\n", "x.gin:1: gin can not read this: A = 1,000; write A = 1000"),
    "bracket": (b"A = ['a',\nB = 5\n", "x.gin:1: a bracket or quote is not closed: A = ['a',"),
    "end": (b"B = 5\nA = ['a'", "x.gin:2: a bracket or quote is not closed: A = ['a'"),
    "quote": (b"A = 'a\nB = 5\n", "x.gin:1: a bracket or quote is not closed: A = 'a"),
    "tab": (b"a.B:\n    c = 3\n\td = 3\n", "x.gin:3: its indentation is not that of the lines"),
    "colon": (b"A: 3\n", "x.gin:1: gin can not read this: A: 3"),
    "equals": (b"A == 3\n", "x.gin:1: gin can not read this: A == 3; write A = 3"),
    "json": (b'{"A": 3}', 'x.gin:1: gin can not read this: {"A": 3}'),
    "latin 1": (b"A = 1\nB = 'caf\xe9'\n", "x.gin:2: not UTF-8 (0xe9 at byte 9); save it as UTF-8"),
    "utf 16": ("A = 1\n".encode("utf-16"), "x.gin:1: not UTF-8 (UTF-16"),
    "zero": (b"A = 1\0\n", "x.gin:1: not UTF-8 (UTF-16, or no text at all, by its zero bytes)"),
    "twice": (
        b"A = 1\nB = 2\n# A\nA = 3\n",
        "x.gin:4: A is bound a second time, first in ",
    ),
    "twice in a scope": (
        b"s/a.B.c = 1\na.B.c = 2\nt/a.B.c = 3\ns/a.B:\n    c = 4\n",
        "x.gin:5: s/a.B.c is bound a second time, first in ",
    ),
    "deep": (b"A = " + b"[" * 900 + b"]" * 900, "x.gin:1: too many brackets in each other"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_with_the_line(tmp_path, name):
    data, said = FILES[name]
    (tmp_path / "x.gin").write_bytes(data)
    with pytest.raises(UsageError) as caught, gin_text.opened(str(tmp_path / "x.gin")):
        pass
    assert str(caught.value).startswith(f"{tmp_path}/{said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"A = 1\nB = 2\n", b"\xef\xbb\xbfA = 1\r\nB = 2\r\n", b"A = 1\rB = 2\r"]
)
def test_marks_and_line_ends_are_no_text(tmp_path, data):
    (tmp_path / "x.gin").write_bytes(data)
    with gin_text.opened(str(tmp_path / "x.gin")) as file:
        assert file.read() == "A = 1\nB = 2\n"


def test_only_line_feeds_part_the_lines_of_gin(tmp_path):
    (tmp_path / "x.gin").write_text("A = 'a\u2028b'\n# \x0c \x85\nB = runs\n", newline="")
    with (
        pytest.raises(UsageError, match=r"x.gin:3: .*: B = runs; write B = 'runs'"),
        gin_text.opened(str(tmp_path / "x.gin")),
    ):
        pass
