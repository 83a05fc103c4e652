"""The control groups of this process: Linux's limits for containers and services."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def own_groups(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[Path]:
    """Yield the folders of the process's groups under one controller and of all their parents, cgroup v2 and v1.

    controller  "cpu" or "memory"
    root        the folder where cgroups are mounted
    own         the process's /proc/self/cgroup; without that file nothing is yielded

    A folder may be missing: in a container the path can be the host's while the mount shows only our own group.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if controllers == "":
            base = root
        elif controller in controllers.split(","):
            base = root / controllers if (root / controllers).is_dir() else root / controller
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:depth])
