"""Rates and memory of each kind of chip, from the makers' data sheets.

Sources: the tables of key specifications of the maker's pages, docs.cloud.google.com/tpu/docs/v4,
/v5e, /v5p and /v6e. Every figure was compared with stored copies of these pages but for two of v4:

  v4    275 TFLOP/s, 32 GiB, 1200 GB/s as its page says. It gives no rate of a chip's interconnect:
        six links of 50 GB/s each way is table 4 of Jouppi et al. 2023, "TPU v4: An Optically
        Reconfigurable Supercomputer" (arXiv 2304.01433), here NOT VERIFIED in the paper itself but
        in what others quote of it. The page's all-reduce rate of a pod, 1.1 PB/s of 4096 chips, is
        near it. Its data-center network is NOT VERIFIED: taken as 25 GB/s of a host with four
        chips, which jax-ml.github.io/scaling-book/tpus calls typical of all TPUs.
  v5e   197 TFLOP/s, 16 GB, 819 GB/s (a later edition: 800 GiB/s), interconnect 400 GB/s in both
        directions (1600 Gbit/s), data-center network 6.4 Tbit/s of 256 chips.
  v5p   459 TFLOP/s, 95 GB (a later edition: GiB), 2765 GB/s, interconnect 1200 GB/s in both
        directions (4800 Gbit/s), data-center network 50 Gbit/s of a chip.
  v6e   918 TFLOP/s, 32 GB, 1638 GB/s (other editions: 1600, 1640), interconnect 800 GB/s in both
        directions (earlier editions: 3200 or 3584 Gbit/s), data-center network 25.6 Tbit/s of 256.

Half of what is given for both directions is what a chip can send.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Memory and rates of one chip; a rate is bytes a second."""

    name: str  # e.g. "v5e"
    flops: float  # a second, bfloat16
    memory: float  # bytes of HBM
    memory_rate: float
    link_rate: float  # that it sends to chips of its slice, over all links together
    network_rate: float  # that it sends to other slices


CHIPS = {
    "v4": Chip("v4", 275e12, 32 * 2**30, 1200e9, 300e9, 6.25e9),
    "v5e": Chip("v5e", 197e12, 16e9, 819e9, 200e9, 3.125e9),
    "v5p": Chip("v5p", 459e12, 95e9, 2765e9, 600e9, 6.25e9),
    "v6e": Chip("v6e", 918e12, 32e9, 1638e9, 400e9, 12.5e9),
    # For tests: round numbers that no computer has.
    "cpu": Chip("cpu", 1e12, 8e9, 100e9, 10e9, 1e9),
}
