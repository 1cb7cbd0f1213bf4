"""Parquet files for notebooks: a run's step scalars, or its per-parameter rows. Imports pyarrow on first use.

All tables have one row per record, oldest first:

    step, count, time     first step of the record, number of steps recorded in it, time of the first one
    resolution            steps per bucket; in single steps (1) minimum and maximum equal the value
    NAME, NAME_min, NAME_max      mean and extremes of the finite values; null where there are none

`steps` has the step scalars; parameter indices become names, null where a bucket holds several.
`parameters` is long: each record has a row for every parameter, in model order, with the column `parameter`.
`scalars` is long too: a row for each value that the training loop logged under a name of its own, with its `name`,
`value`, `value_min` and `value_max`; `count` is how many values a bucket holds, and `nonfinite` how many were none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from steadynorm_contract import signals
from steadynorm_contract.scalars import NONFINITE_PREFIX
from steadynorm_server.export.snapshot import LevelSnapshot
from steadynorm_server.timeseries.blocks import Block
from steadynorm_server.timeseries.rollups import LOGGED, ROWS, SCALARS, RollupScheme, with_targets

if TYPE_CHECKING:
    import pyarrow as pa

Table = Literal["steps", "parameters", "scalars"]
SCHEMES: dict[Table, RollupScheme] = {"steps": SCALARS, "parameters": ROWS, "scalars": LOGGED}

_GROUP_ROWS = 65_536
"""Of a row group, the unit that is held in memory."""
_GROUP_VALUES = 6 * 3 * _GROUP_ROWS
_LAST_TIME_S = 2.0**42  # later times overflow int64 microseconds

_BUCKET_COLUMNS: Mapping[str, tuple[str, str]] = {
    "step": ("optimizer step", "first step recorded in the bucket"),
    "count": ("steps", "steps recorded in the bucket"),
    "time": ("UTC", "when the first of them was"),
    "resolution": ("steps", "width of the bucket; 1: a single step"),
    "parameter": ("", "name of the parameter, as registered"),
    "name": ("", "name under which the training loop logged the values"),
}
"""Unit and description of the columns that describe a bucket; its values have those of the catalogue of signals."""


def write(
    file: BinaryIO,
    table: Table,
    parts: Sequence[LevelSnapshot],
    names: Sequence[str],
    eps: float,
    about: Mapping[str, object],
) -> None:
    """Write the history in `parts` to `file`, in row groups. Takes seconds: call it in a thread.

    names: of the parameters, or, for `scalars`, the columns of the run's logged ones. eps: the setting, for targets of
    raw rows. about: of the run; stored in the schema's metadata under `steadynorm`, and where pandas finds its `attrs`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(table).with_metadata(
        {"steadynorm": msgspec.json.encode(about), "PANDAS_ATTRS": msgspec.json.encode({"steadynorm": about})}
    )
    labels = pa.array(names, pa.string())
    # Dictionaries compress the repeated names; floats do not repeat.
    texts = [each.name for each in schema if pa.types.is_dictionary(each.type)]
    with pq.ParquetWriter(
        file, schema, compression="zstd", use_dictionary=texts, write_statistics=True, store_schema=True
    ) as writer:
        for group in _groups(_records(table, parts, eps), _GROUP_VALUES):
            columns = {"steps": _steps, "parameters": _rows, "scalars": _scalars}[table](group, labels)
            writer.write_batch(pa.record_batch(columns, schema=schema), row_group_size=_GROUP_ROWS)


class _Records(msgspec.Struct):
    """Some records of one level as arrays: [records], and [records, values]."""

    resolution: int
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    counts: NDArray[np.uint32]
    low: NDArray[np.float32]
    mean: NDArray[np.float32]
    high: NDArray[np.float32]
    finite: NDArray[np.uint32]


def _records(table: Table, parts: Sequence[LevelSnapshot], eps: float) -> Iterator[_Records]:
    for part in parts:
        for block, owned in part.blocks():
            yield _arrays(with_targets(block, eps) if table == "parameters" and block.is_raw else block, part, owned)


def _arrays(block: Block, part: LevelSnapshot, owned: NDArray[np.bool_]) -> _Records:
    steps, times = np.frombuffer(block.steps, np.int64)[owned], np.frombuffer(block.times, np.float64)[owned]
    counts, (low, mean, high, finite) = np.frombuffer(block.counts, np.uint32)[owned], block.values()
    return _Records(part.level.width, steps, times, counts, low[owned], mean[owned], high[owned], finite[owned])


def _groups(records: Iterable[_Records], most: int) -> Iterator[list[_Records]]:
    """Consecutive records with about `most` values (min, mean and max counted separately), at least one record."""
    group: list[_Records] = []
    size = 0
    for each in records:
        step = max(1, most // max(1, 3 * each.mean.shape[1]))
        for start in range(0, len(each.steps), step):
            at = slice(start, start + step)
            piece = _Records(
                each.resolution, each.steps[at], each.times[at], each.counts[at],
                each.low[at], each.mean[at], each.high[at], each.finite[at],
            )  # fmt: skip
            if group and size + 3 * piece.mean.size > most:
                yield group
                group, size = [], 0
            group.append(piece)
            size += 3 * piece.mean.size
    if group:
        yield group


def _schema(table: Table) -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())

    def field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
        return pa.field(name, kind, metadata={"unit": unit, "description": description})

    kinds = {"step": pa.int64(), "count": pa.uint32(), "time": pa.timestamp("us", "UTC"), "resolution": pa.uint32()}
    if table == "parameters":
        kinds["parameter"] = text
    if table == "scalars":
        kinds["name"] = text
    fields = [field(name, kind, *_BUCKET_COLUMNS[name]) for name, kind in kinds.items()]
    if table == "scalars":
        for suffix, what in (("", "mean"), ("_min", "smallest"), ("_max", "largest")):
            fields.append(field(f"value{suffix}", pa.float32(), "as logged", f"{what} of the finite values"))
        fields.append(field("nonfinite", pa.uint32(), "records", "how many were NaN or infinite"))
        return pa.schema(fields)
    for each in signals.SCALARS if table == "steps" else signals.PARAMETER_SIGNALS:
        if each.is_index:
            fields.append(field(each.name, text, each.unit, each.description))
            continue
        for suffix, prefix in (("", ""), ("_min", "smallest in the bucket: "), ("_max", "largest in the bucket: ")):
            fields.append(field(each.name + suffix, pa.float32(), each.unit, prefix + each.description))
    return pa.schema(fields)


def _steps(group: Sequence[_Records], labels: pa.Array) -> list[Any]:
    low, mean, high = (np.concatenate([getattr(each, name) for each in group]) for name in ("low", "mean", "high"))
    columns = _leading_columns(group, 1)
    for at, each in enumerate(signals.SCALARS):
        if each.is_index:
            columns.append(_named(low[:, at], high[:, at], labels))
        else:
            columns += [_floats(values[:, at]) for values in (mean, low, high)]
    return columns


def _rows(group: Sequence[_Records], labels: pa.Array) -> list[Any]:
    import pyarrow as pa

    number, wide = len(labels), len(signals.PARAMETER_SIGNALS)
    columns = _leading_columns(group, number)
    records = sum(len(each.steps) for each in group)
    columns.append(pa.DictionaryArray.from_arrays(np.tile(np.arange(number, dtype=np.int32), records), labels))
    values = [
        np.concatenate([getattr(each, name).reshape(-1, wide) for each in group]) for name in ("mean", "low", "high")
    ]
    for at in range(wide):
        columns += [_floats(each[:, at]) for each in values]
    return columns


def _scalars(group: Sequence[_Records], labels: pa.Array) -> list[Any]:
    """A row for each name of a record that has a value, or had one that was not finite."""
    import pyarrow as pa

    columns: list[str] = labels.to_pylist()
    places = {name: at for at, name in enumerate(columns)}
    names = [name for name in columns if not name.startswith(NONFINITE_PREFIX)]
    at = np.array([places[name] for name in names], np.int64)
    low, mean, high, finite = (
        np.concatenate([getattr(each, name) for each in group]) for name in ("low", "mean", "high", "finite")
    )
    bad = np.zeros((len(mean), len(names)), np.uint32)
    for place, name in enumerate(names):
        if (flag := places.get(NONFINITE_PREFIX + name)) is not None:  # its mean is the share of 1 in its values
            bad[:, place] = np.round(np.nan_to_num(mean[:, flag]) * finite[:, flag])
    rows, cells = np.nonzero((finite[:, at] > 0) | (bad > 0))
    leading = [column.take(pa.array(rows)) for column in _leading_columns(group, 1)]
    leading[1] = pa.array(finite[rows, at[cells]] + bad[rows, cells], pa.uint32())
    return [
        *leading,
        pa.DictionaryArray.from_arrays(pa.array(cells.astype(np.int32)), pa.array(names, pa.string())),
        *(_floats(values[rows, at[cells]]) for values in (mean, low, high)),
        pa.array(bad[rows, cells]),
    ]


def _leading_columns(group: Sequence[_Records], repeated: int) -> list[Any]:
    """step, count, time and resolution, each record's `repeated` times."""
    import pyarrow as pa

    times = np.repeat(np.concatenate([each.times for each in group]), repeated)
    with np.errstate(invalid="ignore"):
        good = np.abs(times) < _LAST_TIME_S
    micros = np.round(np.where(good, times, 0.0) * 1e6).astype(np.int64)
    resolutions = np.concatenate([np.full(len(each.steps), each.resolution, np.uint32) for each in group])
    return [
        pa.array(np.repeat(np.concatenate([each.steps for each in group]), repeated)),
        pa.array(np.repeat(np.concatenate([each.counts for each in group]), repeated)),
        pa.array(micros, pa.int64(), mask=~good).cast(pa.timestamp("us", "UTC")),
        pa.array(np.repeat(resolutions, repeated)),
    ]


def _floats(values: NDArray[np.float32]) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.ascontiguousarray(values), pa.float32(), from_pandas=True)  # NaN becomes null


def _named(low: NDArray[np.float32], high: NDArray[np.float32], labels: pa.Array) -> pa.DictionaryArray:
    """The parameter whose index is the same throughout a bucket."""
    import pyarrow as pa

    with np.errstate(invalid="ignore"):
        good = (low == high) & (low >= 0) & (low < len(labels))
    indices = np.where(good, low, 0).astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32(), mask=~good), labels)
