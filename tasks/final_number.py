"""The number that a worked solution comes to: GSM8K's answers, as models write them."""

import decimal
import re

ANSWER_MARK = "####"  # GSM8K: before the number

_MINUS = "\u2212\u2010\u2011\u2013\ufe63\uff0d"  # besides "-": minus sign, hyphens, en dash, wide
_SPACES = "\u00a0\u2002-\u200a\u202f\u205f"  # no-break and thin ones, which part thousands
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
# LaTeX, as it is read: 1{,}500 and 1\,500, \$, \%, \times, 10^{3}.
_LATEX = (("{,}", ","), ("\\,", "\u2009"), ("\\!", ""), ("\\times", "×"), ("\\cdot", "·"))
_LATEX += (("\\$", "$"), ("\\%", "%"))

_DIGITS = rf"\d+(?:[{_SPACES}'’]\d{{3}}(?!\d))+(?:[.,]\d+)?"  # 1 234 567.8, 1 234 567,8
_DIGITS += r"|\d{1,3}(?:\.\d{3})+,\d+(?![.,]?\d)"  # 1.234,50: the comma is the decimal point
_DIGITS += r"|\d{1,3}(?:\.\d{3}){2,}(?!\d)"  # 1.234.567: two dots are no decimal point
_DIGITS += r"|\d[\d,]*(?:\.\d+)?|(?<!\w)\.\d+"
_POWER = r"\s?[×x*·]\s?10(?:\^\{?(?P<caret>-?\d+)\}?|(?P<superscript>⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))"
_OWN_POWER = (
    r"(?:\^(?:\{(?P<braced>-?\d+(?:\.\d+)?)\}|(?P<power>-?\d+(?:\.\d+)?))"
    r"|(?P<raised>⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))(?!\.?\d)"
)
_LENGTH = r"(?:(?<=(?<![a-zA-Z])m)|(?<=(?<![a-zA-Z])(?:mm|cm|dm|km|ft|in|yd)))"
# A digit that a unit or a power ends in (18 m2, 18 cm^2) is no number; nor is the dash of 10-3.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]}}%])-)?(?:(?:US)?[$€£¥₹]\s?)?(?P<late_sign>(?<=[$€£¥₹])-)?"
    rf"(?<![\^\d])(?<!\d\.)(?<!\^[-{{])(?<!\^{{-)(?!{_LENGTH}[23](?!\d|[.,]\d))(?P<digits>{_DIGITS})"
    rf"(?:[eE](?P<exponent>[+-]?\d+)(?!\w)|{_POWER}|{_OWN_POWER})?"
)
# 1 234.50 with plain spaces: right behind the mark or a currency, where it is no list of numbers.
_PLAIN_SPACES = re.compile(
    r"(?P<before>^\s*-?(?:(?:US)?[$€£¥₹])?|[$€£¥₹])(?P<number>\s?-?\d{1,3}(?: \d{3})+)(?!\d)"
)
_LONGEST = 400  # digits that a power of ten is written out to


def final_number(text: str) -> str:
    """The number that a solution comes to, in one spelling; "" if there is none.

    It is the first number after the first "####", as the authors' script has it (a model may go on
    with another question and its own "####"), and the last one of a text without the mark. A number
    may have a minus of any kind, a currency, a unit or "%" (which are left out), thousands parted
    by commas, apostrophes, thin or no-break spaces, and a power of ten. Right behind the mark or a
    currency plain spaces part thousands too, and behind thousands parted by dots or spaces a comma
    is the decimal point. A power such as 2^10 is 1024; one that is long or no exact number, such as
    2^0.5, stays as it is.

    Examples: "5 * 2 = 10\n#### 1,010 km\n\nQ: ... #### 3" gives "1010", "#### 1.234,50" and
    "#### $1 234.50" give "1234.5", "so it costs −$7.50." gives "-7.5", "1.2e3 m2" gives "1200", "I
    give up" gives "".

    Reference: github.com/openai/grade-school-math, grade_school_math/dataset.py, extract_answer.
    """
    _, mark, answer = text.partition(ANSWER_MARK)
    answer = re.sub(f"[{_MINUS}]", "-", answer if mark else text)
    for written, plain in _LATEX:
        answer = answer.replace(written, plain)
    if mark:
        answer = _PLAIN_SPACES.sub(_with_thin_spaces, answer)
    numbers = list(_NUMBER.finditer(answer))
    return _spelled(numbers[0 if mark else -1]) if numbers else ""


def _with_thin_spaces(number: re.Match) -> str:
    return number["before"] + re.sub(r"(?<=\d) ", "\u2009", number["number"])


def _spelled(number: re.Match) -> str:
    digits = re.sub(f"[{_SPACES}'’]", "", number["digits"])
    has_decimal_comma = digits != number["digits"] or "." in digits.partition(",")[0]
    if has_decimal_comma and digits.count(",") == 1:
        digits = digits.replace(".", "").replace(",", ".")
    digits = digits.replace(",", "")
    if digits.count(".") > 1:
        digits = digits.replace(".", "")
    sign = "-" if number["sign"] or number["late_sign"] else ""
    raised = (number["raised"] or "").translate(_SUPERSCRIPTS)
    if power := number["braced"] or number["power"] or raised:
        power = _plain(power, len(power))
        return sign + (f"{digits}^{power}" if "." in power else _raised(digits, int(power[:20])))
    superscript = (number["superscript"] or "").translate(_SUPERSCRIPTS)
    exponent = int((number["exponent"] or number["caret"] or superscript or "0")[:20])
    if abs(exponent) > _LONGEST:
        return f"{sign}{digits}E{exponent}"
    return _plain(f"{sign}{digits}E{exponent}", len(digits))


def _raised(digits: str, power: int) -> str:
    """A power's value, or the power as it stands if its value is long or not exact."""
    exact = decimal.Context(prec=5 * _LONGEST, traps=[decimal.Inexact])
    base = decimal.Decimal(digits)
    if not base or len(digits) * abs(power) > _LONGEST:
        return f"{digits}^{power}" if base or power <= 0 else "0"
    try:
        value = exact.power(base, abs(power))
        return _plain(str(value if power >= 0 else exact.divide(1, value)), exact.prec)
    except decimal.Inexact:
        return f"{digits}^{power}"


def _plain(number: str, precision: int) -> str:
    exact = decimal.Context(prec=precision)  # the usual one rounds to 28 digits
    # plus() makes 0 of -0, normalize() drops zeros behind the point, "f" writes 1E+1 as 10.
    return f"{exact.plus(decimal.Decimal(number)).normalize(exact):f}"


_LAST_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def last_number(text: str) -> str:
    """The number that version 1 of the tasks takes, in one spelling; "" if there is none.

    It is the last number of the text after the last "####", or of all of it without the mark;
    commas are left out.

    Examples: "5 * 2 = 10\n#### 1,010" gives "1010", "so it costs $7.50." gives "7.5".
    """
    numbers = _LAST_NUMBER.findall(text.rpartition(ANSWER_MARK)[2])
    if not numbers:
        return ""
    digits = numbers[-1].replace(",", "")
    return _plain(digits, len(digits))
