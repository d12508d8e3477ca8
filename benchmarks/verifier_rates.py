"""The verifier pool: math beside math-verify called in-process, code beside a cold Python, and what hangs cost.

.venv/bin/python benchmarks/verifiers.py [--json FILE] [--quick]
"""

import asyncio
import json
import logging
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil
from report import Row, arguments, report

from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

MATH = VerifierSpec("math", concurrency=512)
CODE = VerifierSpec("code", timeout_s=30.0)
HANGING = VerifierSpec("hanging:Hanging", concurrency=512)
SYMBOLIC: list[tuple[Callable[[int, int], str], Callable[[int, int], str]]] = [
    (lambda a, b: f"x^2+{2 * a}x+{a * a}", lambda a, b: f"(x+{a})^2"),
    (lambda a, b: rf"\sqrt{{{a * a * b}}}", lambda a, b: rf"{a}\sqrt{{{b}}}"),
    (lambda a, b: rf"\frac{{{a}\pi}}{{4}}", lambda a, b: rf"{a / 4}\pi"),
    (lambda a, b: f"[{a},{a + b}]", lambda a, b: rf"{a}\le x\le {a + b}"),
    (lambda a, b: rf"\{{{a},{a + b},{-b}\}}", lambda a, b: rf"\{{{-b},{a},{a + b}\}}"),
    (
        lambda a, b: rf"\frac{{{a}}}{{\sqrt{{{b}}}}}",
        lambda a, b: rf"\frac{{{a}\sqrt{{{b}}}}}{{{b}}}",
    ),
    (lambda a, b: f"{a}x+{b}y", lambda a, b: f"{b}y+{a}x"),
    (lambda a, b: f"({a},-{b})", lambda a, b: f"({a}, -{b})"),
    (lambda a, b: f"e^{{{a + 1}}}", lambda a, b: rf"e^{{{a}}}\cdot e"),
    (lambda a, b: rf"\frac{{{a}}}{{4}}x", lambda a, b: f"{a / 4}x"),
    (lambda a, b: rf"\log({b**3})", lambda a, b: rf"3\log({b})"),
    (lambda a, b: f"x^2+{2 * a}x+{a * a}", lambda a, b: f"(x+{a + 1})^2"),
    (lambda a, b: rf"\sqrt{{{a * a * b}}}", lambda a, b: rf"{a + 1}\sqrt{{{b}}}"),
    (lambda a, b: f"({a},-{b})", lambda a, b: f"(-{b},{a})"),
]
"""(reference, answer) of two random numbers each, the last three unequal."""
HANGING_EVERY = 10
PROGRAMS = [
    ("def add(a, b):\n    return a + b", "add", [[[n, 2 * n], 3 * n] for n in range(8)]),
    (
        "def primes(n):\n    return [p for p in range(2, n) if all(p % q for q in range(2, int(p**0.5) + 1))]",
        "primes",
        [[[10], [2, 3, 5, 7]], [[2], []], [[30], [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]]],
    ),
    (
        "from collections import Counter\n\ndef most(words):\n    return Counter(words).most_common(1)[0][0]",
        "most",
        [[[["a", "b", "a"]], "a"], [[["x"]], "x"], [[["p", "q", "q", "q"]], "q"]],
    ),
    (
        "def turned(text):\n    return text[::-1]",
        "turned",
        [[[word], word[::-1]] for word in ("", "ab", "level", "rl")],
    ),
    ("def worst(numbers):\n    return max(numbers)", "worst", [[[[3, 1, 2]], 1], [[[5, 4]], 4]]),
]
"""(program, what is called, [arguments, result] of each call); the last is wrong."""


def mixed(count: int, symbolic: float) -> list[ScoreRequest]:
    """Answers as policies write them: a share of expressions, the rest integers, half of those wrong."""
    rng = random.Random(0)
    made = []
    for number in range(count):
        if rng.random() < symbolic:
            (reference, written), a, b = rng.choice(SYMBOLIC), rng.randrange(2, 100), rng.randrange(2, 100)
            gold, answer = reference(a, b), written(a, b)
        else:
            gold = str(rng.randrange(10_000))
            answer = gold if rng.random() < 0.5 else str(rng.randrange(10_000))
        made.append(ScoreRequest(f"problem {number // 8}", rf"So we get \boxed{{{answer}}}.", gold))
    return made


def in_process(requests: Sequence[ScoreRequest]) -> float:
    """Answers per CPU second of math-verify as its documentation calls it: one direction, no pre-filters."""
    from math_verify import parse, verify

    for request in requests[:50]:
        verify(parse(rf"\boxed{{{request.reference}}}"), parse(request.response))
    began = time.process_time()
    for request in requests:
        gold = parse(rf"\boxed{{{request.reference}}}", parsing_timeout=None)
        verify(gold, parse(request.response, parsing_timeout=None), timeout_seconds=None)
    return len(requests) / (time.process_time() - began)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a pool did with a list of answers."""

    verdicts: Sequence[Verdict]
    come_s: Sequence[float]
    """When each came."""
    cpu_s: float
    """Of all its processes, and of ours."""

    def rate(self, of: Sequence[bool]) -> float:
        """Verdicts per second on some of the answers, until the last of them came."""
        return sum(of) / max(come for come, counts in zip(self.come_s, of, strict=True) if counts)

    @property
    def latency_ms(self) -> tuple[float, float]:
        """Median and 99th percentile of the time that a verdict takes its process."""
        times = [verdict.milliseconds for verdict in self.verdicts if verdict.scored]
        return float(np.percentile(times, 50)), float(np.percentile(times, 99))


def through_pool(spec: VerifierSpec, requests: Sequence[ScoreRequest], processes: int) -> Scored:
    """Score them all in a warm pool."""

    async def main() -> Scored:
        pool = VerifierProcesses(processes, recycle_after=1_000_000)
        await pool.start([spec])
        await pool.score(spec, requests[:50])
        cpu, began = _cpu_s(), time.perf_counter()
        come = [0.0] * len(requests)
        verdicts = pool.submit(spec, requests)
        for number, verdict in enumerate(verdicts):

            def note(_: object, number: int = number) -> None:
                come[number] = time.perf_counter() - began

            verdict.add_done_callback(note)
        found = Scored(list(await asyncio.gather(*verdicts)), come, _cpu_s() - cpu)
        await pool.close()
        return found

    return asyncio.run(main())


def _cpu_s() -> float:
    """Of this process and all that descend from it, those that have ended too; not of its own children that did."""
    spent = time.process_time()
    for process in psutil.Process().children(recursive=True):
        spent += sum(process.cpu_times()[:4])  # user, system, and both of its own children that were waited for
    return spent


def programs(count: int, tests: bool) -> list[ScoreRequest]:
    """Answers with a program, and references with cases, or with the same cases as code that asserts."""
    made = []
    for number in range(count):
        program, entry, cases = PROGRAMS[number % len(PROGRAMS)]
        what = {"tests": _asserts(entry, cases)} if tests else {"cases": cases}
        reference = json.dumps({"entry": entry, **what})
        made.append(ScoreRequest(f"problem {number // 8}", f"```python\n{program}\n```", reference))
    return made


def _asserts(entry: str, cases: Sequence[Sequence[object]]) -> str:
    return "\n".join(f"assert {entry}(*{arguments!r}) == {result!r}" for arguments, result in cases)


def cold(count: int) -> float:
    """Answers per CPU second when each is a `python` of its own, tests after the program, shut in by nothing."""
    began = _children_s() + time.process_time()
    for number in range(count):
        program, entry, cases = PROGRAMS[number % len(PROGRAMS)]
        text = f"{program}\n{_asserts(entry, cases)}\n"
        done = subprocess.run([sys.executable, "-c", text], stderr=subprocess.DEVNULL, timeout=60)
        assert (done.returncode == 0) == (entry != "worst")
    return count / (_children_s() + time.process_time() - began)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def math_rows(count: int) -> list[Row]:
    """Verdicts per CPU second, and how long one takes."""
    made = []
    for title, share in (("integers", 0.0), ("mixed, half expressions", 0.5), ("expressions", 1.0)):
        say(f"math, {title}")
        requests = mixed(count if share else 4 * count, share)
        beside, scored = in_process(requests), through_pool(MATH, requests, processes=1)
        rate, (half, most) = len(requests) / scored.cpu_s, scored.latency_ms
        made += [
            Row(f"math, {title}: pool", rate, "verdicts/CPU s"),
            Row(f"math, {title}: math-verify in-process", beside, "verdicts/CPU s"),
            Row(f"math, {title}: pool / in-process", rate / beside, "×", 0.8),
            Row(f"math, {title}: p50", half, "ms"),
            Row(f"math, {title}: p99", most, "ms"),
        ]
    return made


def code_rows(count: int) -> list[Row]:
    """Verdicts per CPU second, and how long one takes, in the best tier that works here."""
    beside = cold(count // 4)
    made = [Row("code: a cold python each, no isolation", beside, "verdicts/CPU s")]
    for title, tests, aim in (("tests as data", False, 2.5), ("tests as code", True, None)):
        say(f"code, {title}")
        requests = programs(count, tests)
        scored = through_pool(CODE, requests, processes=1)
        right = sum(
            v.status == ("wrong" if '"worst"' in r.reference else "correct")
            for v, r in zip(scored.verdicts, requests, strict=True)
        )
        rate, (half, most) = len(requests) / scored.cpu_s, scored.latency_ms
        made += [
            Row(f"code, {title}: pool, tier {scored.verdicts[0].isolation}", rate, "verdicts/CPU s"),
            Row(f"code, {title}: pool / cold python", rate / beside, "×", aim),
            Row(f"code, {title}: p50", half, "ms"),
            Row(f"code, {title}: p99", most, "ms"),
            Row(f"code, {title}: verdicts other than they should be", len(requests) - right, "", 0, "lower"),
        ]
    return made


def hanging_rows(count: int) -> list[Row]:
    """Throughput when every tenth answer never ends: towers of exponents, a call that waits, a loop that computes.

    Of the other answers: how many a second, until the last of them is judged. What hangs is over a deadline later.
    """
    clean = mixed(count, 0.5)
    honest = [number % HANGING_EVERY != 0 for number in range(count)]
    dirty = {
        "a tower of exponents": (MATH, r"\boxed{9^{9^{9^{9}}}}"),
        "waits for ever": (HANGING, "wait"),
        "computes for ever": (HANGING, "compute"),
    }
    made = []
    for title, (spec, response) in dirty.items():
        say(f"every tenth answer {title}")
        requests = [r if fine else replace(r, response=response) for r, fine in zip(clean, honest, strict=True)]
        rates, lost = [], 0
        for asked in (clean, requests):
            scored = through_pool(spec, asked, os.cpu_count() or 1)
            rates.append(scored.rate(honest))
            pairs = zip(scored.verdicts, asked, strict=True)
            lost += sum((v.status == "timeout") != (r.response == response) or v.status == "error" for v, r in pairs)
        made += [
            Row(f"hanging, {title}: without such answers", rates[0], "verdicts/s"),
            Row(f"hanging, {title}: with them", rates[1], "verdicts/s"),
            Row(f"hanging, {title}: with / without", rates[1] / rates[0], "×", 0.8),
            Row(f"hanging, {title}: verdicts other than they should be", lost, "", 0, "lower"),
        ]
    return made


def say(line: str) -> None:
    """Progress: a part takes up to a minute."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """All of it."""
    options = arguments("The verifier pool.").parse_args()
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time-outs are off
    made = math_rows(200 if options.quick else 1_000)
    made += code_rows(200 if options.quick else 2_000)
    made += hanging_rows(400 if options.quick else 4_000)
    report("Verifiers", made, options.json)
