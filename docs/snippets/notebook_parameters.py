"""The history by parameter, in pandas."""

# --8<-- [start:use]
import pandas as pd

rows = pd.read_parquet("rows.parquet", columns=["step", "parameter", "raw_norm_max", "spike_ratio_max"])

# Wide, where that is wanted: a column for each parameter.
norms = rows.pivot_table(index="step", columns="parameter", values="raw_norm_max", aggfunc="max", observed=True)

# Who spiked most, and when.
spiked = rows.loc[rows.groupby("parameter", observed=True)["spike_ratio_max"].idxmax()]
# --8<-- [end:use]
