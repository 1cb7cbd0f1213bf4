"""Change a run from a program. RUN_ID names a run that trains."""

import os

# --8<-- [start:imports]
from steadynorm import Client
from steadynorm_contract.client import Conflict

# --8<-- [end:imports]
run_id = os.environ["RUN_ID"]
# --8<-- [start:change]
client = Client()  # your own server, or $STEADYNORM_SERVER with $STEADYNORM_TOKEN
run = client.run(run_id)
try:
    client.change(run_id, {"lr_scale": 0.5}, revision=run.desired.revision, reason="spikes since step 4000")
except Conflict:
    print("the settings were changed concurrently: read them again")
# --8<-- [end:change]
