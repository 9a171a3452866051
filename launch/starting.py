"""Shared by the launch scripts: their arguments, dry runs, and the command that they start."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from secret_words import secret_in  # noqa: E402

from cascade_jax.cli.commands import COMMANDS  # noqa: E402  # imports nothing heavy
from cascade_jax.names import did_you_mean  # noqa: E402

DONE, REFUSED, STOPPED, LOST = 0, 2, 75, 76  # of `cascade-jax`; after the last two it goes on
SSH_LOST = 255
TERMINATED = 143  # by SIGTERM before training began
AGAIN = (STOPPED, LOST, SSH_LOST, TERMINATED)
_REPORTED = "cascade-jax ended with status"


def arguments(
    parser: argparse.ArgumentParser, argv: list[str] | None = None, programs: tuple[str, ...] = ()
):
    """Parses the script's flags; what follows `--` goes to `cascade-jax` as it is.

    Args:
      parser: with the script's own flags.
      argv: the arguments; those of the process if None.
      programs: must be installed, unless it is a dry run.

    Returns:
      The flags, with `command`: the list of words `cascade-jax …`.
    """
    parser.add_argument("--dry_run", action="store_true", help="print the commands, start nothing")
    parser.add_argument("--logs", default="logs", help="folder for the logs of all hosts")
    parser.usage = f"{parser.prog} [flags] -- train --gin_file=… [--gin.MACRO=VALUE …]"
    argv = sys.argv[1:] if argv is None else argv
    split = argv.index("--") if "--" in argv else len(argv)
    flags, rest = parser.parse_args(argv[:split]), argv[split + 1 :]
    if not rest:
        parser.error("after -- comes the command: -- train --gin_file=gin/experiments/demo.gin")
    if rest[0] == "cascade-jax":
        parser.error("after -- comes the command, without cascade-jax: -- train --gin_file=…")
    if rest[0] not in (*COMMANDS, "-h", "--help"):
        hint = did_you_mean(rest[0], COMMANDS)
        parser.error(f"after -- comes a command of cascade-jax first, not {rest[0]!r}{hint}")
    if secret := secret_in(argv):
        parser.error(
            f"{secret} … looks like a secret, which every user of a machine can see on a command "
            "line; put it in a file or the environment of the machines"
        )
    for program in () if flags.dry_run else programs:
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed here; --dry_run shows what would be run")
    flags.command = ["cascade-jax", *rest]
    return flags


def run(words: list[str], dry_run: bool, log: Path | None = None) -> int:
    """Prints a command and runs it, unless it is a dry run.

    Args:
      words: the command.
      dry_run: whether to print only.
      log: file that gets what the command prints, as well as the screen.

    Returns:
      Its exit status.
    """
    print(shlex.join(words), flush=True)
    if dry_run:
        return 0
    if log is None:
        return subprocess.run(words).returncode
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for line in process.stdout:
            sys.stdout.write(line)
            file.write(line)
            file.flush()
        return process.wait()


def output(words: list[str]) -> str:
    """The output of a command; empty if it fails."""
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def reporting(words: list[str]) -> list[str]:
    """A command that runs `words` and whose last line is its status, see `reported_status`.

    The shell outlives a SIGTERM that both receive, so that the command can save and end.
    """
    script = f'trap : TERM; "$@"; status=$?; echo "{_REPORTED} $status"; exit $status'
    return ["bash", "-c", script, "bash", *words]


def in_folder(folder: str, words: list[str]) -> str:
    """A shell command that runs `words` in a folder, with its virtual environment if it has one.

    Its last line is its status, see `reported_status`.
    """
    # A ~ stays as it is: it is the home of the machine that runs it.
    place = folder if re.fullmatch(r"~?[\w./-]*", folder) else shlex.quote(folder)
    command = f'cd {place} && PATH="$PWD/.venv/bin:$PATH" {shlex.join(words)}'
    return f'{command}; status=$?; echo "{_REPORTED} $status"; exit $status'


def reported_status(logs: Path, since: float = 0.0) -> int | None:
    """The status of the command, from the hosts' logs.

    gcloud's own status is 1 for any failure, srun's the highest of its tasks. The error of one host
    (2, say) takes precedence over the status of the others, which lost it.

    Args:
      logs: folder of the logs.
      since: older files are ignored; in seconds since 1970.
    """
    statuses = set()
    for file in logs.glob("*"):
        if file.is_file() and file.stat().st_mtime >= since:
            lines = re.findall(
                f"^{_REPORTED} ([0-9]+)", file.read_text(errors="replace"), re.MULTILINE
            )
            statuses |= set(map(int, lines[-1:]))
    rank = {LOST: 1, STOPPED: 2, DONE: 3}
    return min(statuses, key=lambda status: rank.get(status, 0)) if statuses else None
