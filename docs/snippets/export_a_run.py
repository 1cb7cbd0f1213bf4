"""Write a run's history as Parquet. RUN_ID names the run."""

import os

# --8<-- [start:imports]
from steadynorm import Client

# --8<-- [end:imports]
run_id = os.environ["RUN_ID"]
# --8<-- [start:export]
with open("steps.parquet", "wb") as file:
    Client().export(run_id, file)
# --8<-- [end:export]
