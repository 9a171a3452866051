"""`python -m cascade_jax` is the command `cascade-jax`."""

import sys

from cascade_jax.cli import main

if __name__ == "__main__":
    sys.exit(main.main())
