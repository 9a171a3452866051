"""The command `cascade-jax`: runs the sub-command. Imports nothing heavy."""

import sys

from cascade_jax.cli import commands
from cascade_jax.names import did_you_mean


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the arguments without the program's name; those of the process if None.

    Returns:
      The exit status: 0, or 2 for a command that does not exist.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(commands.usage(), end="")
        return 0
    name, *rest = argv
    if name not in commands.COMMANDS:
        hint = did_you_mean(name, commands.COMMANDS)
        print(
            f"cascade-jax: no command {name!r}{hint} (there are: {', '.join(commands.COMMANDS)})",
            file=sys.stderr,
        )
        return 2
    from cascade_jax.cli import run_command

    return run_command.run(commands.module_of(name), rest)


if __name__ == "__main__":
    sys.exit(main())
