#!/usr/bin/env python3
"""Requests a TPU slice as a queued resource, trains on it, and requests another if it is lost.

launch/queued_tpu.py --name=pod --zone=us-west4-a --type=v5litepod-32 --spot \
  --setup='test -d cascade_jax || git clone … && make -C cascade_jax install' \
  -- train --gin_file=my.gin

The setup runs before every start, also on a slice that still exists. The output folder must
outlive the slice: a mounted bucket or file share.
"""

import argparse
import sys
import time

import starting
import tpu_vm

GONE = ("SUSPENDED", "SUSPENDING", "FAILED", "")


def queued(flags, verb: str, *more: str) -> list[str]:
    """A `gcloud compute tpus queued-resources` command."""
    return [*tpu_vm.gcloud(flags, "queued-resources", verb), *more]


def state(flags) -> str:
    """For example WAITING_FOR_RESOURCES or ACTIVE; empty if the resource does not exist."""
    return starting.output(queued(flags, "describe", "--format=value(state.state)"))


def wait_until_active(flags) -> bool:
    """Waits in the queue; False if the request fails."""
    if flags.dry_run:
        starting.run(queued(flags, "describe", "--format=value(state.state)"), True)
        return True
    silent = 0
    while (now := state(flags)) != "ACTIVE":
        silent = 0 if now else silent + 1
        if now in GONE and (now or silent > 5):  # one failed question says little
            return False
        print(f"{flags.name}: {now}", flush=True)
        time.sleep(flags.poll_seconds)
    return True


def attempt(flags) -> int:
    """One slice, from the request to its end."""
    create = queued(
        flags,
        "create",
        f"--node-id={flags.name}",
        f"--accelerator-type={flags.type}",
        f"--runtime-version={flags.version}",
        *(["--spot"] if flags.spot else []),
    )
    before = "" if flags.dry_run else state(flags)
    if before in GONE and before:  # from an earlier start
        starting.run(queued(flags, "delete", "--force", "--quiet"), flags.dry_run)
    if before in GONE:
        status = starting.run(create, flags.dry_run)
        if status:
            return status
    status = tpu_vm.do(flags) if wait_until_active(flags) else starting.LOST
    was_taken = not flags.dry_run and state(flags) in GONE
    if was_taken and status not in (starting.DONE, starting.REFUSED):
        return starting.LOST  # ssh says 1 or 255 when the machines go
    return status


def main(argv=None) -> int:
    """Runs the script."""
    parser = argparse.ArgumentParser(prog="launch/queued_tpu.py", description=__doc__)
    tpu_vm.add_flags(parser)
    parser.add_argument("--type", required=True, help="accelerator type, e.g. v5litepod-32")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")
    parser.add_argument("--retries", type=int, default=100, help="slices after the first one")
    parser.add_argument("--poll_seconds", type=float, default=30.0)
    parser.add_argument("--keep", action="store_true", help="do not delete the slice at the end")
    flags = starting.arguments(parser, argv, ("gcloud",))
    delete = queued(flags, "delete", "--force", "--quiet")
    for number in range(flags.retries + 1):
        status = attempt(flags)
        is_last = status not in starting.AGAIN or number == flags.retries
        if is_last and flags.keep:
            return status
        if is_last or flags.dry_run or state(flags) != "ACTIVE":
            starting.run(delete, flags.dry_run)
        if is_last:
            return status
        print(f"status {status}: starting again ({number + 1} of {flags.retries})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
