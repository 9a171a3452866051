"""Programs that stand for gcloud, xpk, kubectl, srun and scontrol: they note how they were called.

`gcloud … ssh` and `xpk workload create` do the command that they are given, as one host; `srun`
does it as two tasks that know of each other by what Slurm sets.
"""

import json
import os
import sys
from pathlib import Path

from tests.support import processes

NAMES = ("gcloud", "xpk", "kubectl", "srun", "scontrol")
_PROGRAM = '''#!{python}
import json, os, re, subprocess, sys
from pathlib import Path

here = Path(__file__).parent
name, argv = Path(__file__).name, sys.argv[1:]
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps([name, *argv]) + "\\n")


def flag(key):
    return next((a.split("=", 1)[1] for a in argv if a.startswith("--" + key + "=")), None)


def planned(what):
    """The next of the answers that the test has put down for this."""
    file = here / (what + ".json")
    answers = json.loads(file.read_text()) if file.exists() else []
    if answers:
        file.write_text(json.dumps(answers[1:] or answers))
    return answers[0] if answers else None


if name == "gcloud" and "describe" in argv:
    state = planned("state")
    print("ACTIVE" if state is None else state)
if name == "gcloud" and "ssh" in argv:
    status = planned("ssh")
    command = flag("command") if status is None else (
        "echo cascade-jax ended with status " + str(status) + "; exit " + str(status))
    with (Path(flag("output-directory")) / "0.log").open("w") as log:
        done = subprocess.run(["bash", "-c", command], stdout=log, stderr=log)
    sys.exit(min(done.returncode, 1))  # as gcloud does for many workers
if name == "xpk" and "create" in argv:
    with (here / "pod.log").open("w") as log:
        sys.exit(subprocess.run(["bash", "-c", flag("command")], stdout=log, stderr=log).returncode)
if name == "kubectl":
    print((here / "pod.log").read_text(), end="")
if name == "srun":
    words = [a for a in argv if not a.startswith("--")]
    command = argv[argv.index(words[0]):]
    tasks = []
    for i in range(2):
        slurm = dict(SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2", SLURM_PROCID=str(i),
                     SLURM_LOCALID=str(i), SLURM_STEP_NUM_NODES="1")
        log = open(flag("output").replace("%t", str(i)), "a")
        tasks.append(subprocess.Popen(command, env=os.environ | slurm, stdout=log, stderr=log))
    status = planned("srun")
    found = max(task.wait() for task in tasks)
    sys.exit(found if status is None else status)
'''
_COMMAND = '#!/bin/sh\nexec "{python}" -m cascade_jax "$@"\n'


class Programs:
    """A folder of stand-ins, first on the PATH.

    Args:
      folder: where they go.
      repository: the clone.
    """

    def __init__(self, folder: Path, repository: Path):
        self.folder, self.repository = folder, repository
        folder.mkdir()
        for name in NAMES:
            self._write(name, _PROGRAM.format(python=sys.executable))
        self._write("cascade-jax", _COMMAND.format(python=sys.executable))

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        flags = processes.xla_flags(4)
        path = f"{self.folder}:{os.environ['PATH']}"
        root = str(self.repository)
        return os.environ | {"PATH": path, "PYTHONPATH": root, "XLA_FLAGS": flags} | more

    def plan(self, what: str, *answers) -> None:
        """The next answers: "state" of a queued resource, statuses of "ssh" or "srun"."""
        (self.folder / f"{what}.json").write_text(json.dumps(answers))

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
