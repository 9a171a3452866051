"""Templates from a checkout of FLAN: a made-up one, and what is no checkout."""

import json

import pytest
import seqio

from cascade_jax.cli import gin_config
from cascade_jax.data import pipeline, sources
from tasks import flan2021
from tasks.flan2021 import checkout, flan_task

# By template set, the fields that FLAN's templates have, and what most of its targets are.
FIELDS = """
aeslc body subject > {subject}
ag_news_subset answer options_ text title > {answer}
anli answer context hypothesis options_ > {answer}
arc answer options_ question > {answer}
bool_q answer options_ question text title > {answer}
cb answer hypothesis options_ premise > {answer}
cnn_dailymail highlights text > {highlights}
cola answer options_ sentence > {answer}
common_gen concepts concepts_newline target > {target}
copa answer options_ premise question > {answer}
coqa numbered_answers numbered_questions text > {numbered_answers}
cosmos_qa answer context options_ question > {answer}
dart target tripleset tripleset_newline > {target}
definite_pronoun_resolution answer options_ pronoun sentence > {answer}
drop answer context question > {answer}
e2e_nlg meaning_representation target > {target}
fix_punct answer no_punct > {answer}
gigaword summary text > {summary}
glue_mrpc answer options_ sentence1 sentence2 > {answer}
glue_qqp answer options_ question1 question2 > {answer}
hellaswag answer context options_ > {answer}
imdb_reviews answer options_ text > {answer}
math_dataset answer question > {answer}
mnli answer hypothesis options_ premise > {answer}
multi_news summary text > {summary}
multirc answer options_ paragraph question response > {answer}
natural_questions answer question > {answer}
newsroom summary text title > {summary}
openbookqa answer fact options_ question > {answer}
opinion_abstracts_idebate argument_sentences claim debate_name > {claim}
opinion_abstracts_rotten_tomatoes critic_consensus first_review movie numbered_reviews > {critic_consensus}
para_crawl lang1 lang2 sent1 sent2 > {sent2} {sent1}
paws_wiki answer options_ sentence1 sentence2 > {answer}
piqa answer goal options_ > {answer}
qnli answer options_ question sentence > {answer}
quac answer background context question title > {answer}
record answer options_str passage query > {answer}
rte answer hypothesis options_ premise > {answer}
samsum dialogue summary > {summary}
sentiment140 answer options_ text > {answer}
snli answer hypothesis options_ premise > {answer}
squad_v1 answer context question title > {answer}
squad_v2 answer context question title > {answer}
sst2 answer options_ sentence > {answer}
story_cloze answer context options_ > {answer}
stsb answer_str options_ sentence1 sentence2 > {answer_str}
trec answer options_ text > {answer}
trivia_qa answer question > {answer}
true_case answer lower > {answer}
web_nlg_en input_string target > {target}
wic answer options_ sentence1 sentence2 word > {answer}
wiki_lingua_english_en source target > {target}
winogrande answer context options_ > {answer}
wmt14_enfr lang1 lang2 sent1 sent2 > {sent2} {sent1}
wmt16_translate lang1 lang2 sent1 sent2 > {sent2} {sent1}
wnli answer options_ sentence1 sentence2 > {answer}
word_segment answer no_space > {answer}
wsc answer context options_ text1 text2 > {answer}
wsc273 answer context options_ > {answer}
xsum summary text > {summary}
yelp_polarity_reviews answer options_ text > {answer}
"""  # noqa: E501
RTE = [
    ("First {premise} {hypothesis} {options_}", "{answer}"),
    ("Turned round", "{premise} {hypothesis}"),
    ("Second {premise} {hypothesis}", "{answer}"),
]


def _sets():
    for line in FIELDS.split("\n")[1:-1]:
        fields, targets = line.split(" > ")
        name, *fields = fields.split()
        yield name, fields, targets.split()


def _patterns():
    """For each set and target a template with all of its fields, and one turned round."""
    made = {"": [("nothing", "nothing")]}
    for name, fields, targets in _sets():
        text = " | ".join(f"{field} {{{field}}}" for field in fields)
        made[name] = [("turned round", text), *((f"{text} for {t[1:-1]}", t) for t in targets)]
    return made | {"rte": RTE}


def _make(folder, patterns=None, text=None):
    path = folder / "flan" / "templates.py"
    path.parent.mkdir(exist_ok=True)
    if text is None:
        text = f"raise SystemExit('must not be run')\nPATTERNS = {patterns or _patterns()!r}\n"
    path.write_text(text)
    return str(folder)


def _write_rte(folder, count):
    path = folder / "super_glue__rte"
    path.mkdir()
    rows = [{"premise": f"P{i}.", "hypothesis": f"H{i}.", "label": i % 2} for i in range(count)]
    for split in ("train", "validation"):
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources.set_data_dir(folder)


def _examples(name, split):
    rows = seqio.TaskRegistry.get(name).get_dataset(
        None, split, shuffle=False, try_in_mem_cache=False
    )
    return [
        (e["inputs_pretokenized"].decode(), e["targets_pretokenized"].decode())
        for e in rows.as_numpy_iterator()
    ]


def _tasks(mixture):
    config = pipeline.DataConfig(mixture, 64, 8, batch_size=2)
    return pipeline.open_mixture(config).tasks


def test_templates_of_the_checkout_take_the_place_of_prompts(tmp_path):
    name = checkout.from_checkout(_make(tmp_path), "cascade_flan2021_rte_v1")
    (task,) = _tasks(name)
    _write_rte(tmp_path, 300)
    options = "OPTIONS:\n- yes\n- no"
    assert _examples(task, "validation")[0] == (f"First P100. H100. {options}", "yes")
    trained = _examples(task, "train")
    for i, (inputs, target) in enumerate(trained):
        assert inputs in (f"First P{i}. H{i}. {options}", f"Second P{i}. H{i}.")
        assert target == ["yes", "no"][i % 2]
    firsts = sum(inputs.startswith("First") for inputs, _ in trained)
    assert len(trained) == 100 and 25 < firsts < 75
    assert _examples("cascade_flan2021_rte_v1", "validation")[0][0].startswith("P100.\n\nDoes")


def test_fewer_templates_keep_the_one_for_evaluation(tmp_path):
    turned_first = {"rte": [RTE[1], RTE[0], RTE[2]]}
    prompts = []
    for count in (1, 2, 3, 10):
        name = checkout.from_checkout(
            _make(tmp_path, turned_first), "cascade_flan2021_rte_v1", count
        )
        (task,) = _tasks(name)
        prompts.append(flan_task.registered(task).prompts)
    assert prompts == [(RTE[0],), (RTE[0],), (RTE[0], RTE[2]), (RTE[0], RTE[2])]


def test_a_template_that_is_there_twice_stays_so():
    twice = {"rte": [RTE[0], RTE[2], RTE[0]]}
    rte = flan2021.DATA_SETS["rte"]
    assert checkout.prompts_of(rte, twice, 10, "x") == (RTE[0], RTE[2], RTE[0])


def test_the_name_tells_the_file_and_the_number_of_templates(tmp_path):
    names = [
        checkout.from_checkout(_make(tmp_path, patterns), "cascade_flan2021_rte_v1", count)
        for patterns, count in [({"rte": RTE}, 10), ({"rte": RTE[:1]}, 10), ({"rte": RTE}, 2)]
    ]
    assert len(set(names)) == 3
    again = checkout.from_checkout(_make(tmp_path, {"rte": RTE}), "cascade_flan2021_rte_v1", 10)
    assert again == names[0] and again.startswith("cascade_flan2021_rte_checkout_")


@pytest.mark.medium
def test_the_whole_mixture_has_the_rates_of_the_original(tmp_path):
    original = seqio.MixtureRegistry.get("cascade_flan2021_v1")
    copy = seqio.MixtureRegistry.get(checkout.from_checkout(_make(tmp_path)))
    rates = {
        mixture.name: sorted((t.source.name, mixture.get_rate(t)) for t in mixture.tasks)
        for mixture in (original, copy)
    }
    assert rates[copy.name] == rates[original.name] and len(rates[copy.name]) == 69
    assert not {t.name for t in copy.tasks} & {t.name for t in original.tasks}


def test_every_field_of_flans_templates_is_a_text_of_its_data_set(tmp_path):
    _make(tmp_path)
    sets = {name: set(fields) for name, fields, _ in _sets()}
    assert len(sets) == 61
    used = {task.patterns or name for name, task in flan2021.DATA_SETS.items()}
    assert used == set(sets)
    patterns = checkout.read_patterns((tmp_path / "flan" / "templates.py").read_text(), "x")
    for name, task in flan2021.DATA_SETS.items():
        prompts = checkout.prompts_of(task, patterns, 10, "x")
        key = task.patterns or name
        # The template that asks for the answer, or for either language; never one turned round.
        assert sorted(prompts) == sorted(RTE[::2] if key == "rte" else patterns[key][1:])
        assert sets[key] <= set(flan_task.text_names(task)), name


# ---- what is no checkout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no PATTERNS; must be FLAN 2021's flan/templates.py"),
        ("PATTERNS = {", "templates.py:1: not Python ("),
        ("x = 1\nPATTERNS = dict(rte=[])", "templates.py:2: PATTERNS is no plain dictionary"),
        ("PATTERNS = [('a', 'b')]", "PATTERNS is list; must be {name: [(input, target), ...]}"),
        ("PATTERNS = {}", "PATTERNS is dict; must be"),
        ("PATTERNS = {'rte': [('a',)]}", "PATTERNS['rte'] is not of the form {name: [(input"),
        ("PATTERNS = {'rte': 'ab'}", "PATTERNS['rte'] is not of the form"),
        ("PATTERNS = {'rte': [('a', 1)]}", "PATTERNS['rte'] is not of the form"),
        ("PATTERNS = {'cb': [('a', 'b')]}", "PATTERNS has no templates for 'rte'"),
        ("PATTERNS = {'rte': [('a', 'b')]}", "no template of 'rte' has the target '{answer}'"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, message):
    folder = _make(tmp_path, text=text)
    with pytest.raises(ValueError) as caught:
        checkout.from_checkout(folder, "cascade_flan2021_rte_v1")
    assert message in str(caught.value) and "templates.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_with_another_field_is_refused(tmp_path):
    folder = _make(tmp_path, {"rte": [("{premise} {hypothesys}", "{answer}")]})
    with pytest.raises(ValueError, match="of rte has {hypothesys}.* did you mean 'hypothesis'"):
        checkout.from_checkout(folder, "cascade_flan2021_rte_v1")


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist; make one with 'git clo"):
        checkout.from_checkout(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="has no flan/templates.py; must be a checkout of"):
        checkout.from_checkout(str(tmp_path))


@pytest.mark.parametrize(
    ("mixture", "templates", "message"),
    [
        ("cascade_flan2021_v9", 10, "there is no mixture 'cascade_flan2021_v9'"),
        ("cascade_flan2021_v1", 0, "templates is 0; must be an integer of at least 1"),
        ("demo_mixture_v1", 10, "'demo_mixture_v1' has tasks that are not of FLAN 2021"),
    ],
)
def test_another_mixture_or_number_is_refused(tmp_path, mixture, templates, message):
    import tasks.demo  # noqa: F401

    with pytest.raises(ValueError, match=message):
        checkout.from_checkout(_make(tmp_path), mixture, templates)


def test_a_macro_names_the_checkout(tmp_path, monkeypatch, repository):
    import gin

    from cascade_jax.cli import train

    monkeypatch.chdir(repository)
    gin.clear_config(clear_constants=True)
    arguments = [
        "gin/runs/student.gin",
        "gin/pairs/demo.gin",
        "gin/data/flan2021_checkout.gin",
        "gin/losses/cat_xent.gin",
    ]
    macros = {
        "FLAN_CHECKOUT": _make(tmp_path),
        "VOCABULARY": "byte",
        "TEACHER_RUN": "t",
        "NAME": "n",
        "STUDENT_STEPS": 500,
        "STUDENT_LEARNING_RATE": 0.1,
        "BATCH_SIZE": 2,
        "CHECKPOINT_EVERY": 250,
        "COLLECT_SPLIT": "test",
        "OUTPUT_DIR": str(tmp_path),
    }
    flags = [f"--gin_file={file}" for file in arguments]
    flags += [f"--gin.{name}={value!r}" for name, value in macros.items()]
    try:
        with pytest.raises(gin_config.UsageError, match="FLAN_CHECKOUT"):
            gin_config.parse(train.CONFIG, [f for f in flags if "FLAN_CHECKOUT" not in f])
        (run,) = gin_config.parse(train.CONFIG, flags).runs
    finally:
        gin.clear_config(clear_constants=True)
    assert run.data.mixture == checkout.from_checkout(str(tmp_path))
    assert run.data.cache_rows == 0  # not the 50,000 of gin/runs/base.gin


def test_a_byte_order_mark_is_no_text_and_another_encoding_is_refused(tmp_path):
    name = checkout.from_checkout(_make(tmp_path), "cascade_flan2021_rte_v1")
    path = tmp_path / "flan" / "templates.py"
    text = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + text)
    assert checkout.from_checkout(str(tmp_path), "cascade_flan2021_rte_v1") == name
    for content in (b"# caf\xe9\n" + text, text.decode().encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"templates\.py: not UTF-8"):
            checkout.from_checkout(str(tmp_path), "cascade_flan2021_rte_v1")
