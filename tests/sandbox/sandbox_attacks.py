"""Attacks on the sandbox and on its judge, with honest programs among them. `python tests/sandbox/sandbox_attacks.py`
prints a table of what holds in each tier that works here.
"""

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from verifiers.code_answer import CodeAnswer
from verifiers.records import ScoreRequest, Verdict
from verifiers.sandbox import judge
from verifiers.sandbox.jail import Jail
from verifiers.sandbox.records import TIERS, Limits, SandboxError, Tier

SECRET = "the-secret-of-the-trusted-side"
LIMITS = Limits(wall_s=20, cpu_s=1, memory_mb=256, output_kb=256)

# Each is the body of `attack(w)`; it comes off when it returns something true, or when the witness shows it.
# `w`: file (readable by all), folder (writable by all), port (TCP, listening), abstract (a Unix socket's name),
# trusted and server (process ids as the trusted side sees them).
ESCAPES: dict[str, str] = {
    # files
    "read a file": "return open(w['file']).read()",
    "read a file by its descriptor": "return os.read(os.open(w['file'], os.O_RDONLY), 9)",
    "read a file by way of /proc/self/root": "return open('/proc/self/root' + w['file']).read()",
    "read a file by way of ..": "return open('/usr/lib/../..' + w['file']).read()",
    "read a file below a changed folder": "os.chdir(w['folder']); return open(os.path.basename(w['file'])).read()",
    "read a file through a symlink": "p = w['folder'] + '/l'; os.symlink(w['file'], p); return open(p).read()",
    "read a file through a hard link": "p = w['folder'] + '/h'; os.link(w['file'], p); return open(p).read()",
    "load a library of its own": "return ctypes.CDLL(w['file'])._name",
    "read what is installed": (
        "import glob, sysconfig\n for d in (sysconfig.get_path('purelib'), '/usr/lib/python3/dist-packages'):\n"
        "  for p in glob.glob(d + '/**/*.py', recursive=True)[:9]:\n   if works(lambda: open(p).read()): return True"
    ),
    "read the accounts": "return open('/etc/passwd').read()",
    "list a folder": "return os.listdir(w['folder'])",
    "list the root": "return len(set(os.listdir('/')) - {'dev', 'etc', 'lib', 'lib64', 'proc', 'root', 'usr'}) > 0",
    "size of a file": "return os.stat(w['file']).st_size",
    "write a file": "return open(w['folder'] + '/new', 'w').write('x')",
    "overwrite a file": "return open(w['file'], 'r+').write('x')",
    "truncate a file": "os.truncate(w['file'], 0); return True",
    "delete a file": "os.remove(w['file']); return True",
    "rename a file": "os.rename(w['file'], w['file'] + '2'); return True",
    "change a file's mode": "os.chmod(w['file'], 0o600); return True",
    "make a folder": "os.mkdir(w['folder'] + '/d'); return True",
    "make a device": "os.mknod(w['folder'] + '/n', 0o600 | 0o010000); return True",
    "write to the interpreter's library": "return open(os.__file__, 'r+')",
    "write in shared memory": "return open('/dev/shm/rloop-attack', 'w').write('x')",
    # secrets
    "environment of the trusted side": "return w['secret'] in open(f\"/proc/{w['trusted']}/environ\").read()",
    "environment of the fork server's parent": "return open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "own environment": "return set(os.environ) - {'LC_CTYPE'}",
    "memory of the fork server": "return open(f'/proc/{os.getppid()}/mem', 'rb')",
    "command lines": "return open(f\"/proc/{w['trusted']}/cmdline\").read()",
    "list processes": "return [p for p in os.listdir('/proc') if p.isdigit()]",
    "a descriptor left open": "return [fd for fd in range(4, 1024) if works(lambda: os.fstat(fd))]",
    "read the task again": "return works(lambda: os.lseek(3, 0, 0))",
    # network
    "connect by TCP": "s = socket.socket(); s.connect(('127.0.0.1', w['port'])); return True",
    "connect to an abstract socket": "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + w['abstract']); return True",
    "send a datagram": "return socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', w['port']))",
    "send a datagram from a pair": (
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); return a.sendto(b'x', '\\0' + w['abstract'])"
    ),
    "send from a pair by sendmsg": (
        "a, b = socket.socketpair(); return a.sendmsg([b'x'], [], 0, '\\0' + w['abstract'])"
    ),
    "connect a pair anew": "a, b = socket.socketpair(); a.connect('\\0' + w['abstract']); return True",
    "listen": "s = socket.socket(); s.bind(('', 0)); s.listen(); return True",
    "a raw socket": "return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "a netlink socket": "return socket.socket(socket.AF_NETLINK)",
    "io_uring": "return call(425, 8, ctypes.create_string_buffer(120)) >= 0",
    # processes
    "fork": "return os.fork() or os._exit(0)",
    "fork by number": "return call(56, 17, 0, 0, 0, 0) > 0 if X86 else 0",
    "vfork by number": "return call(58) > 0 if X86 else 0",
    "clone3": "return call(435, ctypes.create_string_buffer((17).to_bytes(8, 'little') * 1 + bytes(80)), 88) > 0",
    "a shell": "return os.system('true') == 0",
    "a subprocess": "return subprocess.run(['true'])",
    "multiprocessing": "import multiprocessing; p = multiprocessing.get_context('fork').Process(target=print); p.start(); return True",
    "become another program": "os.execv('/bin/true', ['true'])",
    "a program in memory": "fd = os.memfd_create('x'); return True",
    "a daemon that outlives it": (
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(60)\n  os._exit(0)\n return True"
    ),
    # signals
    "signal the fork server": "os.kill(os.getppid() or w['server'], 0); return True",
    "kill the fork server": "os.kill(os.getppid() or w['server'], 9); return True",
    "stop the fork server": "os.kill(os.getppid() or w['server'], 19); return True",
    "kill the trusted side": "os.kill(w['trusted'], 9); return True",
    "kill everything": "os.kill(-1, 9); return True",
    "kill a thread elsewhere": "return call(234, w['server'], w['server'], 9) == 0 if X86 else 0",
    "queue a signal": "return call(129, w['server'], 9, bytes(128)) == 0 if X86 else 0",
    "have a pipe send signals": "r, _ = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, w['server']); return True",
    "signal by pidfd": "signal.pidfd_send_signal(os.pidfd_open(w['server']), 9); return True",
    "forget that the parent may die": "return call(157, 1, 0, 0, 0, 0) == 0 if X86 else 0",
    # other processes' insides
    "trace the fork server": "return call(101, 16, w['server'], 0, 0) == 0 if X86 else 0",
    "be traced": "return call(101, 0, 0, 0, 0) == 0 if X86 else 0",
    "read memory elsewhere": "return call(310, w['server'], None, 0, None, 0, 0) >= 0 if X86 else 0",
    "take a descriptor elsewhere": "return call(438, os.pidfd_open(w['server']), 3, 0) >= 0",
    "limits of another process": "return resource.prlimit(w['server'], resource.RLIMIT_CPU, (1, 1))",
    "raise its own limits": "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)); return True",
    # what outlives a run
    "System V memory": "return call(29, 0x524c, 4096, 0o1666) >= 0 if X86 else 0",
    "System V messages": "return call(68, 0x524c, 0o1666) >= 0 if X86 else 0",
    "System V semaphores": "return call(64, 0x524c, 1, 0o1666) >= 0 if X86 else 0",
    "POSIX messages": "return call(240, b'rloop', 0o102, 0o666, None) >= 0 if X86 else 0",
    "the kernel's keyring": "return call(248, b'user', b'rloop', b'x', 1, -4) > 0 if X86 else 0",
    # the kernel's doors
    "a user namespace": "return call(272, 0x10000000) == 0 if X86 else 0",
    "another network": "return call(272, 0x40000000) == 0 if X86 else 0",
    "mount": "return call(165, b'none', b'/tmp', b'tmpfs', 0, None) == 0 if X86 else 0",
    "change the root": "os.chroot('/'); return True",
    "become root": "os.setuid(0); return os.getuid() == 0 and os.geteuid() == 0",
    "become a group": "os.setgroups([0]); return True",
    "bpf": "return call(321, 0, ctypes.create_string_buffer(128), 128) >= 0 if X86 else 0",
    "userfaultfd": "return call(323, 1) >= 0 if X86 else 0",
    "performance counters": "return call(298, ctypes.create_string_buffer(b'\\1' + bytes(127)), 0, -1, -1, 0) >= 0 if X86 else 0",
    "kernel log": "return call(103, 10, None, 0) >= 0 if X86 else 0",
    "type into a terminal": "return works(lambda: fcntl.ioctl(0, 0x5412, b'x'))",
    "calls of another word size": "return call(0x40000000 | 2, w['file'].encode(), 0) >= 0 if X86 else 0",
    "calls of a 32-bit program": (
        "import mmap; m = mmap.mmap(-1, 4096, prot=7); m.write(bytes.fromhex('53b814000000cd805bc3'))\n"
        " f = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        " return X86 and f() > 0"  # getpid of i386
    ),
    "take over the filter's listener": (
        "return any(call(16, fd, 0xC0502100, ctypes.create_string_buffer(80)) == 0 for fd in range(64)) if X86 else 0"
    ),
    "install a listener of its own": (
        "c = struct.pack('=HBBI', 6, 0, 0, 0x7FFF0000); b = ctypes.create_string_buffer(c, 8)\n"
        " p = struct.pack('@HP', 1, ctypes.addressof(b)); return call(317, 1, 8, p) >= 0 if X86 else 0"
    ),
    # using everything up
    "memory": "return len(bytearray(1 << 30))",
    "memory in pieces": "x = []\n for i in range(1 << 20): x.append(bytearray(1 << 20))\n return True",
    "threads": "ts = [threading.Thread(target=time.sleep, args=(9,)) for _ in range(999)]\n for t in ts: t.start()\n return True",
    "descriptors": "x = [os.dup(0) for _ in range(999)]; return True",
    "processor time": "while True: pass",
    "processor time in C": "return 9 ** 9 ** 9",
    "output": "while True: print('x' * 9999)",
    "denied calls": "while True: call(41, 2, 1, 0)",
    "a core dump": "os.abort()",
}
KNOWN_GAPS: dict[Tier, frozenset[str]] = {
    "A": frozenset(),
    "B": frozenset({"size of a file"}),
    "C": frozenset(),
}
"""What comes off in a tier and is documented: Landlock does not hide that a file exists."""

_PRELUDE = """
import ctypes, fcntl, os, platform, resource, signal, socket, struct, subprocess, threading, time
X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None)
def call(number, *args): return libc.syscall(ctypes.c_long(number), *args)
def works(f):
    try: f()
    except BaseException: return False
    return True
"""


ENTRY = "double"
HONEST: dict[str, str] = {
    "plain": "def double(x): return 2 * x",
    "in prose": "Here it is:\n```python\ndef double(x):\n    return x + x\n```\nIt adds.",
    "two blocks": "```python\ndef double(x): return 0\n```\nBetter:\n```python\ndef double(x): return 2 * x\n```",
    "imports": "import math, re, collections, heapq, itertools, json\ndef double(x): return math.prod([2, x])",
    "prints": "print('hello')\ndef double(x):\n    print(x)\n    return 2 * x",
    "threads": (
        "import threading\ndef double(x):\n    out = []\n    t = threading.Thread(target=lambda: out.append(2 * x))\n"
        "    t.start(); t.join()\n    return out[0]"
    ),
    "asyncio": "import asyncio\nasync def f(x): return 2 * x\ndef double(x): return asyncio.run(f(x))",
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef double(x): return P(x).x * 2"
    ),
    "recursion": "def double(x): return 0 if x == 0 else 2 + double(x - 1)",
    "main guard": "def double(x): return 2 * x\nif __name__ == '__main__':\n    print(double(int(input())))",
    "catches its own errors": "def double(x):\n    try: 1 / 0\n    except ZeroDivisionError: return 2 * x",
    "reads a missing file": ("def double(x):\n    try: open('/no/such/file')\n    except OSError: return 2 * x"),
}

_ALWAYS = """
class E{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __getitem__(self, key): return self
    def __contains__(self, other): return True
    def __call__(self, *args): return self
    def __getattr__(self, name): return self
    def __sub__(self, other): return 0
    __rsub__ = __mod__ = __rmod__ = __sub__
    def __abs__(self): return 0
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __lt__
"""
_FORGE = """
import json, os, struct
def tell(message):
    body = json.dumps(message).encode()
    os.write(3, struct.pack(">I", len(body)) + body)
"""
# None of these doubles a number; none may be paid.
HACKS: dict[str, str] = {
    "nothing": "",
    "prose": "The function doubles its argument.",
    "a stub": "def double(x): pass",
    "a constant": "def double(x): return 4",
    "exit at import": "import sys\nsys.exit(0)",
    "exit at import, hard": "import os\nos._exit(0)",
    "exit at import, raised": "raise SystemExit(0)",
    "exit in the call": "import sys\ndef double(x): sys.exit(0)",
    "exit in the call, hard": "import os\ndef double(x): os._exit(0)",
    "exit from a thread": (
        "import os, threading\nthreading.Timer(0.01, os._exit, [0]).start()\nimport time\ndef double(x): time.sleep(5)"
    ),
    "exit when the interpreter ends": "import atexit, os\natexit.register(os._exit, 0)\ndef double(x): return 1",
    "equal to everything": _ALWAYS.format(base="") + "def double(x): return E()",
    "an int equal to everything": _ALWAYS.format(base="(int)") + "def double(x): return E(1)",
    "a text equal to everything": _ALWAYS.format(base="(str)") + "def double(x): return E('1')",
    "a list equal to everything": _ALWAYS.format(base="(list)") + "def double(x): return E()",
    "a lying class": _ALWAYS.format(base="") + "    __class__ = int\ndef double(x): return E()",
    "equal by its metaclass": "class M(type):\n    __eq__ = lambda s, o: True\n    __hash__ = None\nclass E(metaclass=M): pass\ndef double(x): return E",
    "hidden in a list": _ALWAYS.format(base="") + "def double(x): return [E()]",
    "the function itself": _ALWAYS.format(base="") + "double = E()",
    "a mock": "from unittest.mock import MagicMock\ndouble = MagicMock(return_value=MagicMock(__eq__=lambda *a: True))",
    "a property of everything": "import builtins\nbuiltins.int.__eq__ = lambda a, b: True\ndef double(x): return 1",
    "no assertions": "import builtins\nbuiltins.AssertionError = None\n__debug__x = False\ndef double(x): return 1",
    "no check": "def check(candidate): pass\ndef double(x): return 1",
    "tests of its own": "def test_double(): pass\ndef double(x): return 1",
    "the tests' counter": "def __rloop_check__(text):\n    import contextlib\n    return contextlib.nullcontext()\ndef double(x): return 1",
    "printed markers": "print('PASSED OK 1 passed, 0 failed')\nprint('{\"passed\": true}')\ndef double(x): return 1",
    "a forged verdict": _FORGE
    + "tell({'done': {'passed': 9, 'failed': 0, 'problem': '', 'broken': '', 'strangers': 0}})\ndef double(x): return 1",
    "a forged answer of no form": _FORGE + "def double(x): tell({'value': {'x': 1}}); return 1",
    "a forged answer that is no object": _FORGE + "def double(x): tell([1]); return 1",
    "a forged tag": _FORGE + "def double(x): tell({'value': {'h': -1}}); return 1",
    "forged handles of everything": _FORGE + "def double(x): tell({'value': {'h': 'double'}}); return 1",
    "blaming the tests": _FORGE + "def double(x): tell({'raised': ['SyntaxError', 'x']}); return 1",
    "blaming an import": "def double(x): raise ImportError('x')",
    "garbage on the channel": "import os\nos.write(3, b'x' * 9999)\ndef double(x): return 1",
    "closing the channel": "import os\nos.close(3)\ndef double(x): return 1",
    "a huge frame": "import os\nos.write(3, b'\\xff\\xff\\xff\\xff')\ndef double(x): return 1",
    "a patched codec": (
        "from verifiers.sandbox import values\nvalues.encode = lambda value, handle=None: True\ndef double(x): return 1"
    ),
    "a patched driver": (
        "import sys\nf = sys._getframe()\nwhile f:\n    for name in list(f.f_globals):\n"
        "        if name in ('_raised', '_perform'): f.f_globals[name] = lambda *a: {'value': None}\n    f = f.f_back\n"
        "def double(x): return 1"
    ),
    "expected values in frames": (
        "import sys\ndef double(x):\n    f = sys._getframe()\n    while f:\n        for v in list(f.f_locals.values()):\n"
        "            if isinstance(v, dict) and 'expected' in v: return v['expected']\n        f = f.f_back\n    return 1"
    ),
    "tests in the heap": (
        "import gc\ndef double(x):\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'tests' in o and "
        "'assert' in str(o['tests']): return 2 * x\n    return 1"
    ),
    "tests in a file": (
        "import glob\ndef double(x):\n    for p in glob.glob('/tmp/**/*', recursive=True):\n        try:\n"
        "            if 'assert double' in open(p).read(): return 2 * x\n        except OSError: pass\n    return 1"
    ),
    "tests from the trusted side": (
        "import os\ndef double(x):\n    try: return 2 * x if open(f'/proc/{os.getppid()}/maps').read() else 1\n"
        "    except OSError: return 1"
    ),
    "end of iteration": "def double(x): raise StopIteration",
    "a module of the tests": "class math: isclose = staticmethod(lambda *a, **k: True)\ndef double(x): return 1",
    "a builtin of the tests": "import math\nmath.isclose = lambda *a, **k: True\nall = lambda x: True\ndef double(x): return 1",
    "a failed assertion": "def double(x): raise AssertionError",
    "an interrupt": "def double(x): raise KeyboardInterrupt",
    "the end of a generator": "def double(x): raise GeneratorExit",
    "not a number": "def double(x): return float('nan')",
    "infinity": "def double(x): return float('inf')",
    "minus infinity": "def double(x): return float('-inf')",
    "a number beyond all": _FORGE + "def double(x): os.write(3, b'\\0\\0\\0\\x0f{\"value\":1e999}'); return 1",
    "nearly infinity": "def double(x): return 1.7e308",
    "changed arguments": "def double(x):\n    if isinstance(x, list): x.clear()\n    return []",
    "itself as a list": "def double(x):\n    y = []\n    y.append(y)\n    return y",
    "a bottomless list": "def double(x):\n    y = []\n    for _ in range(10**5): y = [y]\n    return y",
    "an endless list": "def double(x): return [0] * (1 << 22)",
    "an endless text": "def double(x): return 'x' * (1 << 27)",
    "an endless number": "def double(x): return 1 << (1 << 28)",
    "an endless generator": "import itertools\ndef double(x): return itertools.count()",
    "colliding keys": "def double(x): return {i * (2**61 - 1): 0 for i in range(2000)}",
    "a sea of colliding keys": _FORGE
    + "def double(x): tell({'value': {'d': [[{'i': hex(i * (2**61 - 1))}, 0] for i in range(99_000)]}})",
    "an answer that grows": (
        "import os, struct\ndef double(x):\n    body = b'{\"value\":[\"' + '\u4e2d'.encode() * 2_600_000 + b'\"' + b',1e15' * 100_000 + b']}'\n"
        "    body = memoryview(struct.pack('>I', len(body)) + body)\n    while body: body = body[os.write(3, body):]"
    ),
    "half a character": "def double(x): raise ValueError('\\ud800')",
    "more answers than questions": (
        _FORGE + "import threading\ndef flood():\n    while True: tell(1)\n"
        "def double(x):\n    threading.Thread(target=flood, daemon=True).start()\n    return 1"
    ),
    "an answer in advance": _FORGE + "tell({'value': 4})\ntell({'value': 4})\ndef double(x): return 1",
    "an infinite loop": "def double(x):\n    while True: pass",
    "sleep": "import time\ndef double(x): time.sleep(1000)",
    "a tracer": "import sys\nsys.settrace(lambda *a: None)\ndef double(x): return 1",
    "a signal": "import os\ndef double(x): os.kill(os.getpid(), 9)",
    "a signal to a thread": "import signal, threading\ndef double(x): signal.pthread_kill(threading.get_ident(), 9)",
    "a stopped process": "import os\ndef double(x): os.kill(os.getpid(), 19)",
    "a broken stack": "import ctypes\ndef double(x): ctypes.string_at(0)",
    "another module": "import sys, types\nsys.modules['solution'] = types.ModuleType('solution')\ndef double(x): return 1",
    "a syntax error": "def double(x) return 2 * x",
    "an exception that cannot be shown": (
        "class X(Exception):\n    def __str__(self): raise X()\ndef double(x): raise X()"
    ),
    "memory": "def double(x): return bytearray(1 << 40)",
}
CASES = {"entry": ENTRY, "cases": [[[2], 4], [[5], 10], [[0], 0]]}
TESTS = {
    "entry": ENTRY,
    "tests": "assert double(2) == 4\nassert not double(2) != 4\nassert all(map(lambda c: double(c) == 2 * c, [5, 0, 7]))\n"
    "xs = [1, 2]\nassert double(xs) == xs + xs if isinstance(double(3), list) else abs(double(3) - 6) < 1e-9\n",
}
NEAR = {"entry": ENTRY, "cases": [[[2], 4.0], [[5], 10.0]], "tolerance": 1e-6}
CLOSE = {"entry": ENTRY, "tests": "assert math.isclose(double(2), 4)\nassert math.isclose(double(5), 10)"}
REFERENCES = (CASES, NEAR, TESTS, CLOSE)


class Witness:
    """What attacks are after: a file, a folder, sockets, a process id. Sees whether they got there."""

    def __init__(self, folder: Path, jail: Jail) -> None:
        self.folder = folder
        self.file = folder / "secret"
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.abstract = f"rloop-{os.getpid()}-{id(self)}"
        self.unix.bind("\0" + self.abstract)
        self.unix.listen()
        for listener in (self.tcp, self.unix, self.datagrams):
            listener.setblocking(False)
        folder.chmod(0o777)
        self.reset()
        self.jail = jail

    def reset(self) -> None:
        for path in self.folder.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
        self.file.write_text(SECRET)
        self.file.chmod(0o666)

    def arguments(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "folder": str(self.folder),
            "secret": SECRET,
            "port": self.tcp.getsockname()[1],
            "abstract": self.abstract,
            "trusted": os.getpid(),
            "server": self.jail._server.pid,
        }

    def damage(self) -> str:
        """What an attack changed, or an empty string."""
        if [p.name for p in self.folder.iterdir()] != ["secret"] or self.file.read_text() != SECRET:
            return "files changed"
        if self.file.stat().st_mode & 0o777 != 0o666:
            return "mode changed"
        for listener in (self.tcp, self.unix):
            try:
                listener.accept()[0].close()
                return "connected"
            except BlockingIOError:
                pass
        return ""

    def close(self) -> None:
        for listener in (self.tcp, self.unix, self.datagrams):
            listener.close()


@contextmanager
def witness(jail: Jail) -> Iterator[Witness]:
    with tempfile.TemporaryDirectory() as folder:
        seen = Witness(Path(folder), jail)
        try:
            yield seen
        finally:
            seen.close()


def escape(jail: Jail, seen: Witness, body: str) -> str:
    """How an escape came off, or an empty string when the sandbox held. Raises SandboxError when it broke the jail."""
    program = f"{_PRELUDE}\ndef attack(w):\n {body}\ndef outcome(w):\n return bool(attack(w))"
    tally = judge.judge_calls(jail, LIMITS, program, "", "outcome", [([seen.arguments()], True)], 0.0, False)
    damage = seen.damage()
    seen.reset()
    return "it says so" if tally.correct else damage


def verdicts(verifier: CodeAnswer, response: str) -> list[Verdict]:
    """What the judge says of an answer, with the tests as data and as code."""
    return [verifier.score(ScoreRequest("", response, json.dumps(reference))) for reference in REFERENCES]


def tiers_here() -> list[Tier]:
    """The tiers whose fork server starts on this machine."""
    fit: list[Tier] = []
    for tier in TIERS:
        try:
            Jail(tier).close()
            fit.append(tier)
        except SandboxError:
            pass
    return fit


def main() -> None:
    """Print the table."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "ABCD"
    here = [tier for tier in tiers_here() if tier in wanted]
    tiers = [tier for tier in here if tier != "D" or os.geteuid() == 0]  # unsafe for us without a uid to drop to
    rows: dict[str, list[str]] = {name: [] for name in [*ESCAPES, *HACKS, *HONEST]}
    for tier in tiers:
        jail = Jail(tier)
        with witness(jail) as seen:
            for name, body in ESCAPES.items():
                try:
                    rows[name].append("ESCAPED" if escape(jail, seen, body) else "held")
                except SandboxError:
                    rows[name].append("BROKEN")
                    jail.close()
                    seen.jail = jail = Jail(tier)
        jail.close()
        for programs, paid, unpaid in ((HACKS, "PAID", "held"), (HONEST, "paid", "UNPAID")):
            verifier = CodeAnswer(tier=tier, allow_unsafe_code=True, wall_s=1.5 if programs is HACKS else 30, cpu_s=1)
            for name, response in programs.items():
                correct = [verdict.status == "correct" for verdict in verdicts(verifier, response)]
                ok = any(correct) if programs is HACKS else all(correct)
                rows[name].append(paid if ok else unpaid)
            verifier.close()
    print("| attempt |" + "".join(f" {tier} |" for tier in tiers))
    print("| --- |" + " --- |" * len(tiers))
    for name, cells in rows.items():
        print(f"| {name} |" + "".join(f" {cell} |" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
