#!/usr/bin/env python3
"""Starts a command on every node of a Slurm job; an interrupted one goes back to the queue.

sbatch --nodes=4 --requeue --signal=TERM@120 --wrap="launch/slurm.py -- train --gin_file=my.gin"
"""

import argparse
import os
import sys
from pathlib import Path

import starting


def main(argv=None) -> int:
    """Runs the script."""
    parser = argparse.ArgumentParser(prog="launch/slurm.py", description=__doc__)
    parser.add_argument("--tasks_per_node", type=int, default=1, help="processes on a node")
    parser.add_argument("--no_requeue", action="store_true", help="leave an interrupted job ended")
    flags = starting.arguments(parser, argv, ("srun", "scontrol"))
    job = os.environ.get("SLURM_JOB_ID")
    if job is None and not flags.dry_run:
        parser.error("there is no Slurm job here (SLURM_JOB_ID is not set); start it with sbatch")
    logs = Path(flags.logs) / f"slurm-{job or 'JOB'}"
    if not flags.dry_run:
        logs.mkdir(parents=True, exist_ok=True)
    # %t is the task's number. A task that ends must not take the others' last words away.
    srun = [
        *("srun", f"--ntasks-per-node={flags.tasks_per_node}", "--kill-on-bad-exit=0"),
        *("--open-mode=append", f"--output={logs}/%t.log"),
    ]
    status = starting.run([*srun, *starting.reporting(flags.command)], flags.dry_run)
    if status in starting.AGAIN and (reported := starting.reported_status(logs)):
        status = reported
    print(f"status {status}; the hosts' logs are in {logs}")
    if status in starting.AGAIN and not flags.no_requeue:
        starting.run(["scontrol", "requeue", job], flags.dry_run)
    return status


if __name__ == "__main__":
    sys.exit(main())
