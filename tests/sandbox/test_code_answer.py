import asyncio
import gzip
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_attacks import _ALWAYS, tiers_here, witness

from verifiers.catalogue import load
from verifiers.code_answer import CodeAnswer, program_in
from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest, Verdict
from verifiers.sandbox.jail import Jail
from verifiers.sandbox.records import SandboxError
from verifiers.spec import VerifierSpec

TIERS = tiers_here()
HUMANEVAL = Path(__file__).parents[3] / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"
pytestmark = pytest.mark.skipif(TIERS in ([], ["D"]), reason="no sandbox of tier A, B or C works on this machine")

MEDIAN = {
    "entry": "median",
    "tests": "assert median([3, 1, 2]) == 2\nassert median([4, 1]) == 2.5\nassert median([7]) == 7\n",
    "helpers": "from typing import List",
}
MEDIAN_RIGHT = """
def median(xs: List[int]) -> float:
    xs, n = sorted(xs), len(xs)
    return xs[n // 2] if n % 2 else (xs[n // 2 - 1] + xs[n // 2]) / 2
"""
STACK = {
    "entry": "Stack",
    "tests": "s = Stack()\ns.push(1)\ns.push('b')\nassert len(s) == 2\nassert s.pop() == 'b'\nassert s.items == [1]\n"
    "assert [x for x in s] == [1]\ntry:\n    Stack().pop()\n    raised = False\nexcept IndexError:\n"
    "    raised = True\nassert raised\n",
}
STACK_RIGHT = """
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x)
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
"""
SUM = {"cases": [{"input": "2 3\n", "output": "5\n"}, {"input": "-1 1\n", "output": "0"}]}
ADD = {"entry": "add", "cases": [[[2, 3], 5], [[0, 0], 0], [[-1, 1], 0], [[10, 5], 15]]}


@pytest.fixture(scope="module")
def judge() -> Iterator[Callable[..., Verdict]]:
    made: dict[str, CodeAnswer] = {}

    def judge(response: str, reference: dict[str, Any], **options: Any) -> Verdict:
        verifier = made.setdefault(str(options), CodeAnswer(**{"wall_s": 60.0, "cpu_s": 30} | options))
        return verifier.score(ScoreRequest("", response, json.dumps(reference)))

    yield judge
    for verifier in made.values():
        verifier.close()


def test_it_is_a_built_in() -> None:
    assert load("code").name == "code"


@pytest.mark.parametrize(("reference", "right"), [(MEDIAN, MEDIAN_RIGHT), (STACK, STACK_RIGHT)])
def test_tests_given_as_code_pass_for_a_right_program(judge: Any, reference: dict[str, Any], right: str) -> None:
    verdict = judge(f"```python\n{right}```", reference)
    assert (verdict.reward, verdict.status, verdict.rule, verdict.parts) == (
        1.0,
        "correct",
        "assertions",
        {"passed": 1.0},
    )
    assert verdict.isolation in ("A", "B", "C")
    assert verdict.facts == {"denied_syscalls": 0.0, "exits": 0.0, "opaque_results": 0.0}


def test_the_feedback_names_the_check_that_fails(judge: Any) -> None:
    wrong = MEDIAN_RIGHT.replace(") / 2", ") // 2")
    verdict = judge(wrong, MEDIAN)
    assert (verdict.reward, verdict.status) == (0.0, "wrong")
    assert verdict.feedback == "fails: median([4, 1]) == 2.5"


def test_tests_in_the_form_of_humaneval_and_of_pytest_are_called(judge: Any) -> None:
    for tests in (
        "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(0.5) - 1) < 1e-9\n",
        "def test_small():\n    assert double(2) == 4\ndef test_float():\n    assert double(.5) == 1\n",
    ):
        reference = {"entry": "double", "tests": tests}
        assert judge("def double(x): return x * 2", reference).status == "correct"
        assert judge("def double(x): return int(x) * 2", reference).status == "wrong"


def test_calls_are_compared_here_and_partial_credit_is_the_fraction(judge: Any) -> None:
    assert judge("def add(a, b): return a + b", ADD).reward == 1.0
    half = judge("def add(a, b): return a + b if a >= 0 and b else 5", ADD, partial=True)
    assert (half.status, half.reward) == ("wrong", 0.5)
    assert half.feedback == "add(0, 0) gave 5, expected 0"
    assert judge("def add(a, b): return a + b if a >= 0 and b else 5", ADD).reward == 0.0
    counted = judge(MEDIAN_RIGHT.replace(") / 2", ") // 2"), MEDIAN, partial=True)
    assert counted.reward == pytest.approx(2 / 3)


def test_a_program_that_dies_keeps_the_credit_of_the_checks_before(judge: Any) -> None:
    dies = "import os\ndef add(a, b):\n    if a < 0: os._exit(0)\n    return a + b"
    verdict = judge(dies, ADD, partial=True)
    assert (verdict.status, verdict.reward, verdict.facts["exits"]) == ("wrong", 0.5, 1.0)
    tests = {"entry": "add", "tests": "assert add(2, 3) == 5\nassert add(-1, 1) == 0\nassert add(1, 1) == 2"}
    verdict = judge(dies, tests, partial=True)
    assert verdict.status == "wrong"
    assert verdict.reward == pytest.approx(1 / 3)
    assert "exited with status 0" in verdict.feedback


def test_no_partial_credit_is_a_full_reward(judge: Any) -> None:
    quits = "import sys\ndef add(a, b):\n    return a + b\n"
    tests = {"entry": "add", "tests": "assert add(2, 3) == 5\nraise RuntimeError('more')"}
    verdict = judge(quits, tests, partial=True)
    assert (verdict.status, verdict.reward) == ("wrong", 0.5)


def test_programs_are_held_against_what_they_should_print(judge: Any) -> None:
    right = "a, b = map(int, input().split())\nprint(a + b)"
    assert judge(right, SUM).rule == "outputs"
    assert judge(right, SUM).status == "correct"
    wrong = judge("print(5)", SUM, partial=True)
    assert (wrong.reward, wrong.feedback) == (0.5, "case 2: printed '5\\n', expected '0'")
    failing = judge(right + "\nraise KeyError('late')", SUM)
    assert failing.feedback == "case 1: exit status 1: KeyError: 'late'"
    assert judge(right + "\nimport sys; sys.exit(0)", SUM).status == "correct"
    assert (
        judge("import atexit\n" + right.replace("print(a + b)", "atexit.register(print, a + b)"), SUM).status
        == "correct"
    )


def test_floats_are_near_only_where_the_reference_asks(judge: Any) -> None:
    third = "def f(x): return x / 3"
    reference = {"entry": "f", "cases": [[[1], 0.333333]]}
    assert judge(third, reference).status == "wrong"
    assert judge(third, reference | {"tolerance": 1e-5}).status == "correct"
    printed = {"cases": [{"input": "", "output": "pi 3.14159"}]}
    assert judge("print('pi', 355 / 113)", printed).status == "wrong"
    assert judge("print('pi', 355 / 113)", printed | {"tolerance": 1e-6}).status == "correct"
    assert judge("print('PI', 355 / 113)", printed | {"tolerance": 1e-6}).status == "wrong"


def test_helpers_of_the_tests_are_out_of_the_programs_reach(judge: Any) -> None:
    helper = "def near(a, b): return abs(a - b) < 1e-6"
    cheat = "def near(a, b): return True\ndef third(x): return 0"
    tests = "assert near(third(1), 1 / 3)"
    with pytest.raises(ValueError, match=r"they use \['near'\], which they do not define; define it in 'helpers'"):
        judge(cheat, {"entry": "third", "tests": tests})
    assert judge(cheat, {"entry": "third", "tests": tests, "helpers": helper}).status == "wrong"
    assert judge(cheat, {"entry": "third", "tests": tests, "names": ["near"]}).status == "correct"  # it was asked for
    assert (
        judge("def third(x): return x / 3", {"entry": "third", "tests": tests, "helpers": helper}).status == "correct"
    )


def test_hack_attempts_are_counted(judge: Any) -> None:
    equal = judge(_ALWAYS.format(base="") + "def add(a, b): return E()", ADD)
    assert (equal.status, equal.facts["opaque_results"]) == ("wrong", 1.0)
    assert equal.feedback == "add(2, 3) gave an object that is no builtin value, expected 5"
    assert judge("import sys\nsys.exit(0)", ADD).facts["exits"] == 1.0
    assert judge("import os\nos._exit(0)", MEDIAN).facts["exits"] == 1.0
    assert judge("import socket\nsocket.socket(socket.AF_INET)", ADD).facts["denied_syscalls"] == 1.0


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("def add(a, b):\n    while True: pass", "used more than 1 s of processor time"),
        ("import time\ndef add(a, b): time.sleep(60)", "ran into the time limit of 2 s"),
        ("def add(a, b): return 1 / 0", "add(2, 3) raised ZeroDivisionError: division by zero"),
        ("def sub(a, b): return a - b", "the program defines no 'add'"),
        ("def add(a, b) return a + b", "SyntaxError: expected ':' (<program>, line 1)"),
        ("import os\ndef add(a, b): os.abort()", "the program was killed by signal"),
        ("", "there is no program in the answer"),
    ],
)
def test_what_a_program_does_wrong_is_wrong_and_said(program: str, said: str) -> None:
    verifier = CodeAnswer(wall_s=2, cpu_s=1)
    verdict = verifier.score(ScoreRequest("", program, json.dumps(ADD)))
    verifier.close()
    if "time limit" in said or "processor" in said:
        assert verdict.status in ("wrong", "timeout")  # timeout: this machine was too busy to tell
        assert verdict.status == "timeout" or said in verdict.feedback
    else:
        assert (verdict.status, verdict.reward) == ("wrong", 0.0)
        assert said in verdict.feedback


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ("assert add(2, 3) = 5", "cannot be run: SyntaxError"),
        ("import no_such_module\nassert add(2, 3) == 5", "ModuleNotFoundError"),
        ("assert add(lambda: 2, 3) == 5", "the tests pass a function"),
        ("assert 1 + 1 == 2", "never called the program"),
        ("if add(2, 3) != 5:\n    raise ValueError('no')", "hold no assert"),
        (
            "import unittest\nclass T(unittest.TestCase):\n    def test_x(self): self.assertEqual(add(2, 3), 5)",
            "hold no assert",
        ),
        ("assert add(2, 3) == reference(2, 3)", r"\['reference'\]"),
        ("def check(candidate):\n    assert candidate(2, 3) == EXPECTED", r"\['EXPECTED'\]"),
        ("class T:\n    def go(self): return approx\nassert add(2, 3)", r"\['approx'\]"),
        ("assert add(2, 3) == 5\x00", "null bytes"),
        ("open('/no/such/file')\nassert add(2, 3) == 5", "FileNotFoundError"),
    ],
)
def test_tests_that_no_program_can_pass_are_an_error(judge: Any, tests: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        judge("def add(a, b): return 5", {"entry": "add", "tests": tests})


def test_a_sandbox_that_was_killed_is_started_again(judge: Any) -> None:
    verifier = CodeAnswer(wall_s=60)
    os.kill(verifier.open()._server.pid, signal.SIGKILL)
    assert verifier.score(ScoreRequest("", "def add(a, b): return a + b", json.dumps(ADD))).status == "correct"
    verifier.close()


def test_processes_of_a_pool_open_sandboxes_of_their_own_and_leave_none() -> None:
    async def main() -> list[Verdict]:
        pool = VerifierProcesses(2)
        await pool.start()
        try:
            right, wrong = "def add(a, b): return a + b", "import sys\nsys.exit(0)"
            requests = [ScoreRequest("", program, json.dumps(ADD)) for program in [right, wrong] * 4]
            return await pool.score(VerifierSpec("code", '{"wall_s": 60}'), requests)
        finally:
            await pool.close()

    verdicts = asyncio.run(main())
    assert [verdict.status for verdict in verdicts] == ["correct", "wrong"] * 4, verdicts
    assert {verdict.isolation for verdict in verdicts} <= {"A", "B", "C"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"wall_s": 0}, "wall_s lies between"),
        ({"cpu_s": 1.5}, "whole number of seconds"),
        ({"memory_mb": "512"}, "memory_mb lies between"),
        ({"partial": 1}, "partial is true or false"),
        ({"tier": "E"}, "tier is 'auto' or one of A, B, C, D"),
        ({"tier": "D"}, "allow_unsafe_code=true"),
        ({"command": "node"}, "command is a list of words"),
        ({"command": ["node"], "tier": "B"}, "a command runs in tier A alone"),
    ],
)
def test_an_option_out_of_bounds_is_refused_with_the_way_out(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CodeAnswer(**options)


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1", "x = 1"),
        ("Text.\n```python\nx = 1\n```\nMore.", "x = 1\n"),
        ("```\nx = 1\n```\n```\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints:\n```text\n1\n```", "x = 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("~~~py\nx = 1\n~~~", "x = 1\n"),
        ("1. So:\n   ```python\n   if x:\n       y\n  z\n   ```\n", "if x:\n    y\nz\n"),
        ("<think>x\n```</think>\n```python\nx = 1\n```", "x = 1\n"),
        ("```\nprint(input())\n```\nprints\n```\n5\n```", "print(input())\n"),
        ("```python\nprint(input())\n```\nand\n```python\nprint(f(2))\n```", "print(input())\n"),
        ("```\nprint(1)\n```\n```\nx\n```", "print(1)\n"),
        ("```python\nx = 1\ny =", "x = 1\ny ="),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_the_program_is_the_last_block_that_is_python(response: str, program: str) -> None:
    assert program_in(response) == program


@pytest.mark.parametrize(
    ("response", "program"),
    [
        (
            "```python\ndef add(a, b): return a + b\n```\nExample usage:\n```python\nprint(add(2, 3))\n```",
            "def add(a, b): return a + b\n",
        ),
        ("```\ndef add(a, b): return a + b\n```\nOutput:\n```\n5\n```", "def add(a, b): return a + b\n"),
        ("```python\ndef add(): 1\n```\n```python\ndef add(): 2\n```\n```python\nadder = 3\n```", "def add(): 2\n"),
        (
            "```python\nclass S:\n    async def add(self): 1\n```\n```python\nx\n```",
            "class S:\n    async def add(self): 1\n",
        ),
        ("```python\nadd = lambda a, b: a + b\n```\n```python\nadd(1, 2) == 3\n```", "add = lambda a, b: a + b\n"),
        ("```python\nx\n```\n```python\ny\n```", "y\n"),
    ],
)
def test_the_program_is_the_last_block_that_defines_what_is_asked_for(response: str, program: str) -> None:
    assert program_in(response, "add") == program


def test_tests_use_the_standard_library_by_its_names_and_never_the_programs(judge: Any) -> None:
    tests = "assert math.isclose(area(2), 12.566, rel_tol=0.001)\nassert math.isclose(area(3), 28.27, rel_tol=0.001)"
    reference = {"entry": "area", "tests": tests}
    assert judge("def area(r): return 3.14159265 * r * r", reference).status == "correct"
    assert judge("import math\ndef area(r): return math.pi * r * r", reference).status == "correct"
    forged = "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef area(r): return 0"
    assert judge(forged, reference).status == "wrong"
    star = {"entry": "area", "tests": "from math import *\nassert isclose(area(1), pi)"}
    assert judge("import math\ndef area(r): return math.pi * r * r", star).status == "correct"


SEPARATE = "\n".join(f"r = add({i}, 1)\nassert r == {i + 1}" for i in range(10))
LOOP = "for i in range(10):\n    r = add(i, 1)\n    assert r == i + 1"
FUNCTIONS = "".join(f"def test_{i}():\n    x = add({i}, 1)\n    assert x == {i + 1}\n" for i in range(10))
HELPER = "def same(i):\n    r = add(i, 1)\n    assert r == i + 1\n" + "\n".join(f"same({i})" for i in range(10))


@pytest.mark.parametrize("tests", [SEPARATE, LOOP, FUNCTIONS, HELPER])
def test_a_program_that_raises_earns_no_more_than_one_that_is_wrong(judge: Any, tests: str) -> None:
    reference = {"entry": "add", "tests": tests}
    assert judge("def add(a, b): return a + b", reference, partial=True).reward == 1.0
    honest = judge("def add(a, b): return 1", reference, partial=True)
    assert honest.reward == pytest.approx(0.1)
    for ends in ("raise KeyError", "import os; os._exit(0)", "import sys; sys.exit(0)", "return object()"):
        verdict = judge(f"def add(a, b):\n    if a == 0: return 1\n    {ends}", reference, partial=True)
        assert (verdict.status, verdict.reward <= honest.reward + 1e-9) == ("wrong", True), (ends, verdict)


def test_each_test_function_is_run_whatever_the_others_did(judge: Any) -> None:
    broken = "def add(a, b):\n    if a == 4: raise KeyError\n    return a + b"
    verdict = judge(broken, {"entry": "add", "tests": FUNCTIONS}, partial=True)
    assert verdict.reward == pytest.approx(0.9)
    assert verdict.feedback == "KeyError: ''"


@pytest.mark.parametrize(
    "frame",
    [
        # grows when it is packed
        "b'{\"value\":[\"' + '\u4e2d'.encode() * 2_600_000 + b'\"' + b',1e15' * 100_000 + b']}'",
        "b'{\"value\":\"' + b'\\\\ud800' * 1000 + b'\"}'",
        "b'{\"value\":' + b'[' * 100_000 + b'}'",
        "b'{\"value\":{\"d\":[' + b','.join(b'[{\"i\":\"%x\"},0]' % (i * (2**61 - 1)) for i in range(99_000)) + b']}}'",
        "b'\xff'",
        "b'9' * 9_000",
        "b'[{\"value\":1}]'",
    ],
)
@pytest.mark.parametrize(
    "reference", [ADD, {"entry": "add", "tests": "x = add(2, 3)\nassert x == 5\nassert add(1, 1) == 2"}]
)
def test_no_frame_makes_an_answer_an_error(judge: Any, frame: str, reference: dict[str, Any]) -> None:
    forge = (
        f"import os, struct\ndef add(a, b):\n    body = {frame}\n"
        "    data = memoryview(struct.pack('>I', len(body)) + body)\n"
        "    while data: data = data[os.write(3, data):]\n    return 0"
    )
    verdict = judge(forge, reference)
    assert (verdict.status, verdict.reward) == ("wrong", 0.0)
    verdict.feedback.encode()


def test_what_a_program_says_in_half_characters_can_be_written_down(judge: Any) -> None:
    for reference in (ADD, {"entry": "add", "tests": "assert add(2, 3) == 5"}):
        verdict = judge("def add(a, b): raise ValueError('\\ud800')", reference)
        assert "ValueError: ?" in verdict.feedback


@pytest.mark.parametrize("end", ["exit()", "quit()", "exit(0)", "import sys; sys.exit()", "raise SystemExit"])
def test_a_program_may_end_itself_when_it_has_printed(judge: Any, end: str) -> None:
    assert judge(f"a, b = map(int, input().split())\nprint(a + b)\n{end}", SUM).status == "correct"


@pytest.mark.parametrize(
    "read",
    [
        "open('/dev/stdin').read()",
        "open('/dev/fd/0', 'rb').read().decode()",
        "__import__('pathlib').Path('/dev/stdin').read_text()",
        "__import__('io').open('/proc/self/fd/0', encoding='utf-8').read()",
        "open(0).read()",
    ],
)
def test_a_program_finds_its_input_by_the_names_that_it_has(judge: Any, read: str) -> None:
    assert (
        judge(f"a, b = map(int, {read}.split())\nopen('/dev/stdout', 'w').write(str(a + b))", SUM).status == "correct"
    )


def test_the_name_of_what_is_tested_can_be_asked(judge: Any) -> None:
    reference = {"entry": "add", "tests": "assert add.__name__ == 'add'\nassert add(2, 3) == 5"}
    assert judge("def add(a, b): return a + b", reference).status == "correct"


def test_tests_that_are_about_a_plain_value_are_tests(judge: Any) -> None:
    reference = {"entry": "LIMIT", "tests": "assert LIMIT == 5"}
    assert judge("LIMIT = 5", reference).status == "correct"
    assert judge("LIMIT = 6", reference).status == "wrong"


def test_results_that_json_has_no_word_for_are_compared(judge: Any) -> None:
    reference = {"entry": "f", "cases": "[([{1, 2}], {1: {3}}), ([{5}], {1: {6}})]"}
    assert judge("def f(x): return {1: {len(x) + 1 if 5 not in x else 6}}", reference).status == "correct"
    assert judge("def f(x): return {'1': {3}}", reference).status == "wrong"


def test_a_method_of_a_solution_is_called_on_an_object_of_its_own(judge: Any) -> None:
    row = {"fn_name": "push", "inputs": [[1], [2]], "outputs": [[1], [2]]}
    program = (
        "class Solution:\n    def __init__(self): self.x = []\n    def push(self, x):\n        self.x.append(x)\n"
        "        return self.x[-1] if len(self.x) == 1 else 0"
    )
    assert judge(program, row).status == "correct"
    assert judge(program.replace("Solution", "Other"), row).feedback == "the program defines no 'push'"


PERL = "my ($x, $y) = split ' ', <STDIN>; print $x + $y, qq(\\n);"
C = '#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }'
BUILD = ["sh", "-c", "gcc -x c {program} -o p && ./p"]
needs_a = pytest.mark.skipif(
    "A" not in TIERS, reason="commands run in tier A alone, which does not work on this machine"
)


@needs_a
@pytest.mark.parametrize(("command", "program"), [(["perl", "{program}"], PERL), (BUILD, C)])
def test_programs_of_other_languages_are_run_by_a_command(judge: Any, command: list[str], program: str) -> None:
    if not shutil.which(command[0] if command is not BUILD else "gcc"):
        pytest.skip(f"{command} is not on this machine")
    verdict = judge(f"```\n{program}\n```", SUM, command=command)
    assert (verdict.status, verdict.isolation) == ("correct", "A"), verdict
    assert judge("```\nnot a program(\n```", SUM, command=command).status == "wrong"


@needs_a
@pytest.mark.parametrize(
    "attempt",
    [
        "cat {file}",
        "cat /etc/passwd",
        "cat /proc/1/environ",
        "echo x > {folder}/new",
        "echo x > /usr/new",
        "exec 9<>/dev/tcp/127.0.0.1/{port}",
        "kill -9 {trusted}",
        "kill -0 {server}",
        "unshare -U true",
        "mount -t tmpfs none /work",
        "ls {folder}",
        "cat /dev/shm/*",
        "head -c 999999999 /dev/zero > big",
    ],
)
def test_what_a_command_runs_is_shut_in_as_well(judge: Any, attempt: str) -> None:
    judge("echo 5", SUM, command=["bash", "{program}"])
    with Jail("A") as jail, witness(jail) as seen:
        program = f"if {attempt.format(**seen.arguments())}; then echo came off; else echo held; fi"
        reference = {"cases": [{"input": "", "output": "held"}]}
        verdict = judge(program, reference, command=["bash", "{program}"])
        assert verdict.status == "correct", verdict
        assert seen.damage() == ""


@needs_a
def test_a_commands_daemons_end_with_it_and_its_files_are_gone(judge: Any) -> None:
    linger = "(setsid sh -c 'sleep 600' &) ; ls ; touch left ; echo done"
    reference = {"cases": [{"input": "", "output": "program\ndone"}] * 2}
    assert judge(linger, reference, command=["bash", "{program}"]).status == "correct"
    sleeping = [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.read_bytes() == b"sleep\x00600\x00"]
    assert sleeping == []


@needs_a
def test_a_command_that_is_missing_is_an_error_and_no_verdict() -> None:
    verifier = CodeAnswer(command=["no-such-command", "{program}"], wall_s=60)
    with pytest.raises(SandboxError, match="'no-such-command' cannot be run"):
        verifier.score(ScoreRequest("", "x", json.dumps(SUM)))
    with pytest.raises(ValueError, match="cases with an 'entry' are for Python"):
        verifier.score(ScoreRequest("", "x", json.dumps(ADD)))
    verifier.close()


EXIT = {
    "canonical": (lambda row: row["prompt"] + row["canonical_solution"], 164),
    "sys.exit(0)": (lambda row: "import sys\nsys.exit(0)", 0),
    "equal to everything": (lambda row: _ALWAYS.format(base="") + f"def {row['entry_point']}(*args): return E()", 0),
    "a stub": (lambda row: row["prompt"] + "    pass\n", 0),
    "nothing": (lambda row: "", 0),
}


@pytest.mark.skipif(not HUMANEVAL.exists(), reason="HumanEval is not on this machine")
@pytest.mark.parametrize("name", EXIT)
def test_humaneval_pays_all_canonical_solutions_and_nothing_else(judge: Any, name: str) -> None:
    answer, paid = EXIT[name]
    with gzip.open(HUMANEVAL) as file:
        rows = [json.loads(line) for line in file]
    verdicts = {
        row["task_id"]: judge(
            answer(row), {"entry": row["entry_point"], "tests": row["test"], "helpers": row["prompt"]}
        )
        for row in rows
    }
    correct = [task for task, verdict in verdicts.items() if verdict.status == "correct"]
    assert len(correct) == paid, [v for v in verdicts.values() if (v.status == "correct") != bool(paid)][:3]
