"""One table as text, Markdown and HTML."""

import math

import pytest

from cascade_jax.text_table import (
    Cell,
    Column,
    Table,
    as_html,
    as_markdown,
    as_text,
    markdown_text,
    percent,
    signed,
)

TABLE = Table(
    "What is <here>",
    [
        Column("name", ["x|y", Cell("b", note="a <note>")]),
        Column("value", [Cell(0.25, 0.125, 0.5, is_best=True), math.nan]),
        Column("gain", [Cell(0.1, note="p 0.250"), Cell(-0.1, math.nan, 0.0)], signed),
        Column("share", [0.314159, math.inf], percent),
    ],
)


def test_text_is_aligned_with_numbers_to_the_right():
    title, head, rule, *rows = as_text(TABLE, rule=True).split("\n")
    assert title == "What is <here>:"
    assert rule == "-" * max(map(len, (head, *rows)))
    assert rows == [
        "x|y          0.250 [0.125, 0.500]  +0.100, p 0.250  31.4\xa0%",
        "b, a <note>                     –           -0.100   inf\xa0%",
    ]
    assert head.index("value") + 5 == rows[0].index("]") + 1


def test_a_bar_in_markdown_stays_in_its_cell():
    title, _, head, dashes, row, _ = as_markdown(TABLE).split("\n")
    assert title == r"What is \<here>:" and head == "| name | value | gain | share |"
    assert dashes == "| --- | --- | --- | --- |"
    assert row == r"| x\|y | 0.250 [0.125, 0.500] | +0.100, p 0.250 | 31.4 % |".replace(
        r"\xa0", "\xa0"
    )


def test_html_is_escaped_and_shows_intervals_and_notes_in_small_print():
    page = as_html(TABLE, "css")
    assert page.count("What is &lt;here&gt;") == 2 and 'class="css"' in page
    for cell in (
        '<th scope="row">x|y</th>',
        '<th scope="row">b<small>a &lt;note&gt;</small></th>',
        "<td class=best>0.250<small>0.125 to 0.500</small></td>",
        "<td>–</td>",
        "<td>+0.100<small>p 0.250</small></td>",
        "<td>-0.100</td>",
    ):
        assert cell in page


def test_plain_columns_have_neither_interval_nor_note():
    assert TABLE.columns[1].plain("other").texts() == ["0.250", "–"]
    assert TABLE.columns[1].plain("other").head == "other"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat_dist v2 (1B) [a] 0.5 < 1 & x", "cat_dist v2 (1B) [a] 0.5 < 1 & x"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("two\nlines\r\n# head", "two lines # head"),
        ("<script>x</script>", r"\<script>x\</script>"),
        ("[x](javascript:y)", r"[x]\(javascript:y)"),
        ("`a` *b* _c_ ~d~", r"\`a\` \*b\* \_c\_ \~d\~"),
        ("&lt;b&#62;", r"\&lt;b\&#62;"),
        ("\x1b[31mred\u202egnp", " [31mred gnp"),
        ("a\u2028b\x85c\tд", "a b c д"),
    ],
)
def test_names_of_any_letters_are_shown_as_they_are_on_one_line(name, shown):
    table = Table(name, [Column("name", [name]), Column("x", [1.0])])
    *title, head, dashes, row = as_markdown(table).split("\n")
    assert title == [f"{shown}:", ""] and head == "| name | x |"
    assert row == f"| {shown} | 1.000 |"
    assert markdown_text(name) == shown
    assert len(as_text(table).split("\n")) == 3 and "\x1b" not in as_text(table)
