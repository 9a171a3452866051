"""The commands of `cascade-jax`: names, one line on each, and the modules that hold them."""

import importlib
from types import ModuleType

COMMANDS = {
    "train": "train the models of an experiment; continues where it was interrupted",
    "cache-teacher": "run the teacher once over the data; train then runs without it",
    "collect": "decode a split with both models and write the records table",
    "study": "train and collect many students: sizes, losses and seeds, on several machines",
    "evaluate": "from records: deferral curves, figures, pictures and one HTML report",
    "compare": "what evaluate does, for any tables or experiments, without a gin file",
    "calibrate": "thresholds that keep a budget with a guarantee, by tokens or by answers",
    "fit-router": "fit a learned deferral score on the records of a calibration split",
    "records": "records from the JSONL of another system, and back",
    "plan": "whether a run fits a TPU slice, and how fast it can be; needs no TPU",
    "tasks": "list the tasks; show rows of one as the model gets them, and their lengths",
    "vocab": "train a SentencePiece vocabulary on the text of a mixture",
    "import": "make a run folder of a public checkpoint",
    "export": "write a run's model as a folder that transformers loads",
}
_MODULES = {  # where names differ
    "import": "import_checkpoint",
    "export": "export_checkpoint",
    "fit-router": "fit_router",
    "cache-teacher": "cache_teacher",
}

_USAGE = """\
cascade-jax COMMAND --gin_file=FILE [--gin.MACRO=VALUE ...]

{commands}

cascade-jax COMMAND --help shows an example of each; compare, records, tasks, import and
export take plain flags.
"""


def usage() -> str:
    """What `cascade-jax --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return _USAGE.format(commands="\n".join(lines))


def module_of(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"cascade_jax.cli.{_MODULES.get(name, name)}")
