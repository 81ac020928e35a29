"""Storage URLs as text: where a study lies, what its address may hold and what is shown."""

import os
import re
from pathlib import Path

import psutil

from evoaim.errors import ConfigError

SQLITE, JOURNAL = "sqlite:///", "journal:///"
MEMORY = "memory:"  # of this process, gone with it
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_PASSWORD = re.compile(r"(?<=://)([^:/@]*):(.*)@")  # greedy: it may hold an @ itself
_OPTION = re.compile(r"([?&]\w*passw\w*=)([^&]*)", re.IGNORECASE)
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smbfs", "smb2", "smb3", "lustre", "beegfs", "gpfs", "ceph", "afs"),
    *("9p", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse"),
}


def sqlite_url(path: Path) -> str:
    """The storage URL of a SQLite file."""
    return f"{SQLITE}{path}"


def storage_file(url: str) -> Path | None:
    """The file of a SQLite or journal URL; None for a database server."""
    for kind in (SQLITE, JOURNAL):
        if url.startswith(kind):
            return Path(os.path.expandvars(url.removeprefix(kind)))
    return None


def redacted(url: str) -> str:
    """The URL as it may be shown: with variables by name, without what else is a password."""
    url = _PASSWORD.sub(lambda m: f"{m[1]}:{_hidden(m[2])}@", url)
    return _OPTION.sub(lambda m: m[1] + _hidden(m[2]), url)


def check_url(url: str) -> None:
    """Check that a URL can be written into the run's files.

    Raises:
        ConfigError: it holds a password, or a variable that is not set.
    """
    if redacted(url) != url:
        raise ConfigError(
            f"storage: '{redacted(url)}' holds a password, which every copy of the experiment "
            "would hold, too; write $NAME in its place and set that environment variable"
        )
    if storage_file(url) is None:
        for braced, bare in _VARIABLE.findall(url):
            if (braced or bare) not in os.environ:
                raise ConfigError(
                    f"storage: the environment variable {braced or bare} of '{url}' is not set"
                )


def caution(url: str) -> str:
    """A sentence for whoever keeps a study's file on a network file system; else nothing.

    SQLite needs file locks that such file systems may lack, journals need appends that are atomic.
    """
    path = storage_file(url)
    if path is None:
        return ""
    path = path.absolute()
    kinds = {Path(p.mountpoint): p.fstype for p in psutil.disk_partitions(all=True)}
    kind = next((kinds[folder] for folder in path.parents if folder in kinds), "")
    if kind not in _NETWORK:
        return ""
    return (
        f"storage: '{path}' is on a network file system ({kind}), where the study may be damaged "
        "if two machines open it; prefer a local disk or PostgreSQL"
    )


def _hidden(password: str) -> str:
    """A reference to one variable as it is, all else struck out."""
    return password if _VARIABLE.fullmatch(password) else "…"
