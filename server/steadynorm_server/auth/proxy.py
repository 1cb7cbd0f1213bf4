"""Who a proxy says has signed in, as oauth2-proxy does in front of OpenID Connect.

STEADYNORM_TRUSTED_PROXY=10.1.2.3,10.4.0.0/16   these addresses may say so; anybody else's header is ignored and counted
STEADYNORM_PROXY_TOKEN=…                        who has it may say so too: a dashboard behind such a proxy
STEADYNORM_PROXY_USER_HEADER=X-Forwarded-Email  the name, as the audit list shows it
STEADYNORM_PROXY_GROUPS_HEADER=X-Forwarded-Groups
STEADYNORM_OPERATOR_GROUPS=ml-oncall            members are operators; STEADYNORM_VIEWER_GROUPS, members are viewers
"""

import hmac
from collections.abc import Callable
from typing import Self

from starlette.datastructures import Headers

from steadynorm_contract.networks import Network, is_within, read_networks
from steadynorm_server.auth.principals import Principal, Role, roles_granted, token_digest
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import ProblemError, StartError

EVERYBODY = "*"
_LONGEST_NAME = 200


class TrustedProxy:
    """Reads the headers of a proxy that is trusted. on_ignored: called for each header of anybody else."""

    def __init__(self, config: ServerConfig, on_ignored: Callable[[], object] = lambda: None) -> None:
        self._networks = networks(config.trusted_proxy)
        token = config.proxy_token
        self._token = None if token is None else token_digest(token.get_secret_value())
        self._user, self._groups = config.proxy_user_header, config.proxy_groups_header
        self._members = {
            Role.OPERATOR: _listed(config.operator_groups),
            Role.VIEWER: _listed(config.viewer_groups),
        }
        self._on_ignored = on_ignored

    @classmethod
    def of(cls, config: ServerConfig, on_ignored: Callable[[], object]) -> Self | None:
        """None where no proxy is trusted. Raises StartError."""
        return cls(config, on_ignored) if config.trusted_proxy or config.proxy_token else None

    def find(self, peer: str | None, headers: Headers) -> Principal | None:
        """Who signed in at the proxy; None where no trusted one says. peer: the address at the other end of TCP.

        Raises a 400 problem for a name that a proxy did not make, a 401 problem for a dashboard's token without a name,
        and a 403 problem for a name without a role.
        """
        given = headers.getlist(self._user)
        if not given:
            if self._is_told_by(headers):
                raise ProblemError(
                    401, f"the dashboard's token alone is nobody: a header {self._user} must name a person."
                )
            return None
        if not self._trusts(peer, headers):
            self._on_ignored()
            return None
        name = given[0].encode("latin-1").decode("utf-8", "replace").strip()
        if len(given) > 1 or not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise ProblemError(
                400,
                f"the proxy must send one header {self._user} with a name of 1 to {_LONGEST_NAME} printable "
                "characters, in place of any that a client sent.",
            )
        listed = headers.getlist(self._groups)
        if len(listed) > 1:
            raise ProblemError(
                400,
                f"the proxy must send one header {self._groups}, with commas between the groups, in place of any that "
                f"a client sent: got {len(listed)}.",
            )
        groups = {group for value in listed for group in _listed(value)}
        for role, members in self._members.items():
            if EVERYBODY in members or groups & members:
                return Principal(name, roles_granted(role))
        raise ProblemError(
            403,
            f"{name!r} has no role here: ask to be added to a group of STEADYNORM_VIEWER_GROUPS or "
            "STEADYNORM_OPERATOR_GROUPS.",
        )

    def _trusts(self, peer: str | None, headers: Headers) -> bool:
        return is_within(peer, self._networks) or self._is_told_by(headers)

    def _is_told_by(self, headers: Headers) -> bool:
        """Whether the request has the token of a dashboard that may name people."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return (
            self._token is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(token_digest(token.strip()), self._token)
        )


def networks(text: str) -> list[Network]:
    """Addresses and networks, separated by commas. Raises StartError."""
    try:
        return read_networks(text)
    except ValueError as error:
        raise StartError(str(error)) from None


def findings(config: ServerConfig) -> list[str]:
    """What is unsafe about the trusted proxies, for the log. Raises StartError."""
    local = [str(each) for each in networks(config.trusted_proxy) if each.is_loopback]
    if not local:
        return []
    return [
        f"STEADYNORM_TRUSTED_PROXY trusts {', '.join(local)}: every user and program of this machine can name anybody "
        "there, operators too, and so can visitors of a proxy that passes such headers on. Let the proxy that signs "
        "people in connect from an address of its own."
    ]


def _listed(text: str) -> set[str]:
    return {each.strip() for each in text.split(",") if each.strip()}
