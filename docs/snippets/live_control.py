"""Schedules and watch rules from a program. RUN_ID names a run that trains."""

import os

# --8<-- [start:imports]
from steadynorm import Client
from steadynorm_contract.watch_rules import WatchRule, parse_condition

# --8<-- [end:imports]
run_id = os.environ["RUN_ID"]
# --8<-- [start:control]
client = Client()
client.schedule(run_id, 10_000, {"gamma2": 0.999}, reason="long memory once the warm-up is over")

known = client.rules(run_id)
rule = WatchRule(id="broken", when=parse_condition("nonfinite > 0, 3 times"), settings={"paused": True})
client.set_rules(run_id, [*(each.rule for each in known.rules), rule], revision=known.revision)
# --8<-- [end:control]
