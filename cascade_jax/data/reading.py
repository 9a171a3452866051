"""Errors inside of tf.data as one line: a damaged file, a row that a chat template refuses."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Raises a ValueError for what goes wrong in tf.data while rows are read.

    Args:
      where: what is read, for the message.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        # Of an error in a function of Python, its own message stands before the traceback.
        message = str(error.message).partition("\nTraceback (most recent call last)")[0]
        text = " ".join(message.split()).removeprefix("ValueError: ")
        raise ValueError(f"{where}: the data can't be read: {text}") from error
