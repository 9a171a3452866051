"""Options that are alike as targets are refused where a task is looked at or trained on."""

from types import SimpleNamespace

import pytest
import seqio

from cascade_jax.cli import task_pages
from cascade_jax.data import catalog, features, lengths, mixtures, sources
from cascade_jax.data.browse import rows as row_view
from cascade_jax.data.browse import token_counts
from cascade_jax.data.options import option_ids
from cascade_jax.data.vocabulary.load import load_vocabulary

FIELDS = {"inputs": str, "targets": str, "options": list[str]}
ROWS = [
    {"inputs": "which", "targets": "red", "options": ["red", "blue", "red"]},
    {"inputs": "which", "targets": "abcdeX", "options": ["abcdeX", "abcdeY"]},
]


@pytest.fixture(scope="module", autouse=True)
def _toy_task():
    seqio.TaskRegistry.add(
        "toy_options",
        source=sources.GeneratedSource(lambda split: ROWS, ["train", "test"], FIELDS),
        preprocessors=features.tokenizing(),
        output_features=features.output_features(),
    )
    yield
    seqio.TaskRegistry.remove("toy_options")


CUT = r"options 'abcdeX' and 'abcdeY' are the same ids when cut to target_length 6; they need 7 to"


def _train_check(target_length):
    config = mixtures.DataConfig("toy_options", 8, target_length, batch_size=2)
    task = mixtures.open_mixture(config).tasks["toy_options"]
    lengths.check_options(task, "toy_options", "train", config)


def test_training_refuses_options_that_a_length_makes_alike(monkeypatch):
    _train_check(7)
    with pytest.raises(ValueError, match=r"example 'toy_options/train/1': " + CUT):
        _train_check(6)
    # A card that says there are none saves the reading.
    monkeypatch.setitem(catalog._cards, "toy_options", catalog.TaskCard("toys", "short_answer"))
    _train_check(6)


def test_looking_at_rows_and_counting_them_refuse_the_same():
    def opened(target_length):
        return row_view.open_tasks("toy_options", "test", target_length=target_length)[0]

    for length in (7, None):
        token_counts.count_tokens(opened(length))
    with pytest.raises(ValueError, match=CUT):
        token_counts.count_tokens(opened(6))
    flags = {"name": "toy_options", "split": "test", "target_length": 6, "vocabulary": None}
    flags |= {"lengths": False, "input_length": None, "download": False, "tokens": 9}
    pages = task_pages.pages(SimpleNamespace(**flags, examples=2, color="never"))
    shown = [next(pages) for _ in range(3)]
    assert "abcdeX | abcdeY" in shown[2]
    with pytest.raises(ValueError, match=r"example 'toy_options/test/1': " + CUT):
        next(pages)


def test_a_vocabulary_that_can_not_tell_options_apart_is_named():
    class Lower(type(load_vocabulary("byte"))):
        def _encode(self, text):
            return super()._encode(text.lower())

    assert len(option_ids([b"Yes", b"yes", b"Yes"], load_vocabulary("byte"), None, "row")) == 2
    with pytest.raises(ValueError, match="row: options 'Yes' and 'yes' are the same ids in this"):
        option_ids([b"Yes", b"yes"], Lower(), 8, "row")
    with pytest.raises(ValueError, match="row has no options to rank"):
        option_ids([], load_vocabulary("byte"), 8, "row")
