"""Which mesh axes a collective goes over, from the devices that it joins."""

import re
from collections.abc import Mapping

import numpy as np


def group(attributes: str) -> np.ndarray | None:
    """The devices that take part together, for the first of the groups; numbers count the mesh.

    HLO writes groups in three ways: `{{0,1},{2,3}}`, `[2,2]<=[4]` (with a transpose `T(1,0)`), and
    `mesh['a'=2,'b'=2] {'b'}`. A permutation names pairs. None if the attributes name no group.
    """
    if match := re.search(r"source_target_pairs=\{([\d,{}]*)\}", attributes):
        pairs = [pair.split(",") for pair in re.findall(r"[\d,]+(?=\})", match[1])]
        moving = [pair for pair in pairs if pair[0] != pair[1]] or pairs
        return np.array(moving[0], int)
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return np.array(match[1].split(","), int)
    pattern = r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if match := re.search(pattern, attributes):
        shape, sizes = (np.array(match[i].split(","), int) for i in (1, 2))
        ids = np.arange(sizes.prod()).reshape(sizes)
        if match[3]:
            ids = ids.transpose([int(axis) for axis in match[3].split(",")])
        return ids.reshape(shape)[0]
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        inside = re.findall(r"'([^']+)'", match[2])
        ids = np.arange(np.prod(list(sizes.values()))).reshape(list(sizes.values()))
        return ids[tuple(slice(None) if name in inside else 0 for name in sizes)].reshape(-1)
    return None


def axes_of(devices: np.ndarray | None, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a `group` differ; without one all that are split.

    The mesh's axes vary the faster the later they stand.
    """
    if devices is None or devices.max() >= np.prod(list(mesh.values())):
        return tuple(axis for axis, size in mesh.items() if size > 1)
    places = np.unravel_index(devices, tuple(mesh.values()))
    return tuple(axis for axis, at in zip(mesh, places, strict=True) if len(set(at.tolist())) > 1)
