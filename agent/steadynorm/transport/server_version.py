"""Settings from a server of another version: what this agent cannot know is left out while it changes nothing."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from steadynorm.mailbox import InvalidSettings, SettingsUpdate
from steadynorm_contract import __version__
from steadynorm_contract.codec import MalformedMessage, decode_json, encode_json
from steadynorm_contract.settings import Settings, SettingsError
from steadynorm_contract.telemetry import Desired
from steadynorm_contract.versions import versions_differ

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""Of revisions, registrations or batches: what comes from a server is sent back to it, and must be encodable."""
MAX_TEXT = 500


class KnownServer:
    """What the server said of itself at the registration. Both threads' clients share one.

    Attributes:
        version: Of steadynorm; empty: not known.
        defaults: Its default settings. A setting that this agent does not know does nothing at its default.
    """

    def __init__(self) -> None:
        self.version = ""
        self.defaults: dict[str, Any] = {}

    def read(self, data: bytes) -> SettingsUpdate:
        """Desired settings as JSON. Raises MalformedMessage where there is not even a revision."""
        revision = decode_json(data, _Revision).revision
        try:
            return decode_json(data, Desired)
        except (SettingsError, MalformedMessage) as error:
            problem: Exception = error
        try:
            return self._read_known(data)
        except (SettingsError, MalformedMessage) as error:
            problem = error
        advice = versions_differ(__version__, self.version)
        why = one_line(str(problem)).rstrip(".")
        reason = f"this agent cannot read the settings: {why}. {advice}"
        return InvalidSettings(revision, reason.rstrip())

    def _read_known(self, data: bytes) -> Desired:
        given = decode_json(data, _Given)
        known = {name: value for name, value in given.settings.items() if name in Settings.__struct_fields__}
        nothing = object()
        asked = [
            name
            for name, value in given.settings.items()
            if name not in known and self.defaults.get(name, nothing) != value
        ]
        if asked:
            raise MalformedMessage(f"it does not have {', '.join(asked)}")
        return decode_json(encode_json({"revision": given.revision, "settings": known}), Desired)


def one_line(text: str) -> str:
    """Text of a server, which may be of any length, as it is told."""
    return " ".join(text[: 2 * MAX_TEXT].split())[:MAX_TEXT]


class _Revision(msgspec.Struct):
    revision: Count


class _Given(_Revision):
    settings: dict[str, Any]
