"""Compiling on all hosts before any of them computes."""

from collections.abc import Callable
from typing import Any

from cascade_jax.parallel import hosts

_SECONDS = 24 * 3600  # one host may have the program in its cache, and others not


def compile_together(jitted: Callable, *args: Any) -> Callable:
    """The jitted function compiled for these arguments, on every host; all of them must call it.

    A host that compiles faster would wait for the others in its first exchange, and Gloo, which
    exchanges between CPUs, gives up after 30 seconds. A later call of `jitted` itself does not
    compile again.
    """
    compiled = jitted.lower(*args).compile()
    hosts.agree("programs", {}, _SECONDS)
    return compiled
