"""A function in a process of its own, whose end does not end ours."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def apart(fn: Callable, *arguments: Any) -> Any:
    """What `fn` gives in a process of its own; JAX must not have started in this one.

    Raises:
      ValueError: it raised one, or its process ended without a word.
    """
    context = multiprocessing.get_context("fork")  # what gin has built cannot be pickled
    ours, theirs = context.Pipe(duplex=False)

    def work():
        try:
            theirs.send((True, fn(*arguments)))
        except ValueError as error:
            theirs.send((False, str(error)))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        is_good, value = ours.recv()
    except EOFError:
        process.join()
        raise ValueError(f"the compiler ended with status {process.exitcode}") from None
    process.join()
    if not is_good:
        raise ValueError(value)
    return value
