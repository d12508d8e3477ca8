"""Data sets by name, from a server on this machine that speaks as much of the hub's protocol as is used."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c0ffee" * 6 + "c0ff"
README = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
---
"""
FILES = {
    "README.md": README.encode(),
    "main/train-00000-of-00001.jsonl": b'{"question": "1+1?", "answer": "2"}\n',
    "main/test-00000-of-00001.jsonl": b'{"question": "2+2?", "answer": "4"}\n',
}


class Hub(BaseHTTPRequestHandler):
    """One data set, `some/sums`."""

    fetched: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        for revision in ("main", "v2"):
            if path == f"/api/datasets/some/sums/tree/{revision}":
                rows = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": "0" * 40} for name in FILES]
                return self.say(json.dumps(rows).encode(), with_body)
            name = path.removeprefix(f"/datasets/some/sums/resolve/{revision}/")
            if name in FILES:
                if with_body:
                    self.fetched.append(f"{revision}:{name}")
                return self.say(FILES[name], with_body)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def say(self, body: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """(address, what was fetched so far)."""
    fetched: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Hub,), {"fetched": fetched}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", fetched
    server.shutdown()
    server.server_close()
    thread.join()


def read(address: str, home: Path, name: str, split: str | None = None, offline: bool = False) -> list[str]:
    """The lines of the files, read in a process of its own: the client reads its settings when it is imported."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom rollout.data_errors import DataError\n"
        "from rollout.dataset_files import data_files\n"
        f"try:\n    print(*[f.read_text() for f in data_files(Path({name!r}), {split!r})], sep='')\n"
        "except DataError as error:\n    print('refused:', error)\n"
    )
    settings = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    proxies = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    environment = proxies | settings | {"HF_HUB_OFFLINE": "1" if offline else "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-2] if "refused" not in done.stdout else [done.stdout]


def test_of_a_data_set_of_the_hub_only_the_chosen_split_is_fetched_and_later_found_offline(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, fetched = hub
    assert read(address, tmp_path, "hf:some/sums") == ['{"question": "1+1?", "answer": "2"}']
    assert fetched == ["main:README.md", "main:main/train-00000-of-00001.jsonl"]
    assert read(address, tmp_path, "hf:some/sums", offline=True) == ['{"question": "1+1?", "answer": "2"}']
    assert read(address, tmp_path, "hf:some/sums", "test") == ['{"question": "2+2?", "answer": "4"}']
    assert len(fetched) == 3  # what is there already is not fetched again
    (refused,) = read(address, tmp_path, "hf:some/sums", "dev")
    assert "hf:some/sums: has no split 'dev', it has test, train; set split" in refused


def test_a_revision_may_be_named(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, fetched = hub
    assert read(address, tmp_path, "hf:some/sums@v2") == ['{"question": "1+1?", "answer": "2"}']
    assert fetched == ["v2:README.md", "v2:main/train-00000-of-00001.jsonl"]


def test_a_name_that_the_hub_does_not_know_is_refused(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    (refused,) = read(hub[0], tmp_path, "hf:some/others")
    assert "hf:some/others: cannot be had from the hub: RepositoryNotFoundError" in refused
    assert "check name and connection, or name a local copy" in refused
    (refused,) = read(hub[0], tmp_path, "hf:some/sums", offline=True)
    assert "hf:some/sums: cannot be had from the hub: LocalEntryNotFoundError" in refused
