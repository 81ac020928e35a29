"""A PostgreSQL cluster of a test's own, where Debian's package or another one on PATH offers it."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "searcher", "p:a@s/s#w%rd{1}"


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl; None without PostgreSQL."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "pg_ctl").is_file()), None)


@contextmanager
def cluster() -> Iterator[str]:
    """A running server with a password, and its URL without it: `$EVOAIM_TEST_PASSWORD`."""
    folder = binaries()
    assert folder is not None
    with tempfile.TemporaryDirectory(prefix="evoaim-pg-") as name:
        path, port = Path(name), _free_port()
        (path / "password").write_text(PASSWORD)
        as_user = _unprivileged(path)
        data = str(path / "data")
        init = ["initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--no-sync"]
        _run(folder, [*init, f"--pwfile={path}/password"], path, as_user)
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={path}"
        start = ["pg_ctl", "-D", data, "-w", "-l", f"{path}/log", "-o", options, "start"]
        _run(folder, start, path, as_user)
        try:
            yield f"postgresql://{USER}:$EVOAIM_TEST_PASSWORD@127.0.0.1:{port}/postgres"
        finally:
            _run(folder, ["pg_ctl", "-D", data, "-m", "immediate", "stop"], path, as_user)


def _run(folder: Path, command: list[str], cwd: Path, user: str | None) -> None:
    program = str(folder / command[0])
    with (cwd / "output").open("ab") as output:  # a pipe would stay open in the server
        subprocess.run([program, *command[1:]], cwd=cwd, user=user, check=True, stdout=output)


def _unprivileged(path: Path) -> str | None:
    """Whom the server runs as, and who then owns its folder: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    user = next(u.pw_name for u in map(_known, ("postgres", "nobody")) if u is not None)
    for each in (path, path / "password"):
        shutil.chown(each, user)
    return user


def _known(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
