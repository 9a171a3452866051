"""The list of tasks in a file says what the registered tasks say."""

from pathlib import Path

import tasks.all  # noqa: F401
from cascade_jax import json_file
from cascade_jax.data import sources
from cascade_jax.data.browse import task_list
from cascade_jax.data.browse import tasks as browse
from tasks import write_list


def test_the_list_is_current():
    listed = json_file.from_values(json_file.read_object(write_list.FILE), task_list.TaskList)
    now = task_list.list_registered([task.name for task in listed.tasks], write_list.FILE.parent)
    assert task_list.to_text(now) == write_list.FILE.read_text(), "run `make task-list`"


def test_listed_facts_are_those_of_the_tasks(tmp_path):
    for name, lines in {"train": 150, "validation": 1}.items():
        file = tmp_path / "glue__sst2" / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}\n" * lines)
    for folder in (None, tmp_path):
        sources.set_data_dir(folder)
        try:
            registered = {facts.name: facts for facts in browse.list_tasks()}
        finally:
            sources.set_data_dir(None)
        facts = task_list.read("tasks.all", folder)
        assert len(facts) > 100
        assert facts == [registered[task.name] for task in facts]
    assert {task.data for task in facts} >= {browse.NOT_IN_FOLDER, browse.YES}
    assert any(task.data.startswith(browse.FOLDER) for task in facts)


def test_a_list_older_than_its_tasks_is_not_used(tmp_path, monkeypatch):
    package = tmp_path / "listed_tasks"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    module = package / "__init__.py"
    module.write_text("")
    assert task_list.read("listed_tasks", None) is None  # no list
    task = task_list.ListedTask("a_v1", "s", "generation", ["m"], "x", ["train"], "", "yes", None)
    listed = task_list.TaskList(task_list.hashes(package), [task])
    Path(package, "__init__.json").write_text(task_list.to_text(listed))
    (facts,) = task_list.read("listed_tasks", None)
    assert facts == browse.TaskFacts("a_v1", "s", "generation", ("m",), "x", ("train",), "yes")
    module.write_text("# Another task.\n")
    assert task_list.read("listed_tasks", None) is None
