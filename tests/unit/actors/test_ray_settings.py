from pathlib import Path

import pytest

from actors.ray_settings import make_token, token_file


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
