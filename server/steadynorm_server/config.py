"""The server's configuration, from arguments or `STEADYNORM_*` variables.

    ServerConfig()                          from the environment
    ServerConfig(port=0, data=folder)       arguments win over the environment

STEADYNORM_HOST, _PORT, _DATA, _DASHBOARD_URL     address, data folder, dashboard of its links
STEADYNORM_WORKERS                                worker processes
REDIS_URL (or STEADYNORM_REDIS_URL)               your Redis or Valkey; without it the embedded one is started
STEADYNORM_OPERATOR_TOKEN, _AGENT_TOKEN, _VIEWER_TOKEN, _TOKENS_FILE      tokens and their roles, see auth/tokens.py
STEADYNORM_OPERATOR_TOKEN_PREVIOUS, _AGENT_TOKEN_PREVIOUS, _VIEWER_TOKEN_PREVIOUS      also valid, for rotation
STEADYNORM_TLS, _TLS_CERT, _TLS_KEY               TLS for other machines, see runtime/serve.py
STEADYNORM_RATE_PER_RUN, _RATE_PER_TOKEN, _REQUEST_WITHIN_S, _MAX_CONNECTIONS      limits of one process
STEADYNORM_LOG, _LOG_LEVEL                        text or json; info: every request too
STEADYNORM_METRICS_AUTH                           true: /metrics requires a viewer's token
STEADYNORM_STALLED_AFTER_S, _FORGET_AFTER_S, _TOP_PARAMETERS               stalled runs and the size of /metrics
STEADYNORM_RETENTION_DAYS, _RUN_MIB, _RUN_MIB_CEILING                      retention of runs
STEADYNORM_WEBHOOKS_FILE                          webhooks, see webhooks/config.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from steadynorm_contract.discovery import data_dir

__all__ = ["ServerConfig"]


class ServerConfig(BaseSettings):
    """Configuration of one server process. Raises pydantic's ValidationError naming the variable."""

    model_config = SettingsConfigDict(
        env_prefix="STEADYNORM_", env_ignore_empty=True, populate_by_name=True, extra="ignore"
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8470, ge=0, le=65535)
    """0: any free port. The address is printed and is in server.json."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes on this port; throughput grows with them as long as each has a core. See runtime/workers.py."""
    data: Path = Field(default_factory=data_dir)
    """Folder of the token, server.json and the embedded Redis. Created if absent, readable by the owner only."""
    redis_url: str | None = Field(
        default=None, validation_alias=AliasChoices("STEADYNORM_REDIS_URL", "REDIS_URL", "redis_url")
    )
    """redis://, rediss:// or unix:// address of your Redis, redis+cluster:// of a cluster; None: the embedded one."""
    dashboard_url: str | None = None
    """Address of the dashboard, for server.json and links."""

    operator_token: SecretStr | None = None
    agent_token: SecretStr | None = None
    viewer_token: SecretStr | None = None
    operator_token_previous: SecretStr | None = None
    agent_token_previous: SecretStr | None = None
    viewer_token_previous: SecretStr | None = None
    """Valid beside the current ones during a rotation."""
    tokens_file: Path | None = None
    webhooks_file: Path | None = None
    metrics_auth: bool = False

    tls: Literal["", "terminated"] = ""
    """terminated: requests from other machines come through a proxy that terminates TLS."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    """PEM files, both or none: the server terminates TLS itself."""
    rate_per_run: float = Field(default=50.0, ge=0, allow_inf_nan=False)
    """Requests a second of one agent token about one run, in each process. 0: unlimited."""
    rate_per_token: float = Field(default=5000.0, ge=0, allow_inf_nan=False)
    """Requests a second of one token, in each process. 0: unlimited."""
    request_within_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Time for a request's body to arrive; its headers have a third of it."""
    max_connections: int = Field(default=20_000, ge=1)
    """Open connections of one process; further ones get 503."""

    log: Literal["text", "json"] = "text"
    """json: one object a line, see runtime/logging.py."""
    log_level: Literal["warning", "info"] = "warning"
    """info: also a line for each request."""

    stalled_after_s: float = Field(default=30.0, gt=0)
    """A run without telemetry for this long is stalled."""
    forget_after_s: float = Field(default=86_400.0, gt=0)
    """A run stalled for this long leaves /metrics, so that its alerts end."""
    retention_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """A run without requests of its agent for this long is removed with its data, see retention/. None: never."""
    run_mib: float = Field(default=64.0, ge=1, allow_inf_nan=False)
    """Size limit of one run in Redis; beyond it the oldest of its finest history is removed, see retention/."""
    run_mib_ceiling: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """The largest limit that operators may set for a run. None: `run_mib`, so they can only lower it."""
    top_parameters: int = Field(default=10, ge=0, le=1000)
    """How many parameters of a run, the highest by spike ratio, have series of their own in /metrics."""
    shutdown_after_s: int = Field(default=5, ge=1)
    """Time for open requests to complete after SIGTERM."""
