"""FLAN 2021's generation tasks on rows of our own: every task, its filters, its metric."""

import pytest
import seqio
import tensorflow as tf

from cascade_jax.task_metrics import quality
from tasks.flan2021 import (
    flan_task,
    generation,
    question_answering,
    summarization,
    translation,
)
from tests.support.rows import examples, texts_of, write_flan

TASKS = {
    task.name: task
    for module in (summarization, generation, question_answering, translation)
    for task in module.TASKS
}
NAMES = {name: flan_task.register(task) for name, task in TASKS.items()}

# The texts that FLAN's templates of each set name.
FLAN_TEXTS = {
    "aeslc": "body subject",
    "cnn_dailymail": "highlights text",
    "common_gen": "concepts concepts_newline target",
    "coqa": "numbered_answers numbered_questions text",
    "dart": "target tripleset tripleset_newline",
    "drop": "answer context question",
    "e2e_nlg": "meaning_representation target",
    "fix_punct": "answer no_punct",
    "gigaword": "summary text",
    "math_dataset": "answer question",
    "multi_news": "summary text",
    "natural_questions": "answer question",
    "newsroom": "summary text title",
    "opinion_abstracts_idebate": "argument_sentences claim debate_name",
    "opinion_abstracts_rotten_tomatoes": "critic_consensus first_review movie numbered_reviews",
    "para_crawl": "lang1 lang2 sent1 sent2",
    "quac": "answer background context question title",
    "samsum": "dialogue summary",
    "squad_v1": "answer context question title",
    "squad_v2": "answer context question title",
    "trivia_qa": "answer question",
    "true_case": "answer lower",
    "web_nlg_en": "input_string target",
    "wiki_lingua_english_en": "source target",
    "wmt14_enfr": "lang1 lang2 sent1 sent2",
    "wmt16_translate": "lang1 lang2 sent1 sent2",
    "word_segment": "answer no_space",
    "xsum": "summary text",
}

_STORY = {"title": "Super_Bowl_50", "context": "Denver won.", "question": "Who won?"}
_REFERENCES = {"target": "She runs.", "references": ["A dog ran.", "It ran."]}
_OPINIONS = {"value": [f"View {i}." for i in range(12)]}
_TEN = "\n".join(f"{i + 1}. View {i}." for i in range(10))
# A row of each builder, and the input and target of its evaluation.
ROWS = {
    "aeslc": (
        {"email_body": "Hi,\nsee you\nat ten.", "subject_line": "To us\n"},
        "Write a short subject line that fits this e-mail.\n\nHi, see you at ten.",
        "To us",
    ),
    "cnn_dailymail": (
        {
            "article": "PARIS (Reuters) -- It rained.\nA lot -- more",
            "highlights": "Rain .\nWet .",
        },
        "Give the main points of this news article.\n\nIt rained.\nA lot -- more",
        "Rain .\nWet .",
    ),
    "gigaword": (
        {"document": "shares fell .", "summary": "stocks down"},
        "Write a headline for a news story that begins like this.\n\nshares fell .",
        "stocks down",
    ),
    "multi_news": (
        {"document": "It rained.|||||It was wet.", "summary": "Wet rain."},
        "The articles below, divided by bars, are about the same event. Sum them up together.\n\n"
        "It rained.|||||It was wet.",
        "Wet rain.",
    ),
    "newsroom": (
        {"text": "It rained.", "summary": "Rain.", "title": "Wet"},
        "Sum up this article briefly.\n\nHeadline: Wet\nArticle: It rained.",
        "Rain.",
    ),
    "samsum": (
        {"dialogue": "Al: look <photo> <gif>!\r\nBo: 1 < 2", "summary": "Al shows Bo a thing."},
        "Tell in one or two sentences what happens in this chat.\n\nAl: look  !\nBo: 1 < 2",
        "Al shows Bo a thing.",
    ),
    "xsum": (
        {"document": "It rained.\nMuch.", "summary": "Rain."},
        "Sum up this article in a single sentence.\n\nIt rained.\nMuch.",
        "Rain.",
    ),
    "opinion_abstracts_rotten_tomatoes": (
        {"_movie_name": "up_and_on", "_critic_consensus": "Fine.", "_critics": _OPINIONS},
        'Critics wrote this about the film "up and on". What do they agree on?\n\n' + _TEN,
        "Fine.",
    ),
    "opinion_abstracts_idebate": (
        {"_debate_name": "Zoos", "_claim": "Bad.", "_argument_sentences": {"value": ["a", "b"]}},
        'These arguments come from a debate on "Zoos". Which claim do they support?\n\n1. a\n2. b',
        "Bad.",
    ),
    "wiki_lingua_english_en": (
        {"source": "Boil it. Eat it.", "target": "Cook."},
        "Shorten this guide to its most important steps.\n\nBoil it. Eat it.",
        "Cook.",
    ),
    "web_nlg_en": (
        {"input": ["Ann_Lee | age | 7", "Ann_Lee | eats | figs"]} | _REFERENCES,
        "Say in plain English what these facts state (subject, relation, object): "
        "Ann Lee, age, 7; Ann Lee, eats, figs",
        "She runs.",
    ),
    "common_gen": (
        {"concepts": ["dog", "run"]} | _REFERENCES,
        "Write one everyday sentence that uses all of these words: dog, run",
        "She runs.",
    ),
    "e2e_nlg": (
        {"meaning_representation": "name[Zizzi], area[riverside]"} | _REFERENCES,
        "Describe this place to eat in one or two sentences. name = Zizzi, area = riverside",
        "She runs.",
    ),
    "dart": (
        {"tripleset": ["[TITLE] YEAR 2008", "Ann AGE 7"]} | _REFERENCES,
        "Put these records from a table into words:  YEAR 2008; Ann AGE 7",
        "She runs.",
    ),
    "true_case": (
        {"en": "Élan in NASA"},
        "Put capital letters where they belong: élan in nasa",
        "Élan in NASA",
    ),
    "fix_punct": (
        {"en": "Café, no. 5: 10% “off” (it's_x)!"},
        "Add the missing punctuation to this text: Café no 5 10 off its_x",
        "Café, no. 5: 10% “off” (it's_x)!",
    ),
    "word_segment": (
        {"en": "I see a cat."},
        "Put the spaces between words back into this text: Iseeacat.",
        "I see a cat.",
    ),
    "math_dataset": (
        {"question": "Solve 2*x = 6 for x.", "answer": "3"},
        "Find the number that the equation asks for. Solve 2*x = 6 for x.",
        "3",
    ),
    "squad_v1": (
        _STORY | {"answers": {"text": ["Denver", "Denver Broncos"]}},
        "Answer with words from the passage.\n\nQuestion: Who won?\n"
        "Passage on Super Bowl 50: Denver won.",
        "Denver",
    ),
    "squad_v2": (
        _STORY | {"is_impossible": True, "answers": {"text": []}},
        'Answer with words from the passage, or "unanswerable" if it does not tell.\n\n'
        "Question: Who won?\nPassage on Super Bowl 50: Denver won.",
        "unanswerable",
    ),
    "drop": (
        {"passage": "Two ran.", "question": "How many?", "answer": "2"},
        "Read the passage, count or compare where needed, and answer.\n\n"
        "Question: How many?\nPassage: Two ran.",
        "2",
    ),
    "trivia_qa": (
        {
            "question": "A shark film?",
            "answer": {"normalized_value": "jaws", "normalized_aliases": ["jaws film", "jaws"]},
        },
        "Answer this quiz question in a word or a name: A shark film?",
        "jaws",
    ),
    "natural_questions": (
        {"question": "who ran", "answer": ["Ann", "Ann Lee"]},
        "Answer in a few words: who ran?",
        "Ann",
    ),
    "quac": (
        {
            "title": "Ann Lee",
            "background": "A runner.",
            "context": "She won. CANNOTANSWER",
            "question": "Did she win?",
            "orig_answer": {"text": "She won."},
        },
        "A student asks a teacher who has this text. Give the teacher's answer, in the text's "
        "words.\n\nStudent: Did she win?\nText: She won. CANNOTANSWER\nAbout Ann Lee: A runner.",
        "She won.",
    ),
    "coqa": (
        {
            "story": "Ann ran.",
            "questions": ["Who?", "Did what?"],
            "answers": {"input_text": ["Ann", "ran"]},
        },
        "Answer every question on this text in turn, numbered like the questions.\n\n"
        "1. Who?\n2. Did what?\n\nText: Ann ran.",
        "1. Ann\n2. ran",
    ),
    **{
        name: (
            {"en": "A good day.", code: "..."},
            f"Translate this {language} text into English: ...",
            "A good day.",
        )
        for name, code, language in [
            ("para_crawl_enes", "es", "Spanish"),
            ("wmt14_enfr", "fr", "French"),
            ("wmt16_translate_csen", "cs", "Czech"),
            ("wmt16_translate_deen", "de", "German"),
            ("wmt16_translate_fien", "fi", "Finnish"),
            ("wmt16_translate_roen", "ro", "Romanian"),
            ("wmt16_translate_ruen", "ru", "Russian"),
            ("wmt16_translate_tren", "tr", "Turkish"),
        ]
    },
}
REFERENCES = {
    **dict.fromkeys(
        ("web_nlg_en", "common_gen", "e2e_nlg", "dart"), ["A dog ran.", "It ran.", "She runs."]
    ),
    "squad_v1": ["Denver", "Denver Broncos"],
    "squad_v2": ["unanswerable"],
    "trivia_qa": ["jaws film", "jaws"],
    "natural_questions": ["Ann", "Ann Lee"],
}


def _examples(name, split="test", skip=0):
    return examples(NAMES[name], split, skip)


# ---- every task


@pytest.mark.parametrize("name", TASKS)
def test_a_row_reads_as_written_here_and_its_target_is_worth_1(tmp_path, name):
    row, prompt, target = ROWS[name]
    write_flan(tmp_path, name, [row])
    (example,) = _examples(name)
    assert texts_of(example) == (prompt, target)
    task = seqio.TaskRegistry.get(NAMES[name])
    expected = task.postprocess_fn(target, example=example, is_target=True)
    assert expected == REFERENCES.get(name, target)
    arguments = task.postprocess_fn(target, example=example, is_target=False)
    _, values = quality.per_example_quality(task.metric_fns, [expected], [arguments])
    assert values[0] == pytest.approx(1.0)


@pytest.mark.parametrize("name", TASKS)
def test_texts_have_the_names_that_flans_templates_use(tmp_path, name):
    task = TASKS[name]
    write_flan(tmp_path, name, [ROWS[name][0]])
    source = seqio.TaskRegistry.get(NAMES[name]).source
    (texts,) = [task.texts(row) for row in source.get_dataset("test", shuffle=False)]
    expected = FLAN_TEXTS[task.patterns or name].split()
    assert sorted(set(texts) - {"references"}) == expected
    assert all(tf.convert_to_tensor(texts[text]).shape == () for text in expected)


# ---- filters and other branches


@pytest.mark.parametrize(
    ("name", "rows", "kept"),
    [
        (
            "gigaword",
            [
                {"document": document, "summary": summary}
                for document, summary in [
                    ("a UNK fell", "x"),
                    ("it rose", "up 2"),
                    ("it fell", "down UNK"),
                    ("#.# points", "x"),
                    ("ok\n# b", "x"),
                    ("unk is fine", "fine"),
                ]
            ],
            ["up 2", "fine"],
        ),
        ("true_case", [{"en": "all low."}, {"en": "Not low."}], ["Not low."]),
        ("fix_punct", [{"en": "no marks"}, {"en": "a mark."}], ["a mark."]),
        ("word_segment", [{"en": "one"}, {"en": "two words"}], ["one", "two words"]),
        (
            "aeslc",
            [
                {"email_body": "", "subject_line": ""},
                {"email_body": "", "subject_line": "a"},
            ],
            ["a"],
        ),
        (
            "opinion_abstracts_rotten_tomatoes",
            [
                {"_movie_name": "m", "_critic_consensus": text, "_critics": {"value": reviews}}
                for text, reviews in [("none", []), ("one", ["r"])]
            ],
            ["one"],
        ),
    ],
)
def test_rows_are_dropped_that_ask_for_nothing(tmp_path, name, rows, kept):
    write_flan(tmp_path, name, rows)
    assert [texts_of(example)[1] for example in _examples(name)] == kept


def test_squad_v2_has_the_passages_answers_where_there_are_any(tmp_path):
    answers = {"text": ["Denver", "Denver Broncos"]}
    write_flan(tmp_path, "squad_v2", [_STORY | {"is_impossible": False, "answers": answers}])
    (example,) = _examples("squad_v2")
    assert texts_of(example)[1] == "Denver"
    assert example["references"].tolist() == [b"Denver", b"Denver Broncos"]


def test_training_data_without_references_have_the_target(tmp_path):
    write_flan(tmp_path, "common_gen", [{"concepts": ["a"], "target": "t", "references": []}])
    (example,) = _examples("common_gen")
    assert example["references"].tolist() == [b"t"]


def test_an_article_without_a_dateline_is_whole_and_begins_after_the_last_of_several(tmp_path):
    articles = [
        "A -- b ) .",
        "ROME 12 May 2013 . It (x) -- y",
        "By (a) -- b 2014 . c",
        "in 2015 . d",
    ]
    write_flan(tmp_path, "cnn_dailymail", [{"article": a, "highlights": "h"} for a in articles])
    texts = [texts_of(example)[0].partition("\n\n")[2] for example in _examples("cnn_dailymail")]
    assert texts == ["A -- b ) .", "y", "c", "in 2015 . d"]


def test_translation_trains_both_ways_and_evaluates_into_english(tmp_path):
    rows = [{"en": f"day {i}", "de": f"Tag {i}"} for i in range(64)]
    for split in ("train", "test"):
        write_flan(tmp_path, "wmt16_translate_deen", rows, split)
    trained = [texts_of(example) for example in _examples("wmt16_translate_deen", "train")]
    into_english = [target.startswith("day") for _, target in trained]
    assert len(trained) == 64 and 16 < sum(into_english) < 48
    for i, ((prompt, target), english) in enumerate(zip(trained, into_english, strict=True)):
        assert target == (f"day {i}" if english else f"Tag {i}")
        assert (f"Tag {i}" if english else f"day {i}") in prompt and target not in prompt
        assert "English" in prompt and "German" in prompt
    evaluated = [texts_of(example)[1] for example in _examples("wmt16_translate_deen")]
    assert evaluated == [row["en"] for row in rows]


def test_a_language_of_another_tokenizer_has_no_prompts_both_ways():
    with pytest.raises(
        ValueError, match="BLEU into 'zh' takes the tokenizer 'zh', into 'en' '13a'"
    ):
        translation._bleu("zh")
