"""The number that a worked solution comes to, as models of all kinds write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.final_number import ANSWER_MARK, final_number, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # The first number after the first mark, whatever the model goes on with.
        ("9 * 2 = 18\n#### 18\n\nQuestion: Who?\nAnswer: 1 + 2 = 3\n#### 3", "18"),
        ("#### 18 dollars, or 3 each", "18"),
        ("5 apples ####", ""),
        ("#### none", ""),
        # Without the mark the last one.
        ("12 eggs, 3 eaten: 12 - 3 = 9.", "9"),
        ("I give up", ""),
        ("", ""),
        # Signs.
        ("#### −18", "-18"),
        ("#### –3", "-3"),
        ("#### -$7.50", "-7.5"),
        ("#### $-7.50", "-7.5"),
        ("10-3", "3"),
        ("COVID-19", "19"),
        ("-0", "0"),
        # Currencies, units, shares.
        ("it costs US$1,500.00.", "1500"),
        ("#### 1,500 km", "1500"),
        ("#### 18 %", "18"),
        ("#### 18%", "18"),
        ("The area is 18 m2.", "18"),
        ("The area is 18 cm^2", "18"),
        ("It is 18 m².", "18"),
        ("Rs.500", "500"),
        # Thousands.
        ("#### 1\u202f234\u202f567.5", "1234567.5"),
        ("#### 1\u00a0500", "1500"),
        ("#### 1\u2009500", "1500"),
        ("#### 1'500", "1500"),
        ("#### 1.500.000", "1500000"),
        ("#### 1{,}500", "1500"),
        ("1,000,000 people", "1000000"),
        ("#### 1.234,50", "1234.5"),
        ("#### 1.234.567,5 €", "1234567.5"),
        ("#### $1 234.50", "1234.5"),
        ("#### 1 234 567", "1234567"),
        ("she pays $1 234 and #### -€ 1 234,50", "-1234.5"),
        ("10 200 dollars or 300", "300"),  # plain spaces part numbers too
        ("#### 5 3000", "5"),
        ("#### 1.234", "1.234"),
        # Powers of ten.
        ("#### 1.5e3", "1500"),
        ("#### 2E-2", "0.02"),
        ("#### 2 × 10^3", "2000"),
        (r"#### 2 \times 10^{3}", "2000"),
        ("#### 2·10⁻²", "0.02"),
        ("#### 1e999999999999", "1E999999999999"),
        # Powers, of numbers and of units.
        ("the result is 2^10", "1024"),
        ("so = 10^12", "1000000000000"),
        ("#### 2^{10}", "1024"),
        ("10¹²", "1000000000000"),
        ("#### 2^-2", "0.25"),
        ("#### 3^-1", "3^-1"),
        ("it is 2^0.5", "2^0.5"),
        ("#### 2^{0.50}", "2^0.5"),
        ("#### 2^3.0", "8"),
        ("18 cm^0.5", "18"),
        ("0^0", "0^0"),
        ("area 18 cm^12", "18"),
        ("18 s^{-12}", "18"),
        ("#### Rs2", "2"),
        ("#### eur3", "3"),
        ("#### x2", "2"),
        ("18cm3", "18"),
        # Spellings of one number.
        ("#### 007", "7"),
        ("#### 18.0", "18"),
        ("#### 18.", "18"),
        (r"\boxed{18}", "18"),
        ("**18**", "18"),
        ("１８", "18"),
        (".5", "0.5"),
    ],
)
def test_the_number_of_a_solution(text, number):
    assert final_number(text) == number


@given(st.integers(-(10**40), 10**40), st.integers(0, 999), st.sampled_from(["", ",", "\u202f"]))
def test_a_number_is_the_same_however_it_is_written(whole, thousandths, separator):
    grouped = f"{whole:,}".replace(",", separator)
    written = f"Then 3 * 4 = 12, so it is ${grouped}.{thousandths:03d}."
    fraction = f"{thousandths:03d}".rstrip("0")
    expected = f"{whole}.{fraction}" if fraction else f"{whole}"
    assert final_number(written) == expected
    assert final_number(f"9 {ANSWER_MARK} {grouped}.{thousandths:03d} {ANSWER_MARK} 7") == expected
    if separator != "\u202f":
        assert last_number(written) == last_number(f"9 {ANSWER_MARK} {written}") == expected


@given(
    st.integers(0, 10**12),
    st.integers(0, 99),
    st.sampled_from(
        [
            (",", "."),
            (".", ","),
            ("\u202f", ","),
            ("\u00a0", "."),
            ("'", "."),
            (" ", ","),
            (" ", "."),
        ]
    ),
    st.sampled_from(["", "$", "US$", "€ ", "-", "-$", "$-"]),
)
def test_thousands_and_decimals_of_every_country(whole, hundredths, marks, before):
    """Below 1,000 a comma alone is as in English."""
    thousands, point = marks
    grouped = f"{whole:,}".replace(",", thousands)
    if whole < 1000 and point == ",":
        point = "."
    sign = "-" * ("-" in before and whole + hundredths > 0)
    written = f"9 apples {ANSWER_MARK} {before}{grouped}{point}{hundredths:02d}\nQ: 7?"
    fraction = f"{hundredths:02d}".rstrip("0")
    assert final_number(written) == sign + (f"{whole}.{fraction}" if fraction else f"{whole}")


@given(st.text(alphabet="0123456789,.-−#$ \u00a0eE×^{}²ax\n'"))
def test_any_text_gives_a_number_in_one_spelling_or_none(text):
    number = final_number(text)
    assert final_number(number) == number


def test_version_1_takes_the_last_number_behind_the_last_mark():
    assert last_number("#### 18\n#### 3 or 4") == "4"
    cases = {"": "", "none": "", "-3": "-3", ".5": "0.5", "1,000,000 people": "1000000"}
    cases |= {"10": "10", "100.0": "100", "0": "0", "-0": "0", "2,": "2", "007": "7"}
    assert {text: last_number(text) for text in cases} == cases
