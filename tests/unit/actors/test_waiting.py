import ast
import asyncio
from pathlib import Path

import pytest

from actors.waiting import DeadlineExceeded, open_waits, within

ROOT = Path(__file__).parents[3]
HERE = [path for folder in ("actors", "cluster") for path in sorted((ROOT / folder).glob("*.py"))]


def test_a_missed_deadline_says_who_waited_for_what_and_how_long():
    with pytest.raises(DeadlineExceeded, match=r"version 3 waits for worker-0: no answer in 0\.01 s"):
        asyncio.run(within(0.01, asyncio.sleep(5), "version 3 waits for worker-0"))


def test_a_time_out_of_the_work_itself_is_not_mistaken_for_the_deadline():
    async def work():
        raise TimeoutError("2 of 4 groups ready")

    with pytest.raises(TimeoutError, match="2 of 4 groups ready") as caught:
        asyncio.run(within(5, work(), "x"))
    assert not isinstance(caught.value, DeadlineExceeded)


def test_what_is_waited_for_stands_in_the_table_as_long_as_it_is_waited_for():
    async def run():
        waits = [
            asyncio.ensure_future(within(seconds, asyncio.sleep(5), f"a waits for {seconds}")) for seconds in (7, 9)
        ]
        await asyncio.sleep(0.02)
        table = open_waits()
        assert [(wait.what, wait.deadline_s) for wait in table] == [("a waits for 7", 7), ("a waits for 9", 9)]
        assert all(0.0 < wait.age_s < 1.0 for wait in table)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        assert open_waits() == []
        with pytest.raises(DeadlineExceeded):
            await within(0.01, asyncio.sleep(5), "x")
        assert open_waits() == []

    asyncio.run(run())


@pytest.mark.parametrize("path", HERE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nobody_waits_for_another_process_but_through_a_peer(path):
    """Peers wait through `within`. So Ray's actors are seen in two files, and no other way to set a deadline is used.

    Its job port is another matter: there each request has a deadline of its own.
    """
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if path.name not in ("ray_app.py", "ray_nodes.py", "job_client.py"):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "ray" for name in imported), f"line {node.lineno}"
            assert not (isinstance(node, ast.Attribute) and node.attr == "remote"), f"line {node.lineno}"
        assert not (isinstance(node, ast.Attribute) and node.attr == "wait_for"), (
            f"line {node.lineno}: use actors.waiting.within for another process, asyncio.timeout within this one"
        )
