"""Write a run's history as Parquet. RUN_ID names the run."""

import os

run_id = os.environ["RUN_ID"]
# --8<-- [start:export]
from steadynorm_contract.client import Client  # noqa: E402

with open("steps.parquet", "wb") as file:
    Client().export(run_id, file)
# --8<-- [end:export]
