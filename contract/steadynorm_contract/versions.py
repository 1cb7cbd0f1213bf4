"""What to do where an agent and a server of two versions do not understand each other, in one sentence."""

import re

__all__ = ["versions_differ"]


def versions_differ(agent: str, server: str) -> str:
    """One sentence that names both versions and what to do; empty where they are the same or one is not known."""
    if not agent or not server or agent == server:
        return ""
    mend = f"install steadynorm=={server} in the job"
    if _numbers(agent) > _numbers(server):
        mend = f"upgrade the server, or {mend}"
    return f"The agent is steadynorm {agent} and the server is {server}: {mend}."


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
