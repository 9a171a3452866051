"""FLAN 2021's generation tasks: slices and prompts of every task, and real rows as they read."""

import re
from collections import Counter

import pytest
import seqio

from cascade_jax.data import sources
from cascade_jax.task_metrics import quality
from tasks.flan2021 import (
    flan_task,
    generation,
    question_answering,
    summarization,
    translation,
)
from tests.support.rows import examples, texts_of

TASKS = {
    task.name: task
    for module in (summarization, generation, question_answering, translation)
    for task in module.TASKS
}
NAMES = {name: flan_task.register(task) for name, task in TASKS.items()}

# Builder; slices of train, validation and test; rows of the first, before any filter.
FACTS = """
aeslc aeslc:1.0.0 train validation[-200:] test 14436
cnn_dailymail cnn_dailymail:3.4.0 train[:30000] validation[:200] test 30000
common_gen gem/common_gen:1.1.0 train[:30000] train[-200:] validation 30000
coqa coqa:1.0.0 train[:-100] train[-100:] test 7099
dart gem/dart:1.1.0 train[:30000] train[-200:] validation 30000
drop drop:2.0.0 train[:30000] train[-200:] dev 30000
e2e_nlg gem/e2e_nlg:1.1.0 train[:30000] train[-200:] validation 30000
fix_punct para_crawl/enda:1.2.0 train[30200:60200] train[60200:60400] train[-3000:] 30000
gigaword gigaword:1.2.0 train[:30000] validation[:200] test 30000
math_dataset math_dataset/algebra__linear_1d:1.0.0 train[:30000] train[-200:] test 30000
multi_news multi_news:2.1.0 train[:30000] validation[:200] test 30000
natural_questions natural_questions_open:1.0.0 train[:30000] train[-200:] validation 30000
newsroom newsroom:1.0.0 train[:30000] validation[:200] test 30000
opinion_abstracts_idebate opinion_abstracts/idebate:1.0.0 train[:-600] train[-600:-500] train[-500:] 1659
opinion_abstracts_rotten_tomatoes opinion_abstracts/rotten_tomatoes:1.0.0 train[:-600] train[-600:-500] train[-500:] 3131
para_crawl_enes para_crawl/enes:1.2.0 train[:30000] train[-1200:-1000] train[-1000:] 30000
quac quac:1.0.0 train[:30000] train[-200:] validation 30000
samsum samsum:1.0.0 train validation[:200] test 14732
squad_v1 squad/v1.1:3.0.0 train[:30000] train[-200:] validation 30000
squad_v2 squad/v2.0:3.0.0 train[:30000] train[-200:] validation 30000
trivia_qa trivia_qa/rc:1.1.0 train[:30000] train[-200:] validation 30000
true_case para_crawl/enda:1.2.0 train[:30000] train[30000:30200] train[-3000:] 30000
web_nlg_en gem/web_nlg_en:1.1.0 train[:30000] train[-200:] validation 30000
wiki_lingua_english_en gem/wiki_lingua_english_en:1.1.0 train[:30000] validation[:200] test 30000
wmt14_enfr wmt14_translate/fr-en:1.0.0 train[:30000] validation[:200] test 30000
wmt16_translate_csen wmt16_translate/cs-en:1.0.0 train[:30000] validation[:200] test 30000
wmt16_translate_deen wmt16_translate/de-en:1.0.0 train[:30000] validation[:200] test 30000
wmt16_translate_fien wmt16_translate/fi-en:1.0.0 train[:30000] validation[:200] test 30000
wmt16_translate_roen wmt16_translate/ro-en:1.0.0 train[:30000] validation[:200] test 30000
wmt16_translate_ruen wmt16_translate/ru-en:1.0.0 train[:30000] validation[:200] test 30000
wmt16_translate_tren wmt16_translate/tr-en:1.0.0 train[:30000] validation[:200] test 30000
word_segment para_crawl/enda:1.2.0 train[60400:90400] train[90400:90600] train[-3000:] 30000
xsum xsum:1.1.0 train[:30000] validation[:200] test 30000
"""  # noqa: E501
MANUAL = {"newsroom", "samsum", "xsum", "wmt16_translate_csen", "wmt16_translate_ruen"}
ROUGE_KEYS = ["rouge1", "rouge2", "rougeLsum"]
EDIT_KEYS = ["min_edit", "max_edit", "mean_edit", "median_edit", "sum_edit"]


def _examples(name, split="test", skip=0):
    return examples(NAMES[name], split, skip)


# ---- the table


def test_the_tables_hold_flans_generation_tasks_with_their_slices():
    facts = [line.split() for line in FACTS.split("\n") if line]
    assert len(facts) == 33 and sorted(TASKS) == [line[0] for line in facts]
    for name, builder, train, validation, test, rows in facts:
        task = TASKS[name]
        assert task.tfds_name == builder
        assert task.splits == {"train": train, "validation": validation, "test": test}
        assert task.train_examples == int(rows)
        assert (task.manual is not None) == (name in MANUAL)
    clusters = Counter(task.cluster for task in TASKS.values())
    assert clusters == {
        "summarization": 10,
        "structure_to_text": 4,
        "reading_comprehension": 3,
        "open_domain_qa": 2,
        "text_formatting": 3,
        "translation": 8,
        "math": 1,
        "conversational_qa": 2,
    }


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_three_or_more_and_ask_for_the_plain_answer(name):
    pairs = TASKS[name].prompt_pairs
    assert len(pairs) >= 3 and len({prompt for prompt, _ in pairs}) == len(pairs)
    for prompt, target in pairs:
        assert re.fullmatch(r"\{\w+\}", target) and target not in prompt
    if TASKS[name].cluster != "translation":
        assert len({target for _, target in pairs}) == 1


# ---- real rows

EACC = (
    "Kenya ranks low on Transparency International's Corruption Perception Index (CPI), a metric "
    "which attempts to gauge the prevalence of public sector corruption in various countries. In "
    "2012, the nation placed 139th out of 176 total countries in the CPI, with a score of 27/100. "
    "However, there are several rather significant developments with regards to curbing corruption "
    "from the Kenyan government, for instance, the establishment of a new and independent Ethics "
    "and Anti-Corruption Commission (EACC)."
)
DIXON = (
    "The 21-year-old made his debut for the Tigers in the League Cup first-round tie against "
    "Accrington Stanley in August.\nDixon was captain of the Championship club's under-21 side.\n"
    "He could make his debut for the Minstermen, who are bottom of the Football League, in "
    "Saturday's match against Newport.\nFind all the latest football transfers on our dedicated "
    "page."
)
# (task, split, index of the example): its input, its target and how many answers are right.
REAL_ROWS = {
    ("natural_questions", "test", 0): (
        "Answer in a few words: when was the last time anyone was on the moon?",
        "14 December 1972 UTC",
        2,
    ),
    ("squad_v1", "test", 100): (
        "Answer with words from the passage.\n\nQuestion: Where is Kenya place on the scale in "
        "2012?\nPassage on Kenya: " + EACC,
        "139th",
        1,
    ),
    ("common_gen", "test", 413): (
        "Write one everyday sentence that uses all of these words: duck, swim, lake",
        "The duck is swimming in a lake.",
        4,  # the target is one of the references
    ),
    ("dart", "test", 1): (
        "Put these records from a table into words: Bibbo Bibbowski CREATOR Jerry Ordway; Bibbo "
        'Bibbowski CREATOR Marv Wolfman; Bibbo Bibbowski FULL_NAME "Bo Bibbowski"',
        "The creator of Bibbo Bibbowski, who is often called Bibbo, are Jerry Ordway and Marv "
        "Wolfman.",
        2,
    ),
    ("web_nlg_en", "test", 0): (
        "Say in plain English what these facts state (subject, relation, object): Andrews County "
        "Airport, location, Texas; Texas, largestCity, Houston; Texas, country, United States",
        "Andrews County Airport is located in Texas (United States), where Houston is the largest "
        "city.",
        4,
    ),
    ("math_dataset", "test", 22): (
        "Find the number that the equation asks for. Solve -1681 = 325*p - 56 for p.",
        "-5",
        1,
    ),
    ("wmt16_translate_deen", "validation", 0): (
        "Translate this German text into English: Biker reagiert blitzschnell und verhindert "
        "Schlimmeres",
        "Biker reacts lightning fast and prevents worse.",
        1,
    ),
    ("xsum", "validation", 50): (
        "Sum up this article in a single sentence.\n\n" + DIXON,
        "League Two side York City have signed Hull City midfielder Matt Dixon on an 18-month "
        "deal.",
        1,
    ),
}


@pytest.mark.parametrize("place", REAL_ROWS, ids=lambda place: "-".join(map(str, place)))
def test_a_real_row_reads_as_written_here_and_its_target_is_worth_1(data_folder, place):
    sources.set_data_dir(data_folder)
    prompt, target, answers = REAL_ROWS[place]
    example = next(_examples(*place))
    assert texts_of(example) == (prompt, target)
    assert len(example.get("references", [target])) == answers
    task = seqio.TaskRegistry.get(NAMES[place[0]])
    expected = task.postprocess_fn(target, example=example, is_target=True)
    _, values = quality.per_example_quality(task.metric_fns, [expected], [target])
    assert values[0] == pytest.approx(1.0)
