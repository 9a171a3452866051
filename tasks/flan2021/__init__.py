"""The 70 data sets of FLAN 2021's code: 69 in 17 clusters, and WSC273, which is for testing only.

Splits are FLAN's: at most 30,000 training rows, mostly 200 rows for validation. Prompts are our
own, or FLAN's from a checkout of it (`checkout.from_checkout`). `cascade_flan2021_v1` draws the 69
in proportion to their training rows, at most 3,000 each. FLAN cuts every training split at
30,000 rows, so that `..._cap_30000_v1` and `..._proportional_v1` draw alike.

Reference: Wei et al. 2022, "Finetuned Language Models Are Zero-Shot Learners", section 2 (of its 62
data sets the code counts configs one by one).
"""

import operator
from collections.abc import Sequence

from tasks.flan2021 import (
    entailment,
    flan_task,
    generation,
    multiple_choice,
    question_answering,
    summarization,
    translation,
    understanding,
)
from tasks.registration import RATE_CAP, add_mixture, add_mixtures, proportional

_MODULES = (
    entailment,
    generation,
    multiple_choice,
    question_answering,
    summarization,
    translation,
    understanding,
)
# By FLAN's name.
DATA_SETS = {task.name: task for module in _MODULES for task in module.TASKS}
TASKS = {name: flan_task.register(task) for name, task in DATA_SETS.items()}

CLUSTERED = tuple(name for name, task in DATA_SETS.items() if task.cluster)
# The tasks that the cascade-aware training paper counts as "accuracy" (figures 11 and 12, and seven
# of which it shows no figure; those seven are of the generating kind).
CLASSIFICATION = tuple(
    "ag_news_subset anli_r1 anli_r2 anli_r3 arc_challenge arc_easy bool_q cb cola copa coqa "
    "cosmos_qa definite_pronoun_resolution drop glue_mrpc glue_qqp hellaswag imdb_reviews "
    "math_dataset mnli_matched mnli_mismatched natural_questions openbookqa paws_wiki piqa qnli "
    "rte samsum sentiment140 snli squad_v1 squad_v2 sst2 story_cloze trec trivia_qa wic wsc "
    "yelp_polarity_reviews".split()
)
# Those of its figure 10, with BLEU.
GENERATION = tuple(name for name, task in DATA_SETS.items() if task.cluster == "translation")


_TRAIN_ROWS = operator.attrgetter("train_examples")  # of a FlanSource


def _names(data_sets: Sequence[str]) -> list[str]:
    return [TASKS[name] for name in data_sets]


MIXTURES = (
    *add_mixtures(flan_task.SUITE, _names(CLUSTERED), _TRAIN_ROWS),
    *(
        add_mixture(
            f"cascade_flan2021_{group}_v1", _names(names), proportional(_TRAIN_ROWS, RATE_CAP)
        )
        for group, names in (("classification", CLASSIFICATION), ("generation", GENERATION))
    ),
)
