"""Tools of one user find their server, and its token never leaves the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadynorm_contract.discovery import DEFAULT_SERVER, ServerAddress, data_dir, find_server, find_token, is_loopback

LOCAL = "http://127.0.0.1:8470"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and no variables."""
    for name in ("STEADYNORM_SERVER", "STEADYNORM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path))
    return tmp_path


def test_the_folder_is_the_variables_or_the_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_dir() == folder
    for unset in ("", None):
        monkeypatch.setenv("STEADYNORM_HOME", "") if unset == "" else monkeypatch.delenv("STEADYNORM_HOME")
        assert data_dir() == Path.home() / ".steadynorm"
    monkeypatch.setenv("STEADYNORM_HOME", "~/elsewhere")
    assert data_dir() == Path.home() / "elsewhere"


def test_the_server_is_the_variables_then_the_folders_then_the_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_server() == ServerAddress(DEFAULT_SERVER)
    (folder / "server.json").write_text('{"server": "http://127.0.0.1:9", "dashboard": "http://127.0.0.1:10"}')
    assert find_server() == ServerAddress("http://127.0.0.1:9", "http://127.0.0.1:10")
    monkeypatch.setenv("STEADYNORM_SERVER", "https://far.example/")
    assert find_server() == ServerAddress("https://far.example")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"server": 1}', b"\xff"])
def test_a_broken_server_file_is_as_none(folder: Path, content: bytes) -> None:
    (folder / "server.json").write_bytes(content)
    assert find_server() == ServerAddress(DEFAULT_SERVER)


def test_the_token_is_read_for_loopback_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token(LOCAL) is None
    (folder / "token").write_text("secret\n")
    assert find_token(LOCAL) == "secret"
    assert find_token("http://10.0.0.1:8470") is None
    assert find_token("http://127.0.0.1.example.org") is None
    monkeypatch.setenv("STEADYNORM_TOKEN", "given")
    assert find_token("http://10.0.0.1:8470") == "given"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_broken_token_file_is_as_none(folder: Path, content: bytes) -> None:
    (folder / "token").write_bytes(content)
    assert find_token(LOCAL) is None


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8470", True),
        ("http://localhost:8470", True),
        ("http://[::1]:8470", True),
        ("http://127.8.9.1", True),
        ("https://steadynorm.example", False),
        ("http://0.0.0.0:8470", False),
        ("http://localhost.example.org", False),
        ("http://10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback_is_known_by_its_address(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback
