"""TensorFlow as a reader of text: starts faster, off the devices, and traces faster.

Imported before anything else that imports TensorFlow, it saves a fifth of TensorFlow's start.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

Built = TypeVar("Built")

# Keras, which TensorFlow imports, tries to import these, and does without them.
_OPTIONAL = ("sklearn", "matplotlib")


@contextlib.contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Lets imports of packages that are not imported yet fail, as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden(_OPTIONAL):
    import tensorflow as tf

# TensorFlow only reads text here; left alone it would take the accelerators' memory.
for _kind in ("GPU", "TPU"):
    if tf.config.list_physical_devices(_kind):
        tf.config.set_visible_devices([], _kind)


def without_autograph(build: Callable[[], Built]) -> Built:
    """What `build` gives, whose functions for tf.data are traced as they are.

    AutoGraph rewrites them first, so that Python's `if` and `for` may ask tensors, which takes most
    of the time of making a data set. Without it such a function ends in an error and never in
    another graph. Then `build` is called again with AutoGraph.
    """
    try:
        return tf.autograph.experimental.do_not_convert(build)()
    except Exception:  # of whatever kind: an error that has another cause comes again
        return build()
