import http.server
import threading
from pathlib import Path

import pytest

from actors.ray_settings import is_open, make_token, token_file


def test_a_token_is_readable_by_nobody_else_and_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "ray" / "auth_token"
    assert make_token(file)
    token = file.read_text()
    assert len(token) == 64
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    file.chmod(0o644)  # as Ray would write it
    assert not make_token(file)
    assert file.read_text() == token
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_token_is_looked_for_where_ray_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert token_file({}) == tmp_path / ".ray" / "auth_token"
    assert token_file({"RAY_AUTH_TOKEN_PATH": "~/mine"}) == tmp_path / "mine"


@pytest.mark.parametrize(("code", "open_to_all"), [(200, True), (401, False)])
def test_a_cluster_whose_jobs_are_told_without_a_token_is_open(code: int, open_to_all: bool) -> None:
    class Dashboard(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == "/api/jobs/" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert is_open(f"http://127.0.0.1:{server.server_port}") == open_to_all


def test_where_no_dashboard_answers_nothing_is_said_of_it() -> None:
    assert not is_open("http://nowhere.invalid")
    assert not is_open("http://127.0.0.1:1")
