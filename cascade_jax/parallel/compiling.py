"""Compiles on all hosts before any of them computes."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from cascade_jax.parallel import hosts


def compile_together(jitted: Callable, *args: Any) -> Callable:
    """The jitted function compiled for these arguments, on every host; all of them must call it.

    A host that compiles faster would wait for the others in its first exchange, and Gloo, which
    exchanges between CPUs, gives up after 30 seconds. A later call of `jitted` itself does not
    compile again.
    """
    compiled = jitted.lower(*args).compile()
    hosts.barrier("a program", hosts.WORK_SECONDS)  # some may have it in their cache
    return compiled


def under_mesh(mesh: Mesh, jitted: Callable) -> Callable:
    """Calls a jitted function where models' sharding constraints see the mesh.

    Its first call compiles on all hosts together. Its attribute `jitted` is the function.
    """

    is_compiled = False

    def call(*args):
        nonlocal is_compiled
        with jax.set_mesh(mesh):
            if not is_compiled and hosts.connected():
                compile_together(jitted, *args)
            is_compiled = True
            return jitted(*args)

    call.jitted = jitted
    return call
