"""What operators did with a run as a whole, as it is stored with the run: its shown name, archiving, deletion.

Neither archiving nor deletion outlasts a sign of life: a run whose agent is heard from later is listed again, without a
write.
"""

import msgspec

from steadynorm_contract.lifecycle import LifecycleChange


class Lifecycle(msgspec.Struct, frozen=True):
    """The value of the hash's field `lifecycle`. Times are Unix seconds."""

    title: str = ""  # the shown name; empty: the agent's. Tokens go by the agent's, in the hash's field `name`
    archived_at: float | None = None
    deleted_at: float | None = None
    removes_at: float | None = None  # when a deleted run is removed with its data
    changes: list[LifecycleChange] = []  # newest first
