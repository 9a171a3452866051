"""What the launch scripts share: their arguments, dry runs, and the one command that they start."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from cascade_jax.cli.commands import COMMANDS  # noqa: E402  # imports nothing heavy
from cascade_jax.names import did_you_mean  # noqa: E402

DONE, REFUSED, STOPPED, LOST = 0, 2, 75, 76  # of `cascade-jax`; after the last two it goes on
SSH_LOST = 255
TERMINATED = 143  # by SIGTERM before training began
AGAIN = (STOPPED, LOST, SSH_LOST, TERMINATED)
_TOLD = "cascade-jax ended with status"
_SECRET = re.compile(r"(?i)(token|password|passwd|secret|api_?key|credentials?)=")


def arguments(
    parser: argparse.ArgumentParser, argv: list[str] | None = None, programs: tuple[str, ...] = ()
):
    """Parses the script's flags; what follows `--` goes to `cascade-jax` as it is.

    Args:
      parser: with the script's own flags.
      argv: the arguments; those of the process if None.
      programs: what it starts here, which must be installed unless it is a dry run.

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
        parser.error("after -- comes what to do: -- train --gin_file=gin/experiments/demo.gin")
    if rest[0] == "cascade-jax":
        parser.error("after -- comes what to do, without cascade-jax: -- train --gin_file=…")
    if rest[0] not in (*COMMANDS, "-h", "--help"):
        hint = did_you_mean(rest[0], COMMANDS)
        parser.error(f"after -- comes a command of cascade-jax first, not {rest[0]!r}{hint}")
    for word in argv:
        if _SECRET.search(word):
            parser.error(
                f"{word.partition('=')[0]}=… looks like a secret, which every user of a machine "
                "can see on a command line; put it in a file or the environment of the machines"
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
    """What a command prints; empty if it fails."""
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def telling(words: list[str]) -> list[str]:
    """A command that does `words` and whose last line tells its status, see `told_status`.

    The shell outlives a SIGTERM that both get, for the command to save and to end with its status.
    """
    script = f'trap : TERM; "$@"; status=$?; echo "{_TOLD} $status"; exit $status'
    return ["bash", "-c", script, "bash", *words]


def in_folder(folder: str, words: list[str]) -> str:
    """A shell command that does `words` in a folder, with its virtual environment if it has one.

    Its last line tells its status, see `told_status`.
    """
    # A ~ stays as it is: it is the home of the machine that runs it.
    place = folder if re.fullmatch(r"~?[\w./-]*", folder) else shlex.quote(folder)
    command = f'cd {place} && PATH="$PWD/.venv/bin:$PATH" {shlex.join(words)}'
    return f'{command}; status=$?; echo "{_TOLD} $status"; exit $status'


def told_status(logs: Path, since: float = 0.0) -> int | None:
    """The status that the hosts' logs tell.

    gcloud's own is 1 for whatever went wrong, srun's that of the task with the highest.

    An error of one host (2, say) counts more than that the others lost it.

    Args:
      logs: folder of the logs.
      since: files that are older, in seconds since 1970, are left out.
    """
    told = set()
    for file in logs.glob("*"):
        if file.is_file() and file.stat().st_mtime >= since:
            found = re.findall(f"^{_TOLD} ([0-9]+)", file.read_text(errors="replace"), re.MULTILINE)
            told |= set(map(int, found[-1:]))
    rank = {LOST: 1, STOPPED: 2, DONE: 3}
    return min(told, key=lambda status: rank.get(status, 0)) if told else None
