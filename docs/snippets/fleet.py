"""The runs in trouble, from a program."""

# --8<-- [start:use]
from steadynorm import Client

answer = Client().fleet(health=["nonfinite", "spiking"], tag=["team=speech"], search="gpt", limit=50)
for run in answer.runs:
    print(run.name, run.health, run.last_change and run.last_change.actor)
# --8<-- [end:use]
