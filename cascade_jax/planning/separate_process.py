"""Runs a function in a separate process, whose crash does not end this one."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def apart(fn: Callable, *arguments: Any) -> Any:
    """Runs `fn` in a separate process and returns its result; JAX must not have started yet.

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
