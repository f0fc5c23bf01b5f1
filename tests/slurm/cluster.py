"""A real Slurm cluster in one folder of this machine, for tests: loopback only, fake GPUs, no service of the host."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Template
from typing import Self

from tests.patience import PATIENCE_S

from .daemons import ClusterError, Daemon, kill_job_processes, wait_until
from .loopback import ADDRESS, LoopbackHost, loopback_host, reserved_ports

TEMPLATES = Path(__file__).parent
SYSTEM_FOLDERS = "/usr/sbin:/sbin"
MAX_FOLDER_LENGTH = 80  # a unix socket's path, some names deeper, may have 107 bytes
PROBE_TIMEOUT_S = 5.0
CANCEL_TIMEOUT_S = 15.0
END_WITH_THE_TESTS = ("setpriv", "--pdeathsig", "TERM")  # the kernel ends the daemons of a test run that was killed

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")
ACCOUNTING_PLUGIN = "accounting_storage_mysql.so"
CLIENT_VARIABLES = ("SLURM", "SBATCH_", "SALLOC_", "SACCT_", "SCANCEL_", "SINFO_", "SQUEUE_")


def missing_programs(accounting: bool) -> list[str]:
    """What a cluster needs and this machine has not; ``packages.txt`` names the Debian packages."""
    names = PROGRAMS + ACCOUNTING_PROGRAMS if accounting else PROGRAMS
    missing = [name for name in names if shutil.which(name, path=_search_path()) is None]
    if accounting and not any(Path("/usr").glob(f"lib/*/slurm*/{ACCOUNTING_PLUGIN}")):
        missing.append(ACCOUNTING_PLUGIN)
    return missing


def is_client_variable(name: str) -> bool:
    """Whether Slurm's commands read (or a job sets) the environment variable ``name``."""
    return name.startswith(CLIENT_VARIABLES)


@dataclass(kw_only=True)
class SlurmCluster:
    """Munge, slurmctld and slurmd (with ``accounting`` also MariaDB and slurmdbd) with a partition ``main``.

    Use it as a context manager, or call ``start`` and ``stop``. Nodes are named n1, n2, ...; all tasks see the host
    name of the machine, and SLURMD_NODENAME tells their node. Start it in a thread that outlives it: the daemons end
    with the thread that started them.
    """

    nodes: int = 4
    cpus_per_node: int = 2
    memory_mb: int = 4000
    gpus_per_node: int = 2
    accounting: bool = False
    max_array_size: int = 1001
    more_configuration: str = ""
    folder: Path = field(init=False)
    _host: LoopbackHost = field(init=False, repr=False)
    _undo: ExitStack = field(init=False, repr=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs beside an environment without the variables of another Slurm."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _search_path()}

    def start(self) -> None:
        """Start the daemons and wait until every node is idle.

        Raises:
            ClusterError: a program is not installed, or a daemon does not come up (with the end of its log).
            OSError: the machine has no free ports, or no way to keep the daemons on loopback.
        """
        if missing := missing_programs(self.accounting):
            raise ClusterError(f"not installed: {', '.join(missing)}")
        with ExitStack() as undo:
            self._make_folder(undo)
            self._host = loopback_host()
            ports = undo.enter_context(reserved_ports(self.nodes + 2))
            self._write_configuration(ports)
            self._start_munge(undo)
            if self.accounting:
                self._start_accounting(undo)
            self._start_slurm(undo)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """Cancel the jobs, end what ``start`` started and remove the folder; does nothing when called again."""
        self._undo.close()

    def client(self, *command: str, timeout_s: float = 30.0) -> str:
        """Run a command of Slurm against this cluster and return what it prints.

        Raises:
            ClusterError: it fails; the message has what it printed.
        """
        done = self._run(*command, timeout_s=timeout_s)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise ClusterError(f"{' '.join(command)} ended with {done.returncode}: {said}")
        return done.stdout

    def _run(self, *command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._host.prefix, *command],
            env=self._full_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def _full_environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not is_client_variable(name)}
        return own | self.environment

    def _succeeds(self, *command: str) -> bool:
        try:
            return self._run(*command, timeout_s=PROBE_TIMEOUT_S).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _make_folder(self, undo: ExitStack) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        undo.callback(shutil.rmtree, self.folder)
        if len(str(self.folder)) > MAX_FOLDER_LENGTH:
            raise ClusterError(f"{self.folder}: over {MAX_FOLDER_LENGTH} characters; set TMPDIR to a shorter path")
        for name in ("log", "state", "dev", "database", *(f"spool/n{i + 1}" for i in range(self.nodes))):
            (self.folder / name).mkdir(parents=True)
        for index in range(self.gpus_per_node):
            (self.folder / "dev" / f"gpu{index}").symlink_to("/dev/null")

    def _write_configuration(self, ports: range) -> None:
        values = {
            **vars(self),
            "user": _user(),
            "host": self._host.name,
            "address": ADDRESS,
            "last_gpu": self.gpus_per_node - 1,
            "controller_port": ports[0],
            "accounting_port": ports[1],
            "first_node_port": ports[2],
            "last_node_port": ports[-1],
        }
        slurm = _render("slurm.conf", values)
        if self.accounting:
            slurm += _render("slurm.accounting.conf", values)
        slurm += self.more_configuration
        _write_private(self.folder / "slurm.conf", slurm)
        _write_private(self.folder / "gres.conf", _render("gres.conf", values) if self.gpus_per_node else "")
        _write_private(self.folder / "slurmdbd.conf", _render("slurmdbd.conf", values))
        _write_private(self.folder / "munge.key", secrets.token_hex(64))

    def _start_munge(self, undo: ExitStack) -> None:
        socket = f"--socket={self.folder}/munge.socket"
        paths = {"key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munged.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in paths.items()]
        # --force: the socket need not be in the reach of other users
        munged = self._start_daemon("munged", "munged", "--foreground", "--force", socket, *options, undo=undo)
        munged.wait_until(lambda: self._succeeds("munge", "-n", socket), timeout_s=PATIENCE_S)

    def _start_accounting(self, undo: ExitStack) -> None:
        options = ["--no-defaults", f"--user={_user()}", f"--datadir={self.folder}/database"]
        small = ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=64M", "--performance-schema=OFF"]
        quick = ["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-lock-wait-timeout=900"]
        self.client("mariadb-install-db", *options, "--innodb-log-file-size=8M", "--skip-test-db", timeout_s=120)
        socket = self.folder / "mariadb.socket"
        local = ["--skip-networking", "--skip-grant-tables", f"--socket={socket}"]
        mariadbd = self._start_daemon("mariadbd", "mariadbd", *options, *small, *quick, *local, undo=undo)
        mariadbd.wait_until(socket.exists, timeout_s=PATIENCE_S)
        slurmdbd = self._start_daemon("slurmdbd", "slurmdbd", "-D", undo=undo, MYSQL_UNIX_PORT=str(socket))
        slurmdbd.wait_until(lambda: self._succeeds("sacctmgr", "-n", "list", "cluster"), timeout_s=PATIENCE_S)
        self.client("sacctmgr", "-i", "add", "cluster", "clipmill")

    def _start_slurm(self, undo: ExitStack) -> None:
        undo.callback(kill_job_processes, self.folder / "slurm.conf")
        slurmctld = self._start_daemon("slurmctld", "slurmctld", "-D", undo=undo)
        slurmctld.wait_until(lambda: self._succeeds("scontrol", "ping"), timeout_s=PATIENCE_S)
        names = [f"n{i + 1}" for i in range(self.nodes)]
        slurmds = {name: self._start_daemon(f"slurmd.{name}", "slurmd", "-D", "-N", name, undo=undo) for name in names}
        undo.callback(self._cancel_jobs, slurmctld)
        for name, slurmd in slurmds.items():
            slurmd.wait_until(partial(self._is_idle, name), timeout_s=PATIENCE_S)

    def _is_idle(self, node: str) -> bool:
        return self.client("sinfo", "-h", "-n", node, "-o", "%t").strip() == "idle"

    def _start_daemon(self, name: str, *command: str, undo: ExitStack, **variables: str) -> Daemon:
        daemon = Daemon.start(
            name,
            [*self._host.prefix, *END_WITH_THE_TESTS, *command],
            log=self.folder / "log" / f"{name}.out",
            folder=self.folder,
            environment=self._full_environment() | variables,
        )
        undo.callback(daemon.kill)  # at once: what it could still save is thrown away
        return daemon

    def _cancel_jobs(self, slurmctld: Daemon) -> None:
        if slurmctld.is_running():
            self.client("scontrol", "update", "partitionname=main", "state=down")
            self.client("scancel", f"--user={_user()}")
            wait_until(lambda: not self.client("squeue", "-h"), timeout_s=CANCEL_TIMEOUT_S)


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name  # not getpass: its $LOGNAME may be who we were before sudo or su


def _search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_FOLDERS}"


def _render(name: str, values: Mapping[str, object]) -> str:
    return Template((TEMPLATES / f"{name}.template").read_text()).substitute(values)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)  # munged and slurmdbd refuse a file that others can read
    path.write_text(text)
