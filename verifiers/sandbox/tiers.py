"""Chooses how far code is shut in: the best tier whose self test no escape survives."""

from collections.abc import Sequence

from verifiers.sandbox.jail import Jail
from verifiers.sandbox.records import TIERS, Limits, SandboxError, Tier
from verifiers.sandbox.run import Ended

_LIMITS = Limits(wall_s=20, cpu_s=10, memory_mb=256, output_kb=64)

# Runs in the jail. Answers which escapes came off; the tiers above D allow none of them. A child is waited for: where
# it can be traced, a signal that comes late would stop the probe for good.
_PROBE = """
import ctypes, os, socket, threading
libc = ctypes.CDLL(None)
def comes_off(escape):
    try:
        return bool(escape())
    except BaseException:
        return False
def memory():
    return len(bytearray(512 << 20))
def probe():
    thread = threading.Thread(target=lambda: None)
    thread.start(); thread.join()
    return sorted(name for name, escape in {
        "use more memory than its limit": memory,
        "hold a file of the fork server": lambda: any(comes_off(lambda: os.fstat(fd)) for fd in range(4, 64)),
        "see an environment variable": lambda: set(os.environ) - {"LC_CTYPE"},
        "write a file": lambda: os.open("/tmp/rloop-probe", os.O_WRONLY | os.O_CREAT),
        "read a file": lambda: open("/etc/passwd").read(),
        "list a folder": lambda: os.listdir("/"),
        "open a socket": lambda: socket.socket(),
        "start a process": lambda: os.waitpid(os.fork() or os._exit(0), 0),
        "run a program": lambda: libc.execve(b"/nonexistent", None, None) and ctypes.get_errno() == 2,
        "signal another process": lambda: os.kill(os.getppid() or 1 << 22, 0) is None,
        "share memory": lambda: os.memfd_create("probe"),
        "use System V memory": lambda: libc.shmget(0, 4096, 0o1600) >= 0,
        "trace a process": lambda: libc.ptrace(0, 0, 0, 0) == 0,
        "become somebody else": lambda: libc.unshare(0x10000000) == 0,
    }.items() if comes_off(escape))
"""
_HELD_BY_ALL = ("use more memory than its limit", "hold a file of the fork server", "see an environment variable")


def open_jail(wanted: Sequence[Tier] = TIERS[:3], allow_unsafe_code: bool = False) -> tuple[Jail, dict[Tier, str]]:
    """A jail that passed its self test.

    Args:
        wanted: Tiers to try, in this order.
        allow_unsafe_code: Whether tier D, which holds no attacker, may be used when the others fail.

    Returns:
        The jail, and why each tier before it was passed over.

    Raises:
        SandboxError: When no tier is fit; says what each lacks.
    """
    tiers = list(wanted)
    if allow_unsafe_code and "D" not in tiers:
        tiers.append("D")
    elif not allow_unsafe_code and "D" in tiers:
        raise SandboxError("tier D holds no attacker; set allow_unsafe_code=true to run code of the model in it")
    failures: dict[Tier, str] = {}
    for tier in tiers:
        try:
            jail = Jail(tier)
        except SandboxError as error:
            failures[tier] = str(error)
            continue
        try:
            escapes = self_test(jail)
        except SandboxError as error:
            escapes = [str(error)]
        if not escapes:
            return jail, failures
        failures[tier] = f"jailed code can {', '.join(escapes)}"
        jail.close()
    lacking = "; ".join(f"{tier}: {why}" for tier, why in failures.items())
    raise SandboxError(
        f"no sandbox of tier {', '.join(tiers)} works here ({lacking}). It takes Linux with seccomp on x86_64 "
        "or aarch64; allow_unsafe_code=true runs code of the model with resource limits alone"
    )


def self_test(jail: Jail) -> list[str]:
    """What jailed code can do here that this tier should prevent. Raises SandboxError when honest code does not run."""
    run = jail.start("solver", _LIMITS)
    try:
        run.send({"program": _PROBE, "helpers": "", "entry": "probe"})
        loaded = run.receive()
        run.send({"op": "call", "on": "probe", "args": [], "kwargs": {"d": []}})
        answer = run.receive()
    except Ended:
        raise SandboxError(f"the self test ended: {run.ending}") from None
    finally:
        run.close()
    if "value" not in answer:
        raise SandboxError(f"the self test failed: {loaded}, {answer}")
    return [name for name in answer["value"] if jail.tier != "D" or name in _HELD_BY_ALL]
