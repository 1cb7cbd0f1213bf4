"""The catalogue of signals: every number that a run records, with its unit, one sentence about it, and its scale.

Charts, tooltips, tables, Parquet columns, `/metrics`, Grafana's panels and the docs take their words from here.

    signal("loss")                          a scalar: one value every step
    signal("spike_ratio/blocks.0.weight")   a parameter's, by the name of its series; `signal("norm_mean")` does as well
"""

from typing import Literal

import msgspec

from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET

__all__ = ["DERIVED", "PARAMETER_SIGNALS", "SCALARS", "Signal", "signal"]


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One signal.

    Attributes:
        name: Of the column, the series and the JSON field.
        title: For people: of a chart, a table's column, a line in a legend.
        unit: "gradient" is the unit of the gradient itself, "1" a ratio, "" no number.
        subtitle: A few words that a chart's title is followed by: what exactly is drawn.
        description: One plain sentence.
        scale: Of a chart's axis.
        kind: Whether there is one value a step, or one for each parameter.
        metric: The metric in `/metrics`; None: it is not exported.
        threshold: Where charts draw a line; None: nowhere.
        worst: The end of a bucket that must not be lost: the largest value, or the smallest one.
        is_index: Whether the value is an index into the run's parameter table; people see the parameter's name.
        recorded: Whether the agent sends it. Otherwise it is computed from what it sends.
    """

    name: str
    title: str
    unit: str
    subtitle: str = ""
    description: str
    scale: Literal["linear", "log"] = "linear"
    kind: Literal["scalar", "parameter"] = "scalar"
    metric: str | None = None
    threshold: float | None = None
    worst: Literal["max", "min"] = "max"
    is_index: bool = False
    recorded: bool = True


# fmt: off
SCALARS = (
    Signal(
        name="loss", title="loss", unit="as logged", subtitle="as logged", metric="steadynorm_loss",
        description="Training loss as the training loop logged it; NaN in steps without one.",
    ),
    Signal(
        name="learning_rate", title="learning rate", unit="per step", subtitle="per step",
        metric="steadynorm_learning_rate", description="Learning rate of the first parameter group, before lr_scale.",
    ),
    Signal(
        name="raw_norm", title="raw norm", unit="gradient", subtitle="L2 over all parameters", scale="log",
        metric="steadynorm_raw_norm", description="L2 norm of the gradient over all parameters, before the stabilizer.",
    ),
    Signal(
        name="stabilized_norm", title="stabilized norm", unit="gradient", subtitle="L2 over all parameters",
        scale="log", metric="steadynorm_stabilized_norm",
        description="L2 norm of the gradient over all parameters, after the stabilizer.",
    ),
    Signal(
        name="target_min", title="smallest target", unit="1", subtitle="mean norm / RMS norm",
        metric="steadynorm_target_min", threshold=THROTTLED_TARGET, worst="min",
        description=(
            "Smallest target of all parameters: about 1 in calm training; "
            f"below {THROTTLED_TARGET:g} updates are too small, because of a spike or of falling norms."
        ),
    ),
    Signal(
        name="target_parameter", title="parameter with the smallest target", unit="", is_index=True,
        description="The parameter with the smallest target.",
    ),
    Signal(
        name="spike_ratio_max", title="largest spike ratio", unit="1", subtitle="norm / its baseline",
        scale="log", metric="steadynorm_spike_ratio_max", threshold=SPIKE_RATIO,
        description=f"Largest spike ratio of all parameters; above {SPIKE_RATIO:g} it is a spike.",
    ),
    Signal(
        name="spike_parameter", title="parameter with the largest spike ratio", unit="", is_index=True,
        description="The parameter with the largest spike ratio.",
    ),
    Signal(
        name="spikes", title="spikes", unit="parameters", subtitle=f"spike ratio above {SPIKE_RATIO:g}",
        metric="steadynorm_spikes_total",
        description=f"Parameters with a spike ratio above {SPIKE_RATIO:g}, counted once in each step.",
    ),
    Signal(
        name="nonfinite", title="non-finite gradients", unit="parameters", subtitle="NaN or infinite",
        metric="steadynorm_nonfinite_total",
        description="Parameters with a NaN or infinite gradient, counted once in each step.",
    ),
    Signal(
        name="nonfinite_parameter", title="first non-finite parameter", unit="", is_index=True,
        description="The first parameter with a NaN or infinite gradient, in model order; -1 if there is none.",
    ),
    Signal(
        name="throttled", title="throttled parameters", unit="parameters",
        subtitle="held back by a spike",
        description=(
            f"Parameters whose target a spike in the statistics keeps below {THROTTLED_TARGET:g}, "
            "counted once in each step."
        ),
    ),
    Signal(
        name="loss_nonfinite", title="non-finite losses", unit="steps", subtitle="NaN or infinite",
        description="Whether the logged loss of the step was NaN or infinite: 1, else 0.",
    ),
    Signal(
        name="faded", title="faded parameters", unit="parameters", subtitle="step reduced by spike_fade",
        metric="steadynorm_tensors_faded_total",
        description="Parameters whose step `spike_fade` reduced, counted once in each step.",
    ),
)
"""One value a step, in the order in which they travel."""

PARAMETER_SIGNALS = (
    Signal(
        name="raw_norm", kind="parameter", title="raw norm", unit="gradient", subtitle="L2 of this tensor", scale="log",
        description="L2 norm of the parameter's gradient, before the stabilizer.",
    ),
    Signal(
        name="norm_mean", kind="parameter", title="mean norm", unit="gradient", subtitle="gamma1", scale="log",
        description="Exponential moving average of the norm, with decay gamma1.",
    ),
    Signal(
        name="norm_rms", kind="parameter", title="RMS norm", unit="gradient", subtitle="gamma2", scale="log",
        description="Root of the exponential moving average of the squared norm, with decay gamma2.",
    ),
    Signal(
        name="scale", kind="parameter", title="scale", unit="1", subtitle="factor on the gradient", scale="log",
        description="Factor that the parameter's gradient was multiplied by; 0 where a non-finite one became zero.",
    ),
    Signal(
        name="spike_ratio", kind="parameter", title="spike ratio", unit="1", subtitle="norm / its baseline",
        scale="log", metric="steadynorm_parameter_spike_ratio", threshold=SPIKE_RATIO,
        description=(
            f"Norm divided by its baseline, a mean of recent norms that no spike raises much; "
            f"above {SPIKE_RATIO:g} it is a spike."
        ),
    ),
    Signal(
        name="target", kind="parameter", title="target", unit="1", subtitle="mean norm / RMS norm",
        threshold=THROTTLED_TARGET, worst="min", recorded=False,
        description=(
            "norm_mean / (norm_rms + eps): about 1 in calm training; "
            f"below {THROTTLED_TARGET:g} the update is too small, because of a spike or of falling norms."
        ),
    ),
)
"""One value for each parameter, in the order in which they travel; what is not recorded comes last."""

DERIVED = (
    Signal(
        name="steps_per_s", title="speed", unit="steps/s", subtitle="optimizer steps a second", recorded=False,
        description="Optimizer steps per second.",
    ),
    Signal(
        name="spike_ratio_max", kind="parameter", title="largest ratio", unit="1", subtitle="since the run began",
        scale="log", threshold=SPIKE_RATIO, recorded=False,
        description="Largest spike ratio of the parameter since the run began.",
    ),
    Signal(
        name="spikes", kind="parameter", title="spikes", unit="rows", subtitle="since the run began", recorded=False,
        description=f"Recorded rows of the parameter with a spike ratio above {SPIKE_RATIO:g}, since the run began.",
    ),
)
# fmt: on
"""Computed from the others; no series of their own."""

_SCALARS = {each.name: each for each in DERIVED + SCALARS if each.kind == "scalar"}
_PARAMETERS = {each.name: each for each in DERIVED + PARAMETER_SIGNALS if each.kind == "parameter"}


def signal(name: str) -> Signal:
    """The signal of a column, a series or a JSON field.

    Args:
        name: A scalar's name; COLUMN/PARAMETER, of which the parameter is ignored and may be empty; or COLUMN alone
            where no scalar has that name.

    Returns:
        Its entry in the catalogue.

    Raises:
        KeyError: There is no such signal.
    """
    column, of_parameter, _ = name.partition("/")
    return _PARAMETERS[column] if of_parameter or column not in _SCALARS else _SCALARS[column]
