#!/usr/bin/env python3
"""Starts a command as a workload of a GKE cluster, with xpk, and gathers its logs.

launch/gke.py --cluster=mine --name=cat-dist --type=v5litepod-32 --image=REGISTRY/cascade-jax \
  -- train --gin_file=my.gin
"""

import argparse
import shlex
import sys
from pathlib import Path

import starting


def main(argv=None) -> int:
    """Runs the script."""
    parser = argparse.ArgumentParser(prog="launch/gke.py", description=__doc__)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--name", required=True, help="of the workload")
    parser.add_argument("--type", required=True, help="TPU type, e.g. v5litepod-32")
    parser.add_argument("--image", required=True, help="a container image with cascade-jax")
    parser.add_argument("--zone")
    parser.add_argument("--project")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--retries", type=int, default=100, help="restarts after an interruption")
    parser.add_argument("--grace_seconds", type=int, default=60, help="from SIGTERM to the end")
    flags = starting.arguments(parser, argv, ("xpk", "kubectl"))
    place = [f"--{key}={getattr(flags, key)}" for key in ("zone", "project") if getattr(flags, key)]
    create = [
        *("xpk", "workload", "create", f"--cluster={flags.cluster}", *place),
        *(f"--workload={flags.name}", f"--tpu-type={flags.type}", f"--num-slices={flags.slices}"),
        *(f"--docker-image={flags.image}", f"--max-restarts={flags.retries}"),
        f"--restart-on-exit-codes={starting.STOPPED},{starting.LOST}",
        f"--termination-grace-period-seconds={flags.grace_seconds}",
        f"--command={shlex.join(flags.command)}",
    ]
    status = starting.run(create, flags.dry_run)
    if status:
        return status
    wait = ["xpk", "workload", "list", f"--cluster={flags.cluster}", *place]
    status = starting.run([*wait, f"--wait-for-job-completion={flags.name}"], flags.dry_run)
    logs = Path(flags.logs) / f"{flags.name}.log"
    starting.run(
        [
            *("kubectl", "logs", f"--selector=jobset.sigs.k8s.io/jobset-name={flags.name}"),
            *("--prefix", "--tail=-1", "--max-log-requests=1000"),
        ],
        flags.dry_run,
        logs,
    )
    print(f"status {status}; the hosts' logs are in {logs}")
    return status


if __name__ == "__main__":
    sys.exit(main())
