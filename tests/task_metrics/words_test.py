"""Words by tokenizers, and texts that metrics of words are blind to."""

import functools

import pytest
import sacrebleu

from cascade_jax.task_metrics import quality, short_answers, words
from cascade_jax.task_metrics.overlap import Rouge, WordEditDistance
from cascade_jax.task_metrics.translation import Bleu, Chrf

CAT = "猫坐在垫子上。"
WITHOUT_SPACES = {
    "Chinese": (CAT, "zh"),
    "Japanese": ("猫がマットの上に座っている。", "ja-mecab"),
    "Thai": ("แมวนั่งอยู่บนเสื่อ", "char"),
    "Lao": ("ແມວນັ່ງຢູ່ເທິງເສື່ອ", "char"),
    "Khmer": ("ឆ្មាអង្គុយលើកន្ទេល", "char"),
    "Burmese": ("ကြောင်က ဖျာပေါ်မှာထိုင်နေတယ်လို့ပြောတယ်", "char"),
}
WITH_SPACES = [
    "The cat sat.",
    "고양이가 매트 위에 앉았다.",
    "Кошка сидит.",
    "القطة تجلس",
    "बिल्ली बैठी है",
]
OF_WORDS = [
    Bleu(),
    Bleu("intl"),
    Bleu("none"),
    Chrf(2),
    Rouge(),
    WordEditDistance(),
    quality.token_f1,
    quality.rouge_l,
    short_answers.squad,
    short_answers.trivia_qa,
    quality.percent(quality.token_f1),
]


@pytest.mark.parametrize("language", WITHOUT_SPACES)
def test_a_metric_of_words_is_blind_to_a_language_without_spaces(language):
    text, tokenizer = WITHOUT_SPACES[language]
    for metric in OF_WORDS:
        unread = words.unread(metric, [text, ["no words", text], "a cat", text])
        assert (unread.count, unread.total, unread.is_most) == (3, 4, True), metric
        assert unread.tokenizer == tokenizer and repr(text)[:20] in unread.text
        assert unread.advice == f"{unread.text}; a tokenizer such as {tokenizer!r} would"
    sees = [Bleu("char"), Chrf(), quality.accuracy, quality.chrf, Rouge(tokenize="char")]
    for metric in [*sees, functools.partial(quality.token_f1, tokenize="char")]:
        assert words.unread(metric, [text]) is None


def test_a_tokenizer_sees_its_own_language_alone():
    assert words.unread(Bleu("zh"), [CAT]) is words.unread(Bleu("ja-mecab"), [CAT]) is None
    for text in (
        "ねこはここにいます",
        *(text for text, t in WITHOUT_SPACES.values() if t == "char"),
    ):
        assert words.unread(Bleu("zh"), [text]).count == 1


def test_texts_with_spaces_are_read_whatever_the_script():
    segmented = [
        "猫 坐 在 垫子 上 。",
        "แมว นั่ง อยู่ บน เสื่อ",
        "A film by 张艺谋, in colour",
        "猫",
        "。",
        "",
    ]
    for metric in OF_WORDS:
        if not isinstance(metric, Rouge):
            assert words.unread(metric, WITH_SPACES + segmented) is None, metric


def test_rouge_says_which_texts_have_no_letter_that_it_reads():
    unread = words.unread(Rouge(), [*WITH_SPACES, "42", "!"])
    assert (unread.count, unread.total) == (4, 7)
    assert (
        "it reads no letter but a to z (the first is '고양이가 매트 위에 앉았다.')" in unread.text
    )


def test_metrics_count_the_words_of_a_tokenizer():
    chair = "猫坐在椅子上。"
    for tokenize in ("zh", "char"):
        assert quality.token_f1([CAT], [chair], tokenize=tokenize) == {
            f"token_f1_{tokenize}": pytest.approx(6 / 7)
        }
        name, value = quality.per_example_quality(
            [functools.partial(quality.rouge_l, tokenize=tokenize)], [CAT], [chair]
        )
        assert (name, value[0]) == (f"rouge_l_{tokenize}", pytest.approx(6 / 7))
    assert short_answers.squad([CAT], [chair], tokenize="zh")["f1_zh"] == pytest.approx(6 / 7)
    rouge = Rouge(("rouge1", "rouge2"), tokenize="zh")([CAT], [chair])
    assert rouge == {"rouge1_zh": pytest.approx(6 / 7), "rouge2_zh": pytest.approx(4 / 6)}
    assert quality.token_f1([CAT], [chair]) == {"token_f1": 0.0}
    own = sacrebleu.BLEU(tokenize="zh").tokenizer("我去 Rome。")
    assert words.split("我去 Rome。", "zh") == own.split()


def test_a_tokenizer_is_named_by_itself_or_by_a_language():
    assert [words.tokenizer(name) for name in ("13a", "th", "de", "ja")] == [
        *("13a", "char", "13a", "ja-mecab")
    ]
    tags = ("ko", "zh-Hans", "zh_TW", "pt-BR", "EN", "yue", "vi")
    assert [words.tokenizer(name) for name in tags] == [
        "13a",
        "zh",
        "zh",
        "13a",
        "13a",
        "zh",
        "13a",
    ]
    assert Bleu.for_language("zh-Hant-HK") == Bleu("zh")
    assert words.with_tokenizer(Bleu(), "zh") == Bleu("zh")
    assert words.with_tokenizer(quality.token_f1, "zh").keywords == {"tokenize": "zh"}
    with pytest.raises(ValueError, match=r"'zhh'; must be one of 13a.*of af, .*did you mean 'zh'"):
        words.tokenizer("zhh")
    for metric in (quality.accuracy, quality.chrf, Chrf()):
        with pytest.raises(ValueError, match="takes no tokenizer, as it is no metric of words"):
            words.with_tokenizer(metric, "zh")
    with pytest.raises(ValueError, match="use_stemmer is True; must be False with a tokenizer"):
        Rouge(use_stemmer=True, tokenize="zh")
    with pytest.raises(ValueError, match="tokenize is 'zhh'; must be one of .*did you mean 'zh'"):
        quality.token_f1(["a"], ["a"], tokenize="zhh")
