"""What one chip of each kind can do, by its maker's data sheet.

Sources, all read in 2025: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, their tables of key
specifications. The interconnect there is the sum of both directions; half of it is what a chip can
send. For v4 that page has none: six links of 50 GB/s each way, Jouppi et al. 2023, "TPU v4: An
Optically Reconfigurable Supercomputer", table 4. The data-center network is a pod's by its number
of chips (v5e 6.4 Tbit/s of 256, v6e 25.6 Tbit/s of 256), for v5p 50 Gbit/s a chip as its page says;
v4, of which nothing is said, is given v5p's.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Rates of one chip.

    Attributes:
      name: e.g. "v5e".
      flops: a second, bfloat16.
      memory: bytes of HBM.
      memory_rate: bytes a second.
      link_rate: bytes a second that it sends to chips of its slice, over all links together.
      network_rate: bytes a second that it sends to other slices.
    """

    name: str
    flops: float
    memory: float
    memory_rate: float
    link_rate: float
    network_rate: float


CHIPS = {
    "v4": Chip("v4", 275e12, 32 * 2**30, 1200e9, 300e9, 6.25e9),
    "v5e": Chip("v5e", 197e12, 16e9, 819e9, 200e9, 3.125e9),
    "v5p": Chip("v5p", 459e12, 95e9, 2765e9, 600e9, 6.25e9),
    "v6e": Chip("v6e", 918e12, 32e9, 1600e9, 400e9, 12.5e9),
    # For tests: round numbers that no computer has.
    "cpu": Chip("cpu", 1e12, 8e9, 100e9, 10e9, 1e9),
}
