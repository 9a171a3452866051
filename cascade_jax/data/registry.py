"""Names of mixtures and tasks."""

import difflib

import seqio


def look_up(name: str) -> seqio.Mixture | seqio.Task:
    """The registered mixture or task of a name.

    Raises:
      ValueError: unknown name; the nearest registered ones are listed.
    """
    names = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    if name in names:
        return seqio.get_mixture_or_task(name)
    if not names:
        raise ValueError(
            f"unknown mixture or task {name!r}: none are registered; import the module that "
            "registers it, e.g. tasks.demo"
        )
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
    raise ValueError(
        f"unknown mixture or task {name!r}; {len(names)} are registered, the nearest are "
        f"{', '.join(nearest)}"
    )
