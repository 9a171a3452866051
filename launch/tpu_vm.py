#!/usr/bin/env python3
"""Starts a command on every host of a TPU VM slice, with gcloud.

launch/tpu_vm.py --name=pod --zone=us-west4-a --create=v5litepod-32 -- train --gin_file=my.gin
"""

import argparse
import sys
import time
from pathlib import Path

import starting


def gcloud(flags, *verb: str) -> list[str]:
    """A `gcloud compute tpus` command on the slice."""
    project = [f"--project={flags.project}"] if flags.project else []
    return ["gcloud", "compute", "tpus", *verb, flags.name, f"--zone={flags.zone}", *project]


def ssh(flags, command: str, logs: Path) -> list[str]:
    """A command that runs `command` on all hosts; the output of each is a file in `logs`."""
    words = ("--worker=all", f"--output-directory={logs}", f"--command={command}")
    return [*gcloud(flags, "tpu-vm", "ssh"), *words]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the slice and its setup."""
    parser.add_argument("--name", required=True, help="of the TPU VM")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", help="gcloud's own if not given")
    parser.add_argument("--version", default="tpu-ubuntu2204-base", help="software of the VM")
    parser.add_argument("--folder", default="~/cascade_jax", help="the clone on every host")
    parser.add_argument("--setup", help="shell command for all hosts, before every start")


def do(flags) -> int:
    """Sets the hosts up and starts the command on them; returns its status."""
    logs = Path(flags.logs) / flags.name
    if not flags.dry_run:
        logs.mkdir(parents=True, exist_ok=True)
    if flags.setup:
        status = starting.run(ssh(flags, flags.setup, logs), flags.dry_run)
        if status:
            print(f"the setup ended with status {status}; nothing was started. Logs: {logs}")
            return status
    command = starting.in_folder(flags.folder, flags.command)
    begin = time.time()
    status = starting.run(ssh(flags, command, logs), flags.dry_run)
    if status and (reported := starting.reported_status(logs, begin)):
        status = reported
    print(f"status {status}; the hosts' logs are in {logs}")
    return status


def main(argv=None) -> int:
    """Runs the script."""
    parser = argparse.ArgumentParser(prog="launch/tpu_vm.py", description=__doc__)
    add_flags(parser)
    parser.add_argument("--create", metavar="TYPE", help="make the slice first, e.g. v5litepod-32")
    flags = starting.arguments(parser, argv, ("gcloud",))
    if flags.create:
        words = (f"--accelerator-type={flags.create}", f"--version={flags.version}")
        status = starting.run([*gcloud(flags, "tpu-vm", "create"), *words], flags.dry_run)
        if status:
            return status
    return do(flags)


if __name__ == "__main__":
    sys.exit(main())
