"""What the server can be told, by arguments or by `STEADYNORM_*` variables.

    ServerSettings()                        from the environment
    ServerSettings(port=0, data=folder)     arguments win over the environment

STEADYNORM_HOST, _PORT, _DATA, _DASHBOARD_URL     where it listens, keeps its files, and what its links point to
STEADYNORM_WORKERS                                how many processes serve
REDIS_URL (or STEADYNORM_REDIS_URL)               a Redis or Valkey of yours; without it the embedded one is started
STEADYNORM_OPERATOR_TOKEN, _AGENT_TOKEN, _VIEWER_TOKEN, _TOKENS_FILE      who may do what, see `auth`
STEADYNORM_OPERATOR_TOKEN_PREVIOUS, _AGENT_TOKEN_PREVIOUS, _VIEWER_TOKEN_PREVIOUS                  good beside them
STEADYNORM_TLS, _TLS_CERT, _TLS_KEY               how what comes from other machines is encrypted, see `serve`
STEADYNORM_RATE_PER_RUN, _RATE_PER_TOKEN, _REQUEST_WITHIN_S, _MAX_CONNECTIONS      limits of one process
STEADYNORM_LOG, _LOG_LEVEL                        text or json; info: every request too
STEADYNORM_METRICS_AUTH                           true: /metrics wants a viewer's token
STEADYNORM_STALLED_AFTER_S, _FORGET_AFTER_S, _TOP_PARAMETERS               judgements and the size of /metrics
STEADYNORM_RETENTION_DAYS, _RUN_MIB, _RUN_MIB_CEILING                      how long runs are kept, and how much of each
STEADYNORM_WEBHOOKS_FILE                          who is told of events, see `webhook_file`
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from steadynorm_contract.discovery import data_dir

__all__ = ["ServerConfig"]


class ServerConfig(BaseSettings):
    """Settings of one server process. Raises pydantic's ValidationError naming the variable."""

    model_config = SettingsConfigDict(
        env_prefix="STEADYNORM_", env_ignore_empty=True, populate_by_name=True, extra="ignore"
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8470, ge=0, le=65535)
    """0: any free port. The address is printed and stands in server.json."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes on this port: what one of them can take, a core more takes as much again. See `workers`."""
    data: Path = Field(default_factory=data_dir)
    """Folder of the token, server.json and the embedded store. Made if absent, readable by the owner only."""
    redis_url: str | None = Field(
        default=None, validation_alias=AliasChoices("STEADYNORM_REDIS_URL", "REDIS_URL", "redis_url")
    )
    """redis://, rediss:// or unix:// address of your store, redis+cluster:// of a cluster; None: the embedded one."""
    dashboard_url: str | None = None
    """Where the dashboard is: goes into server.json and the printed links."""

    operator_token: SecretStr | None = None
    agent_token: SecretStr | None = None
    viewer_token: SecretStr | None = None
    operator_token_previous: SecretStr | None = None
    agent_token_previous: SecretStr | None = None
    viewer_token_previous: SecretStr | None = None
    """Good beside the present ones, for as long as it takes everybody to change over."""
    tokens_file: Path | None = None
    webhooks_file: Path | None = None
    metrics_auth: bool = False

    tls: Literal["", "terminated"] = ""
    """terminated: who comes from beyond this machine passes a proxy that speaks TLS."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    """PEM files, both or none: the server speaks TLS itself."""
    rate_per_run: float = Field(default=50.0, ge=0, allow_inf_nan=False)
    """Requests a second of one agent token about one run, in each process. 0: any number."""
    rate_per_token: float = Field(default=5000.0, ge=0, allow_inf_nan=False)
    """Requests a second of one token in all, in each process. 0: any number."""
    request_within_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """A request's body must have arrived within this time, its head within a third of it."""
    max_connections: int = Field(default=20_000, ge=1)
    """Open connections of one process; further ones are answered 503."""

    log: Literal["text", "json"] = "text"
    """json: one object a line, see `logs`."""
    log_level: Literal["warning", "info"] = "warning"
    """info: a line for each request too."""

    stalled_after_s: float = Field(default=30.0, gt=0)
    """A run without telemetry for this long is stalled."""
    forget_after_s: float = Field(default=86_400.0, gt=0)
    """A run stalled for this long leaves /metrics, so that nobody is alerted for ever."""
    retention_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """A run of which nothing was heard for this long is removed with its data, see `retention`. None: never."""
    run_mib: float = Field(default=64.0, ge=1, allow_inf_nan=False)
    """What one run may take in the store; beyond it the oldest of its finest history goes first, see `room`."""
    run_mib_ceiling: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """As much as operators may let one run take. None: `run_mib`, so that they can only have a run take less."""
    top_parameters: int = Field(default=10, ge=0, le=1000)
    """How many parameters of a run, by spike ratio, have series of their own in /metrics."""
    shutdown_after_s: int = Field(default=5, ge=1)
    """How long open requests may go on once the server was told to stop."""
