"""The history by step, in pandas."""

# --8<-- [start:use]
import pandas as pd

steps = pd.read_parquet("steps.parquet")
run = steps.attrs["steadynorm"]
print(run["name"], run["applied"]["settings"]["gamma2"])

# The loss, each record weighted by its steps, a row for every thousand.
by_thousand = steps.assign(weighted=steps["loss"] * steps["count"]).groupby(steps["step"] // 1000)
loss = by_thousand["weighted"].sum() / by_thousand["count"].sum()

# Where the norm was at its largest, and the ten worst records of all.
worst = steps.nlargest(10, "raw_norm_max")[["step", "resolution", "raw_norm_max", "spike_parameter"]]
# --8<-- [end:use]
