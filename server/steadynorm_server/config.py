"""The server's configuration, by arguments or by `STEADYNORM_*` variables. The documentation's table is made from it.

ServerConfig()                        from the environment
ServerConfig(port=0, data=folder)     arguments win over the environment
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from steadynorm_contract.discovery import data_dir


class ServerConfig(BaseSettings):
    """Configuration of one server process. Raises pydantic's ValidationError naming the variable."""

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
    `redis+cluster://one:6379,two:6379` or `rediss+cluster://`. Unset: an embedded one is started."""
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
    """More tokens, with names and, for agents, the run names they are valid for. Read again when it changes."""
    webhooks_file: Path | None = None
    """The webhooks that events are sent to."""
    metrics_auth: bool = False
    """Whether `/metrics` requires a viewer's token."""

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
    shutdown_after_s: int = Field(default=5, ge=1)
    """Seconds that open requests may take to finish during shutdown."""
