"""The server's configuration, by arguments or by `STEADYNORM_*` variables. The documentation's table is made from it.

ServerConfig()                        from the environment
ServerConfig(port=0, data=folder)     arguments win over the environment
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from steadynorm_contract.discovery import data_dir, is_loopback, is_service_link
from steadynorm_server.errors import StartError

IN_FILES = (
    *(f"{role}_token{which}" for role in ("operator", "agent", "viewer") for which in ("", "_previous")),
    "proxy_token",
    "redis_url",
)
"""Secrets: each may also be in a file that the variable of this name with `_FILE` at its end names."""
_PREFIX = "STEADYNORM_"
_OF_OTHER_PROGRAMS = (
    *("DASHBOARD_BASE_PATH", "DASHBOARD_HOSTS", "DASHBOARD_SIGN_IN", "GRAFANA_URL"),
    *("HOME", "KERNELS", "RUN", "SERVER", "TOKEN"),
)


class ServerConfig(BaseSettings):
    """Configuration of one server process. Raises pydantic's ValidationError, or StartError; `read` StartError alone.

    A token or the Redis address can be read from a file, as orchestrators mount secrets: `STEADYNORM_AGENT_TOKEN_FILE`.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEADYNORM_", env_ignore_empty=True, populate_by_name=True, extra="ignore"
    )

    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback, tokens and TLS are required."""
    port: int = Field(default=8470, ge=0, le=65535)
    """Port to listen on. 0: any free port; the address is printed and written to server.json."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that serve behind the one port, each on a core of its own."""
    data: Path = Field(default_factory=data_dir)
    """Folder of the token, server.json and the embedded Redis. Created if absent, readable by its owner only."""
    redis_url: str | None = Field(
        default=None, validation_alias=AliasChoices("STEADYNORM_REDIS_URL", "REDIS_URL", "redis_url")
    )
    """Address of your Redis or Valkey: `redis://`, `rediss://` or `unix://`; of a Redis Cluster
    `redis+cluster://one:6379,two:6379` or `rediss+cluster://`; of a primary that Sentinels watch
    `redis+sentinel://one:26379,two:26379/NAME` or `rediss+sentinel://`. Unset: an embedded one is started."""
    root_path: str = Field(default="", pattern=r"^(/[\w.~-]+)*$")
    """Path under which a proxy offers the server, such as `/steadynorm-api`, whether the proxy takes it away or not."""
    dashboard_url: str | None = None
    """Where people reach the dashboard, for links in webhooks, alerts, Grafana and what is printed."""

    operator_token: SecretStr | None = None
    """Token of people who may change settings."""
    agent_token: SecretStr | None = None
    """Token of training jobs."""
    viewer_token: SecretStr | None = None
    """Token of people and programs that only read."""
    operator_token_previous: SecretStr | None = None
    """Accepted beside the present operator token during a rotation."""
    agent_token_previous: SecretStr | None = None
    """Accepted beside the present agent token during a rotation."""
    viewer_token_previous: SecretStr | None = None
    """Accepted beside the present viewer token during a rotation."""
    tokens_file: Path | None = None
    """More tokens, with names and, optionally, the names of the runs they are bound to. Read again when it changes."""
    trusted_proxy: str = ""
    """Addresses or networks of proxies that say who has signed in, separated by commas. Nobody else's header counts:
    [how](../security.md#sign-in-with-your-identity-provider)."""
    proxy_token: SecretStr | None = None
    """Token of a dashboard behind a proxy that signs people in: with it the dashboard says who asks. It is nobody by
    itself. Give both the same."""
    proxy_user_header: str = "X-Forwarded-Email"
    """Header in which a trusted proxy names the person, for the audit list."""
    proxy_groups_header: str = "X-Forwarded-Groups"
    """Header in which it names the person's groups, separated by commas."""
    operator_groups: str = ""
    """Groups whose members are operators, separated by commas. `*`: everybody who has signed in."""
    viewer_groups: str = "*"
    """Groups whose members are viewers."""
    webhooks_file: Path | None = None
    """The webhooks that events are sent to."""
    metrics_auth: bool | None = None
    """Whether `/metrics` requires a viewer's token. Unset: beyond loopback and behind a proxy it does."""

    otlp: bool = False
    """Whether the metrics of `/metrics` and the events of runs are sent by OTLP over HTTP, to where the standard
    variables `OTEL_EXPORTER_OTLP_*` say, every `OTEL_METRIC_EXPORT_INTERVAL` ms (60,000). Needs the extra `otlp`."""

    tls: Literal["", "terminated"] = ""
    """`terminated`: requests from other machines pass a proxy that speaks TLS."""
    tls_cert: Path | None = None
    """PEM file of the certificate, with which the server speaks TLS itself. Needs the key."""
    tls_key: Path | None = None
    """PEM file of the certificate's key."""
    rate_per_run: float = Field(default=50.0, ge=0, allow_inf_nan=False)
    """Requests per second of one agent token for one run, in each process. 0: no limit."""
    rate_per_token: float = Field(default=5000.0, ge=0, allow_inf_nan=False)
    """Requests per second of one token in all, in each process. 0: no limit."""
    request_within_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Seconds within which a request's body must have arrived; its headers within a third of that."""
    max_connections: int = Field(default=20_000, ge=1)
    """Open connections of one process; further ones get 503."""

    log: Literal["text", "json"] = "text"
    """Format of the log. `json`: one object per line."""
    log_level: Literal["warning", "info"] = "warning"
    """`info`: a line for each request as well, with its id."""

    audit_log: str = ""
    """File of the audit stream, JSON lines that outlive their runs; `-`: standard output. Unset: none."""

    stalled_after_s: float = Field(default=30.0, gt=0)
    """Seconds without telemetry after which a run is stalled."""
    forget_after_s: float = Field(default=86_400.0, gt=0)
    """Seconds after which a stalled run leaves `/metrics`, so that its alerts end."""
    retention_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Days without a sign of life after which a run is removed with its data. Unset: never."""
    run_mib: float = Field(default=64.0, ge=1, allow_inf_nan=False)
    """MiB that one run may take in Redis. Beyond that the oldest of its finest history is dropped first; the whole run
    stays in coarser buckets, with every extreme."""
    run_mib_ceiling: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """Largest `max_mib` that operators may set for one run. Unset: `STEADYNORM_RUN_MIB`, so they can only lower it."""
    top_parameters: int = Field(default=10, ge=0, le=1000)
    """Parameters of a run, those with the largest spike ratios, that have series of their own in `/metrics`."""
    top_scalars: int = Field(default=16, ge=0, le=256)
    """Scalars of a run that its loop logs under names of its own, the first ones, that have series in `/metrics`."""
    drain_seconds: float = Field(default=0.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds after SIGTERM in which `/readyz` answers 503 and all else is served as before: so a balancer takes the
    server out before its port closes. A second signal ends them."""
    shutdown_after_s: int = Field(default=5, ge=1)
    """Seconds that open requests may take to finish during shutdown."""

    @property
    def metrics_need_token(self) -> bool:
        """Whether `/metrics` requires a viewer's token."""
        if self.metrics_auth is not None:
            return self.metrics_auth
        # Others reach a proxy, though this process is on loopback.
        behind_proxy = self.trusted_proxy or self.proxy_token or self.root_path
        return bool(self.tls or behind_proxy) or not self.is_local

    @property
    def is_local(self) -> bool:
        """Whether the server listens on loopback only."""
        return is_loopback(f"http://[{self.host}]" if ":" in self.host else f"http://{self.host}")

    @field_validator("port", mode="before")
    @classmethod
    def _ignore_service_link(cls, given: object) -> object:
        """Kubernetes sets STEADYNORM_PORT=tcp://… in every pod beside a Service of the name steadynorm."""
        return 8470 if is_service_link(given) else given

    @model_validator(mode="after")
    def _read_secret_files(self) -> Self:
        for name in IN_FILES:
            if (file := _secret_file(name)) is None:
                continue
            variable, path = file
            if getattr(self, name) is not None:
                raise StartError(f"set {variable} or {variable.removesuffix('_FILE')}, not both.")
            try:
                secret = Path(path).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise StartError(f"{variable} must name a readable text file: {error}.") from error
            if not secret:
                raise StartError(f"{variable} names {path}, which is empty. Write the secret into it.")
            setattr(self, name, secret if name == "redis_url" else SecretStr(secret))
        return self


def read(**arguments: Any) -> ServerConfig:
    """The configuration from arguments and the environment. Raises StartError, which names the variable."""
    try:
        return ServerConfig(**arguments)
    except ValidationError as error:
        problems = [f"{_variable(str(one['loc'][0]))}: {one['msg']}, got {one['input']!r}" for one in error.errors()]
        raise StartError("; ".join(problems) + ".") from None


def misspelled(variables: Iterable[str]) -> list[str]:
    """What to say of variables that are nearly one of these, and have no effect.

    Other names are left alone: Kubernetes sets STEADYNORM_SERVICE_HOST and its like.
    """
    known = {name.upper() for name in ServerConfig.model_fields} | {f"{name.upper()}_FILE" for name in IN_FILES}
    known |= set(_OF_OTHER_PROGRAMS)
    said = []
    for variable in sorted(variables):
        name = variable.upper().removeprefix(_PREFIX)
        if name == variable.upper() or name in known:
            continue
        if near := difflib.get_close_matches(name, known, 1, 0.8):
            said.append(
                f"{variable} has no effect, as no variable has this name: did you mean {_PREFIX}{near[0]}? Restart "
                "with the right name."
            )
    return said


def _variable(field: str) -> str:
    return field if field.isupper() else f"STEADYNORM_{field.upper()}"


def _secret_file(name: str) -> tuple[str, str] | None:
    """The variable that is set to a file with this secret, and the file."""
    variables = [f"STEADYNORM_{name.upper()}_FILE", *(["REDIS_URL_FILE"] if name == "redis_url" else [])]
    return next(((each, os.environ[each]) for each in variables if os.environ.get(each)), None)
