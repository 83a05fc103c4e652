"""The control groups that hold this process: Linux's limits for containers and services."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def own_groups(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[Path]:
    """Folders of the process's groups under one controller and of all their parents, versions 2 and 1.

    controller  "cpu" or "memory"
    root        where cgroups are mounted
    own         the process's /proc/self/cgroup; nothing is yielded where it is not there

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
