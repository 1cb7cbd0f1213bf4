"""The server's configuration: a wrong value is one sentence that names the variable."""

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
