"""The real tasks: the first row of each, its target in the eyes of its metric, and the rates."""

import importlib

import pytest
import seqio
import tensorflow_datasets as tfds

import tasks.local_multitask
from cascade_jax.data import pipeline, sources
from cascade_jax.task_metrics import quality

FIRST_TRAIN_ROWS = {
    "local_sst2_v1": ("film opinion: hide new secretions from the parental units", "negative"),
    "local_cola_v1": (
        "grammar: Our friends won't buy this analysis, let alone the next one we propose.",
        "right",
    ),
    "local_ag_news_v1": (
        "news section: Fears for T N pension after talks | Unions representing workers at Turner  "
        " Newall say they are 'disappointed' after talks with stricken parent firm Federal Mogul.",
        "business",
    ),
    "local_snli_v1": (
        "given: Two women are embracing while holding to go packages. follows: The sisters are "
        "hugging goodbye while holding to go packages after just eating lunch.",
        "maybe",
    ),
    "local_qnli_v1": (
        "asked: What came into force after the new constitution was herald? answered by: As of "
        "that day, the new constitution heralding the Second Republic came into force.",
        "yes",
    ),
    "local_linear_1d_v1": ("equation: Solve -11244*k + 11006*k = 3570 for k.", "-15"),
    "local_common_gen_v1": (
        "sentence with: chicken, cheese, pizza, broccoli",
        "A grilled pizza with chicken, broccoli and cheese.",
    ),
    "local_web_nlg_v1": (
        "tell the facts: California_State_Assembly | location | California_State_Capitol",
        "The California State Assembly is located in the California State Capitol.",
    ),
    "local_dart_v1": (
        "tell the table: John Cowper Powys NOTABLE_WORK Wolf Solent",
        "Wolf Solent is a notable work by John Cowper Powys.",
    ),
    "local_tatoeba_zh_en_v1": (
        "from Chinese to English: Tom應該要擔心嗎？",
        "Should Tom be worried?",
    ),
    "local_tatoeba_ja_en_v1": (
        "from Japanese to English: 本日は定休日です。",
        "We're closed today.",
    ),
}


@pytest.fixture
def config(data_folder):
    before = sources.get_data_dir()
    yield pipeline.DataConfig(tasks.local_multitask.MIXTURE, 256, 128, 8, data_dir=str(data_folder))
    sources.set_data_dir(before)


def test_the_mixture_has_these_tasks_with_one_metric_each():
    assert sorted(tasks.local_multitask.TASKS) == sorted(FIRST_TRAIN_ROWS)
    mixture = seqio.MixtureRegistry.get("local_multitask_v1")
    metrics = {task.name: [fn.__name__ for fn in task.metric_fns] for task in mixture.tasks}
    assert sorted(metrics) == sorted(FIRST_TRAIN_ROWS)
    counts = [names for names in metrics.values()]
    assert counts.count(["accuracy"]) == 6
    assert counts.count(["rouge_l"]) == 3 and counts.count(["chrf"]) == 2


@pytest.mark.parametrize("name", FIRST_TRAIN_ROWS)
def test_the_first_row_reads_as_written_and_its_target_is_worth_1(config, name):
    row = next(pipeline.decode_examples(config, name, "train", limit=1))
    assert (row.inputs_text, row.target_text) == FIRST_TRAIN_ROWS[name]
    mixture = pipeline.open_mixture(config)
    examples = list(pipeline.decode_examples(config, name, "validation", limit=3))
    answers = [pipeline.answer_for_metric(mixture, e, e.target_text) for e in examples]
    targets = [example.target for example in examples]
    _, values = quality.per_example_quality(mixture.tasks[name].metric_fns, targets, answers)
    assert values.tolist() == [1.0, 1.0, 1.0]


def test_validation_of_generation_tasks_takes_every_reference(config):
    example = next(pipeline.decode_examples(config, "local_common_gen_v1", "validation"))
    assert len(example.target) == 4 and example.target[0] == example.target_text
    assert example.target[3] == "Someone stands, looking around the empty field."


def test_rates_are_the_training_rows_up_to_a_cap(config):
    mixture = pipeline.open_mixture(config)
    rates = {name: mixture.provider.get_rate(task) for name, task in mixture.tasks.items()}
    assert rates["local_ag_news_v1"] == 2600.0
    assert rates["local_web_nlg_v1"] == 2000.0
    assert rates["local_sst2_v1"] == rates["local_tatoeba_zh_en_v1"] == 4000.0


def test_a_missing_data_folder_says_so(config):
    sources.set_data_dir("/nowhere/data")
    with pytest.raises(FileNotFoundError, match="data folder '/nowhere/data' does not exist"):
        seqio.TaskRegistry.get("local_sst2_v1").get_dataset(None, split="train")


@pytest.mark.parametrize("name", ["local_snli_v1", "local_common_gen_v1"])
def test_the_same_preprocessors_serve_tfds(name):
    before = sources.get_data_dir()
    sources.set_data_dir(None)
    try:
        with tfds.testing.mock_data(num_examples=4, policy=tfds.testing.MockPolicy.USE_CODE):
            dataset = seqio.TaskRegistry.get(name).get_dataset(
                None, "train", shuffle=False, try_in_mem_cache=False
            )
            rows = list(dataset.as_numpy_iterator())
    finally:
        sources.set_data_dir(before)
    assert rows
    start = FIRST_TRAIN_ROWS[name][0].split(":")[0]
    for row in rows:
        assert row["inputs_pretokenized"].decode().startswith(start)
        assert row["inputs"][-1] == row["targets"][-1] == 1


def test_importing_again_registers_nothing_twice():
    importlib.reload(tasks.local_multitask)
    assert len(seqio.MixtureRegistry.get("local_multitask_v1").tasks) == 11
