"""The history by step and by parameter, in polars."""

# --8<-- [start:use]
import polars as pl

steps = pl.read_parquet("steps.parquet")
loss = steps.group_by(pl.col("step") // 1000).agg((pl.col("loss") * pl.col("count")).sum() / pl.col("count").sum())
worst = steps.top_k(10, by="raw_norm_max").select("step", "resolution", "raw_norm_max", "spike_parameter")

rows = pl.scan_parquet("rows.parquet")  # lazily: only what is asked for is read
by_ratio = rows.sort("spike_ratio_max", descending=True, maintain_order=True, nulls_last=True)
spiked = by_ratio.unique("parameter", keep="first", maintain_order=True).collect()
# --8<-- [end:use]
