"""The server's configuration: a wrong value is one sentence that names the variable."""

import re

import pytest

from steadynorm_server import config
from steadynorm_server.errors import StartError


@pytest.mark.parametrize(
    ("variable", "given", "rule"),
    [
        ("STEADYNORM_RETENTION_DAYS", "soon", "valid number"),
        ("STEADYNORM_WORKERS", "0", "greater than or equal to 1"),
        ("STEADYNORM_TLS", "yes", "'terminated'"),
    ],
)
def test_a_wrong_value_is_told_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, given: str, rule: str
) -> None:
    monkeypatch.setenv(variable, given)
    with pytest.raises(StartError) as error:
        config.read()
    assert str(error.value).startswith(f"{variable}: ")
    assert rule in str(error.value)
    assert str(error.value).endswith(f", got {given!r}.")


def test_a_misspelled_variable_is_told_and_others_are_left_alone() -> None:
    (said,) = config.misspelled(["STEADYNORM_OPERATER_TOKEN", "PATH", "STEADYNORM_RETENTION_DAYS"])
    assert said.startswith("STEADYNORM_OPERATER_TOKEN has no effect")
    assert "did you mean STEADYNORM_OPERATOR_TOKEN?" in said
    service = ["SERVICE_HOST", "SERVICE_PORT", "PORT_8470_TCP", "PORT_8470_TCP_ADDR", "PORT_8470_TCP_PROTO"]
    assert config.misspelled(f"STEADYNORM_{name}" for name in service) == []


def test_the_variables_of_all_our_programs_are_known(pytestconfig: pytest.Config) -> None:
    packages = ("agent", "cli", "contract", "dashboard", "server")
    sources = [file.read_text("utf-8") for name in packages for file in (pytestconfig.rootpath / name).rglob("*.py")]
    named = {name for source in sources for name in re.findall(r'"(STEADYNORM_[A-Z_]+[A-Z])"', source)}
    assert len(named) > 20
    assert config.misspelled(named) == []
