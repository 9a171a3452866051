"""FLAN's own templates and lists of options, from a checkout of google-research/FLAN.

The file is parsed and never run; none of its text is part of this project.
"""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import seqio
import tensorflow as tf

from cascade_jax import text_file
from tasks.flan2021 import flan_task
from tasks.flan2021.flan_task import FlanTask
from tasks.registration import add_mixture

TEMPLATES_FILE = Path("flan", "templates.py")
_OPTIONS = "OPTIONS:\n- "  # FLAN's words before the first option

Patterns = Mapping[str, Sequence[tuple[str, str]]]


def from_checkout(folder: str, mixture: str = "cascade_flan2021_v1", templates: int = 10) -> str:
    """Registers copies of a mixture and its tasks with FLAN's templates in place of our prompts.

    Options are listed as FLAN lists them (`listed`). Evaluation uses the first template that asks
    for what our canonical prompt asks for. FLAN turns some templates round (the input becomes the
    target); these are left out, for a score against the answer means nothing on them.

    Example: in a gin file ``MIXTURE = @checkout.from_checkout()``.

    Args:
      folder: the checkout, which holds flan/templates.py.
      mixture: one of this package, or one of its tasks.
      templates: the most templates of each data set, from the start of its list.

    Returns:
      The new mixture's name, with a hash of the file, `templates` and the list of options.

    Raises:
      FileNotFoundError: no such folder, or no flan/templates.py in it.
      ValueError: a file of another form, a data set that it lacks, a template with a field that the
        data set has not, `templates` below 1, or a mixture with tasks of other suites.
    """
    if not isinstance(templates, int) or templates < 1:
        raise ValueError(f"templates is {templates!r}; must be an integer of at least 1")
    path = _templates_path(folder)
    text = text_file.decode(path.read_bytes(), str(path))
    patterns = read_patterns(text, str(path))
    digest = hashlib.sha256(f"{templates} {_OPTIONS} {text}".encode()).hexdigest()[:8]
    original = _look_up(mixture)
    rates = {}
    for task in seqio.get_subtasks(original):
        data_set = flan_task.registered(task.name)
        prompts = prompts_of(data_set, patterns, templates, str(path))
        own = replace(data_set, prompts=prompts, list_options=listed)
        copy = _renamed(task.name, digest)
        if copy not in flan_task.registered_names():
            flan_task.check_prompts(own)
            flan_task.register(own, copy)
        rates[copy] = 1.0 if isinstance(original, seqio.Task) else original.get_rate(task)
    return add_mixture(_renamed(mixture, f"checkout_{digest}"), list(rates.items()), 1.0)


def listed(options: tf.Tensor) -> tf.Tensor:
    """A list of options as FLAN's `preprocessors.format_options` has it.

    Example: "yes" and "no" give "OPTIONS:\\n- yes\\n- no".
    """
    return _OPTIONS + tf.strings.reduce_join(options, separator="\n- ")


def _renamed(name: str, digest: str) -> str:
    stem, _, version = name.rpartition("_")
    return f"{stem}_{digest}_{version}"


def _templates_path(folder: str) -> Path:
    path = Path(folder) / TEMPLATES_FILE
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"FLAN checkout {folder!r} does not exist; make one with "
            "'git clone https://github.com/google-research/FLAN' and name its folder"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder!r} has no {TEMPLATES_FILE}; must be a checkout of google-research/FLAN"
        )
    return path


def _look_up(mixture: str) -> seqio.Mixture | seqio.Task:
    registry = flan_task.registered_names()
    try:
        registered = seqio.get_mixture_or_task(mixture)
    except ValueError:
        raise ValueError(f"there is no mixture {mixture!r}; see tasks/flan2021") from None
    others = [t.name for t in seqio.get_subtasks(registered) if t.name not in registry]
    if others:
        raise ValueError(f"{mixture!r} has tasks that are not of FLAN 2021: {others[:3]}")
    return registered


def read_patterns(text: str, where: str) -> Patterns:
    """The dictionary PATTERNS of a Python file: of each template set, pairs of input and target.

    Args:
      text: of the file.
      where: its path, for messages.

    Raises:
      ValueError: not Python, no PATTERNS, or PATTERNS of another form.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{where}:{error.lineno}: not Python ({error.msg})") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{where}: not Python that can be read, nested too deeply") from None
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == "PATTERNS" and node.value is not None
    ]
    if not values:
        raise ValueError(f"{where}: has no PATTERNS; must be FLAN 2021's flan/templates.py")
    try:
        patterns = ast.literal_eval(values[-1])
    except ValueError:
        raise ValueError(f"{where}:{values[-1].lineno}: PATTERNS is no plain dictionary") from None
    form = "{name: [(input, target), ...]}"
    if not isinstance(patterns, dict) or not patterns:
        raise ValueError(f"{where}: PATTERNS is {type(patterns).__name__}; must be {form}")
    for name, pairs in patterns.items():
        if not isinstance(pairs, list | tuple) or not pairs or not all(map(_is_pair, pairs)):
            raise ValueError(f"{where}: PATTERNS[{name!r}] is not of the form {form}")
    return patterns


def _is_pair(pair: object) -> bool:
    is_two = isinstance(pair, tuple | list) and len(pair) == 2
    return is_two and all(isinstance(text, str) for text in pair)


def prompts_of(
    task: FlanTask, patterns: Patterns, count: int, where: str
) -> tuple[tuple[str, str], ...]:
    """The templates that ask for what our prompts ask for, the canonical one first.

    Args:
      task: whose prompts they replace.
      patterns: from `read_patterns`.
      count: how many of the list are used; the canonical one always is.
      where: path of the file, for messages.

    Raises:
      ValueError: no templates for the data set, or none for what its canonical prompt asks for.
    """
    name = task.templates
    if name not in patterns:
        raise ValueError(f"{where}: PATTERNS has no templates for {name!r}")
    targets = [target for _, target in task.prompt_pairs]
    pairs = [tuple(pair) for pair in patterns[name]]
    canonical = next((i for i, (_, target) in enumerate(pairs) if target == targets[0]), None)
    if canonical is None:
        raise ValueError(f"{where}: no template of {name!r} has the target {targets[0]!r}")
    # By number: FLAN has one template twice, which then counts twice.
    rest = [i for i, pair in enumerate(pairs[:count]) if pair[1] in targets and i != canonical]
    return tuple(pairs[i] for i in (canonical, *rest))
