"""Writes tasks/all.json, from which `cascade-jax tasks` lists the tasks without TensorFlow.

python -m tasks.write_list      # or: make task-list
"""

from cascade_jax import files
from cascade_jax.data.browse import task_list

FILE = task_list.path_of("tasks.all")


def current() -> task_list.TaskList:
    """The list of what `tasks.all` registers in a new process."""
    import seqio

    import tasks.all  # noqa: F401

    return task_list.list_registered(seqio.TaskRegistry.names(), FILE.parent)


if __name__ == "__main__":
    files.write_text(FILE, task_list.to_text(current()))
