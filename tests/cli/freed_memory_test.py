"""Whether a process keeps what it frees, by the page faults of running a program again."""

import subprocess
import sys

import pytest

from cascade_jax.cli import freed_memory

_FAULTS = """
import resource
import jax
import numpy as np
from cascade_jax.cli import freed_memory
if {policy!r} == freed_memory.KEEP:
    freed_memory.keep()
freed_memory.keep_on_cpu_alone()
ones = jax.jit(lambda x: [x + i for i in range(8)])
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(ones(np.ones(1 << 24, np.float32)))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))  # JAX frees late, so that the heap may still grow in any one run
"""


@pytest.mark.medium
@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize("policy", [freed_memory.KEEP, freed_memory.RETURN])
def test_kept_memory_is_used_again_without_page_faults(policy):
    command = [sys.executable, "-c", _FAULTS.format(policy=policy)]
    faults = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    pages = 8 * (1 << 26) // 4096
    assert faults < pages / 10 if policy == freed_memory.KEEP else faults >= pages / 10
