"""FLAN's own code beside ours: prompts of a checkout, bit for bit on real rows.

    CASCADE_JAX_FLAN=/path/to/FLAN pytest tests/tasks/flan2021_peer_test.py

The checkout (github.com/google-research/FLAN) must hold flan/templates.py, flan/preprocessors.py
and flan/tasks.py. Of the last only the functions that make texts of rows are run, since the rest
needs t5 and a vocabulary in a bucket.
"""

import ast
import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
import seqio
import tensorflow as tf

from tasks.flan2021 import DATA_SETS, checkout, flan_task

CHECKOUT = os.environ.get("CASCADE_JAX_FLAN", "")
ROWS = 50
# Data sets with options and rows in the data folder, and FLAN's function that makes their texts.
PROCESS = {
    "ag_news_subset": "_process_ag_news_subset",
    "anli_r1": "_process_anli",
    "arc_easy": "_process_arc",
    "cola": "_process_cola",
    "cosmos_qa": "_process_cosmos_qa",
    "imdb_reviews": "_process_imdb_reviews",
    "mnli_matched": "_process_mnli",
    "piqa": "_process_piqa",
    "qnli": "_process_qnli",
    "record": "_process_record",
    "rte": "_process_rte",
    "snli": "_process_snli",
}

pytestmark = [
    pytest.mark.slow,  # needs a checkout; that options are listed so is in flan2021_checkout_test
    pytest.mark.skipif(not CHECKOUT, reason="CASCADE_JAX_FLAN names no checkout of FLAN"),
]


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """FLAN's preprocessors and its functions from rows to texts."""
    for name in ("t5", "t5.data", "t5.data.preprocessors"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["t5.data"].preprocessors = sys.modules["t5.data.preprocessors"]
    preprocessors = _load("flan_preprocessors", Path(CHECKOUT, "flan", "preprocessors.py"))
    tree = ast.parse(Path(CHECKOUT, "flan", "tasks.py").read_text("utf-8"))
    functions = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in PROCESS.values()
    ]
    # In a file, since TensorFlow reads their source.
    path = tmp_path_factory.mktemp("flan") / "flan_rows.py"
    head = "import seqio\nimport tensorflow.compat.v1 as tf\n"
    path.write_text("\n\n".join([head, *functions]), "utf-8")
    return preprocessors, vars(_load("flan_rows", path))


@pytest.mark.parametrize("name", PROCESS)
def test_prompts_are_those_that_flans_code_makes(real_data, peer, name):
    preprocessors, functions = peer
    data_set = DATA_SETS[name]
    registered = checkout.from_checkout(CHECKOUT, f"cascade_flan2021_{name}_v1")
    (copy,) = seqio.get_subtasks(seqio.get_mixture_or_task(registered))
    own = flan_task.registered(copy.name)
    is_there = flan_task.FlanSource(data_set).is_available
    split = next(split for split in ("test", "validation", "train") if is_there(split))
    rows = flan_task.FlanSource(data_set).get_dataset(split, shuffle=False)
    if data_set.keep:
        rows = rows.filter(data_set.keep)
    rows = rows.take(ROWS).map(lambda row: row | {"is_training": tf.constant(False)})

    texts = functions[PROCESS[name]](rows)
    if "options_str" not in texts.element_spec:
        texts = preprocessors.format_options(texts)
    template = dict(zip(("inputs", "targets"), own.prompt_pairs[0], strict=True))
    expected = preprocessors.reformat_passthrough(texts, format_strings=template)
    for step in flan_task.preprocessors(own):
        rows = step(rows)
    pairs = list(zip(rows.as_numpy_iterator(), expected.as_numpy_iterator(), strict=True))
    assert len(pairs) == ROWS or name == "record" and pairs
    for ours, theirs in pairs:
        assert (ours["inputs"], ours["targets"]) == (theirs["inputs"], theirs["targets"])
        assert ours["options"].tolist() == theirs["options"].tolist()
        assert b"OPTIONS:\n- " in ours["inputs"]
