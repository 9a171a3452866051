"""One table as text, Markdown and HTML."""

import math

from cascade_jax.text_table import (
    Cell,
    Column,
    Table,
    as_html,
    as_markdown,
    as_text,
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
    assert title == "What is <here>:" and head == "| name | value | gain | share |"
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
