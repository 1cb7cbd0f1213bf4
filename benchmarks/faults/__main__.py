"""What happens when parts fail: one command a fault, one JSON object a run. docs/reliability.md has the figures.

    python benchmarks/faults black-hole|reset|trickle|garbage [--seconds 60]    the network between agents and server
    python benchmarks/faults reconnect [--agents 1000]         a server that is gone for a while, and all who come back
    python benchmarks/faults two-servers                       one of two is killed under load
    python benchmarks/faults cluster-primary                   a primary of a Redis Cluster is killed under load
    python benchmarks/faults clock                             the server's clock is set a day ahead, then two back
    python benchmarks/faults soak [--seconds 2400]             memory and descriptors over time
    python benchmarks/faults decoder [--seconds 600]           atheris on what agents send (pip install atheris)

Exits with status 1 where a promise is broken. Needs redis-server for cluster-primary.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]  # ingest_agents, and tests.support for the cluster

from clock_fault import clock  # noqa: E402
from decoder_fuzz import decoder  # noqa: E402
from killed_parts import cluster_primary, reconnect, two_servers  # noqa: E402
from network_faults import FAULTS, network  # noqa: E402
from soak import soak  # noqa: E402

SCENARIOS = {
    "reconnect": reconnect, "two-servers": two_servers, "cluster-primary": cluster_primary, "clock": clock,
    "soak": soak,
}  # fmt: skip
SECONDS = {"soak": 2400.0, "decoder": 600.0}
AGENTS = {"reconnect": 1000, "soak": 20}


def main() -> None:
    """Run one fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", choices=[*FAULTS, *SCENARIOS, "decoder"])
    parser.add_argument("--seconds", type=float, help="in all; a third of it before the fault, a third with it")
    parser.add_argument("--agents", type=int)
    given = parser.parse_args()
    seconds = given.seconds or SECONDS.get(given.fault, 60.0)
    agents = given.agents or AGENTS.get(given.fault, 50)
    if given.fault == "decoder":
        decoder(seconds)
        return
    if given.fault in FAULTS:
        outcome = asyncio.run(network(given.fault, agents, seconds))
    else:
        outcome = asyncio.run(SCENARIOS[given.fault](agents, seconds))
    print(json.dumps({"fault": given.fault, **outcome.told()}, indent=1))
    if outcome.broken:
        sys.exit(1)


if __name__ == "__main__":
    main()
