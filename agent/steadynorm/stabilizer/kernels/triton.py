"""The Triton kernels of the multi-tensor path: measure the gradients of one dtype, decide, and scale them.

`plan` has the order, `launcher` the tables and the launches; `selection` decides whether this file is used. The rule is
that of `steadynorm_contract.rule`, written a third time: on scalars, in the program that scales a part of a gradient.

A tensor is split into chunks, and one program processes one chunk. A launch of `step_kernel` has two roles, so that the
gradients of one wave are scaled out of L2 while the next wave is measured:

    measure   each program writes its chunk's sum of squares into a slot of its own: no atomics, so the sum is the same
              every time. The first chunk's program also copies the tensor's state into `before`.
    scale     each program adds up its tensor's slots, in one order, and applies the rule to `before`: all programs of a
              tensor decide alike. Only the first chunk's program writes the new state, which no program reads.

What was measured last is scaled first, down to the blocks of a chunk: it is the most likely to be in L2.

In mode `clip` and for sharded tensors all is measured before anything is scaled. Then `norms_kernel` writes each norm,
ranks that hold shards of a tensor add up what they measured, `total_clip` takes the factor from the norms, and the
scaling programs read the norm of the whole.

Everything that can change (addresses, settings, the mode of the previous step) is read from device memory: a captured
CUDA graph follows settings, and a change of them compiles nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from steadynorm.stabilizer.kernels.plan import MOST_CHUNKS
from steadynorm_contract import rule

OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}
"""Compiler options. Fused multiply-add is allowed: it does not round the product. Tune with benchmarks/gpu_step.py."""

ABSENT = 0
"""In place of an address: no gradient in this step."""
ELSEWHERE = 1
"""In place of an address: torch measures and scales this one; its norm is in `norms`."""
_ELSEWHERE: tl.constexpr = tl.constexpr(ELSEWHERE)

TABLES = (
    "columns",  # int32 [chunks]: the tensor of each chunk
    "first_chunks",  # int32 [P]: first chunk of each tensor
    "chunk_counts",  # int32 [P]: its number of chunks, at least one
    "chunk_lengths",  # int32 [P]: elements of its chunks, the last one's excepted
    "sizes",  # int64 [P]: its elements
    "slots",  # float32 [chunks]: partial sums
    "before",  # float32 [BEFORE_ROWS, P]
    "norms",  # float32 [P]: norms that are known when scaling begins; no program that scales writes them
    "modes",  # float32 [P]: the mode of each tensor's last step
    "failed",  # bool, 0-dim: a rank could not measure its part
    "matrix",  # float32 [., P]: Statistics'
    "finite",  # bool [P]
    "rows",  # float32 [P, RING_COLUMNS]
    "values",  # float32: the settings, see DeviceSettings
)
"""What all launches share, by its place in the table of its addresses: one argument, where a dozen would cost a launch
from Python more than all else. The kernels have the places as numbers, since a launch compares each constant of the
module that they name with what it was at compilation."""

BEFORE_ROWS = 12
"""The state and the mode of the previous step."""

# The kernels have the rows of Statistics' matrix as numbers, for the same reason as the places above: the state in 0 to
# 10, then raw_norm, scale, spike_ratio, norm_mean, norm_rms, baseline; in 24 and 25 target and calm_share.
_SLOTS: tl.constexpr = tl.constexpr(MOST_CHUNKS)  # partial sums that are added at once
_HEAD: tl.constexpr = tl.constexpr(8)  # at least the elements before an address of 16 bytes
_OFF: tl.constexpr = tl.constexpr(0)  # MODE_CODES of `statistics`
_STABILIZE: tl.constexpr = tl.constexpr(2)
_CLIP: tl.constexpr = tl.constexpr(3)
_SQUARABLE: tl.constexpr = tl.constexpr(1.8e19)  # as in `statistics`
_LARGEST: tl.constexpr = tl.constexpr(3.4e38)
_LARGEST_HALF: tl.constexpr = tl.constexpr(65504.0)
_NOT_MEASURED: tl.constexpr = tl.constexpr(-1.0)
_SPIKE: tl.constexpr = tl.constexpr(rule.SPIKE_RATIO)
_BASELINE_LIMIT: tl.constexpr = tl.constexpr(rule.BASELINE_LIMIT)
_BASELINE_WEIGHT: tl.constexpr = tl.constexpr(rule.BASELINE_WEIGHT)


@triton.jit
def _split(address, length, SIZE: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    """Elements before the first address of 16 bytes, that address, elements from there on, those in whole blocks."""
    head = tl.minimum(((16 - address % 16) % 16 // SIZE).to(tl.int32), length)
    rest = length - head
    return head, address + head * SIZE, rest, rest // BLOCK * BLOCK


@triton.jit
def _sum_of_squares(address, length, ELEMENT: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    """Float32 sum of the squares of `length` elements at `address` (int64)."""
    head, body, rest, whole = _split(address, length, SIZE, BLOCK)
    lanes, few = tl.arange(0, BLOCK), tl.arange(0, _HEAD)
    first = tl.load(address.to(tl.pointer_type(ELEMENT)) + few, mask=few < head, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    # The hint lets the compiler load 16 bytes at once.
    aligned = tl.multiple_of(body.to(tl.pointer_type(ELEMENT)), 16)
    for start in range(0, whole, BLOCK):
        value = tl.load(aligned + start + lanes).to(tl.float32)
        total += value * value
    if whole < rest:
        value = tl.load(aligned + whole + lanes, mask=whole + lanes < rest, other=0.0).to(tl.float32)
        total += value * value
    return tl.sum(total, axis=0) + tl.sum(first * first, axis=0)


@triton.jit
def _scaled(value, scale, zeroed, limit, ELEMENT: tl.constexpr):  # noqa: N803
    """A product in float32, rounded once; or zero, by select, since 0 times NaN is NaN. Float16 ends at `limit`."""
    product = value.to(tl.float32) * scale
    if ELEMENT == tl.float16:  # noqa: SIM300  # the capitals are no constant
        product = tl.where(product > limit, limit, tl.where(product < -limit, -limit, product))  # NaN stays
    return tl.where(zeroed, 0.0, product).to(ELEMENT)


@triton.jit
def _multiply(
    address,
    length,
    scale,
    zeroed,
    limit,
    ELEMENT: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Replace `length` elements at `address` (int64) by their `_scaled` values, from the end to the start."""
    head, body, rest, whole = _split(address, length, SIZE, BLOCK)
    lanes, few = tl.arange(0, BLOCK), tl.arange(0, _HEAD)
    aligned = tl.multiple_of(body.to(tl.pointer_type(ELEMENT)), 16)
    if whole < rest:
        inside = whole + lanes < rest
        value = tl.load(aligned + whole + lanes, mask=inside, other=0.0)
        tl.store(aligned + whole + lanes, _scaled(value, scale, zeroed, limit, ELEMENT), mask=inside)
    for turn in range(0, whole, BLOCK):
        block = aligned + (whole - BLOCK - turn)
        tl.store(block + lanes, _scaled(tl.load(block + lanes), scale, zeroed, limit, ELEMENT))
    first = address.to(tl.pointer_type(ELEMENT)) + few
    value = tl.load(first, mask=few < head, other=0.0)
    tl.store(first, _scaled(value, scale, zeroed, limit, ELEMENT), mask=few < head)


@triton.jit
def _total(slots, first, stop):
    """Sum of the slots first..stop - 1, in an order that depends on their number alone."""
    lanes = tl.arange(0, _SLOTS)
    total = tl.zeros([_SLOTS], dtype=tl.float32)
    for start in range(first, stop, _SLOTS):
        total += tl.load(slots + start + lanes, mask=start + lanes < stop, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _decide(norm, failed, writes, column, before, floats, finite_flags, modes, rows, values, count):
    """The rule for one tensor. Returns its scale and whether it becomes zero; writes the new state if `writes`.

    failed: a rank could not measure its part, and no norm is known: the gradient passes with the scale it had so far.
    """
    gamma1, gamma2 = tl.load(values), tl.load(values + 2)
    new1, new2 = tl.load(values + 7), tl.load(values + 9)  # 1 - gamma, taken in double precision on the host
    decay, new = tl.load(values + 4), tl.load(values + 11)  # of the baseline
    spike_limit, eps, fade_limit = tl.load(values + 14), tl.load(values + 15), tl.load(values + 20)
    mode, plain = tl.load(values + 16).to(tl.int32), tl.load(values + 17) != 0

    old = before + column
    norm_sum, norm_weight = tl.load(old), tl.load(old + count)
    square_sum, square_weight = tl.load(old + 2 * count), tl.load(old + 3 * count)
    baseline_sum, baseline_weight = tl.load(old + 4 * count), tl.load(old + 5 * count)
    calm_square_sum = tl.load(old + 6 * count)
    unit, gain = tl.load(old + 7 * count), tl.load(old + 8 * count)
    updates, nonfinite = tl.load(old + 9 * count), tl.load(old + 10 * count)
    previous = tl.load(old + 11 * count).to(tl.int32)

    finite = norm < _SQUARABLE  # false for NaN too
    valid = finite & (norm > 0)  # false for _NOT_MEASURED
    previous_rms = tl.sqrt_rn(tl.div_rn(square_sum, square_weight))
    # A young baseline is infinite: no ratio, no limit.
    known = baseline_weight > _BASELINE_WEIGHT
    baseline = tl.where(known, tl.div_rn(baseline_sum, baseline_weight), float("inf"))
    ratio = tl.div_rn(norm, baseline)
    # Without a limit it is infinite; without samples there is nothing to compare with.
    sample = tl.where(previous_rms > 0, tl.minimum(norm, previous_rms * spike_limit), norm)
    calm = tl.minimum(sample, baseline * _SPIKE)
    limited = tl.minimum(norm, baseline * _BASELINE_LIMIT)
    norm_sum = tl.where(valid, norm_sum * gamma1 + sample * new1, norm_sum)
    norm_weight = tl.where(valid, norm_weight * gamma1 + new1, norm_weight)
    square_sum = tl.where(valid, square_sum * gamma2 + sample * sample * new2, square_sum)
    square_weight = tl.where(valid, square_weight * gamma2 + new2, square_weight)
    baseline_sum = tl.where(valid, baseline_sum * decay + limited * new, baseline_sum)
    baseline_weight = tl.where(valid, baseline_weight * decay + new, baseline_weight)
    calm_square_sum = tl.where(valid, calm_square_sum * gamma2 + calm * calm * new2, calm_square_sum)
    mean = tl.div_rn(norm_sum, norm_weight)
    rms = tl.sqrt_rn(tl.div_rn(square_sum, square_weight))
    target = tl.div_rn(mean, rms + eps)
    calm_share = tl.div_rn(calm_square_sum, square_sum)

    # Bumpless transfer.
    stabilizing, stabilized = mode == _STABILIZE, previous == _STABILIZE
    clipping, usual_clip = mode == _CLIP, tl.load(values + 22)
    usable = (rms > 0) & (rms <= _LARGEST)
    entering, leaving = stabilizing & (stabilized == 0), (stabilizing == 0) & stabilized
    gain = tl.where(entering & (previous == _CLIP), gain * usual_clip, gain)
    entry_unit = tl.where(usable, gain * rms, gain)
    exit_gain = tl.where(usable, tl.div_rn(unit, rms), gain)
    exit_gain = tl.where(clipping, tl.div_rn(exit_gain, usual_clip), exit_gain)
    unit = tl.where(plain, 1.0, tl.where(entering, entry_unit, unit))
    gain = tl.where(plain, 1.0, tl.where(leaving, exit_gain, gain))

    # As `rule.fade`; the limit is infinite where nothing fades, and then zero times it must not count.
    fade = tl.minimum(1.0, tl.div_rn(fade_limit * tl.maximum(previous_rms, baseline), norm))
    fade = tl.where(fade_limit <= _LARGEST, fade * fade, 1.0)
    chosen = tl.where(valid, tl.div_rn(unit * target, norm) * fade, tl.where(finite, 1.0, 0.0))
    passing = tl.where(usable & (plain == 0), tl.div_rn(unit, rms), gain)
    factor = tl.where(clipping, tl.load(values + 21), 1.0)
    scale = tl.where(stabilizing, tl.where(failed, passing, chosen), gain * factor)
    if writes:
        state = floats + column
        tl.store(state, norm_sum)
        tl.store(state + count, norm_weight)
        tl.store(state + 2 * count, square_sum)
        tl.store(state + 3 * count, square_weight)
        tl.store(state + 4 * count, baseline_sum)
        tl.store(state + 5 * count, baseline_weight)
        tl.store(state + 6 * count, calm_square_sum)
        tl.store(state + 7 * count, unit)
        tl.store(state + 8 * count, gain)
        tl.store(state + 9 * count, updates + tl.where(valid, 1.0, 0.0))
        tl.store(state + 10 * count, nonfinite + tl.where(finite, 0.0, 1.0))
        tl.store(state + 11 * count, norm)
        tl.store(state + 12 * count, scale)
        tl.store(state + 13 * count, ratio)
        tl.store(state + 14 * count, mean)
        tl.store(state + 15 * count, rms)
        tl.store(state + 16 * count, tl.div_rn(baseline_sum, baseline_weight))
        tl.store(state + 24 * count, target)
        tl.store(state + 25 * count, calm_share)
        tl.store(finite_flags + column, finite.to(tl.uint8))
        tl.store(modes + column, mode.to(tl.float32))
        row = rows + column * 8  # RING_COLUMNS
        tl.store(row, norm)
        tl.store(row + 1, mean)
        tl.store(row + 2, rms)
        tl.store(row + 3, scale)
        tl.store(row + 4, ratio)
        tl.store(row + 5, target)
        tl.store(row + 6, calm_share)
        tl.store(row + 7, fade)
    return scale, (stabilizing & (finite == 0)) | (factor == 0)


@triton.jit
def _floats(tables, at):
    """The float32 matrix whose address is in this place of `tables`."""
    return tl.load(tables + at).to(tl.pointer_type(tl.float32))


@triton.jit
def _integers(tables, at):
    """As `_floats`, of int32."""
    return tl.load(tables + at).to(tl.pointer_type(tl.int32))


@triton.jit(
    # Numbers that differ between launches and models: compiled once for all of them.
    do_not_specialize=["count", "scale_first", "scale_stop", "measure_first", "norms_given"],
)
def step_kernel(
    addresses,  # int64 [P]: of each gradient, or ABSENT or ELSEWHERE
    tables,  # int64 [TABLES]: addresses of what all launches share, see there
    count,  # P
    scale_first,  # chunks scale_first..scale_stop - 1 are scaled by as many programs
    scale_stop,
    measure_first,  # the chunks from here on are measured by the other programs
    norms_given,  # not 0: all norms are in `norms`, and not to be computed from the slots
    ELEMENT: tl.constexpr,  # noqa: N803  # Triton's convention: compile-time constants are in capitals
    SIZE: tl.constexpr,  # noqa: N803  # of an element, in bytes: before Triton 3.4 a kernel cannot ask its type
    BLOCK: tl.constexpr,  # noqa: N803
):
    program = tl.program_id(0)
    scalings = scale_stop - scale_first
    scaling = program < scalings
    chunk = tl.where(scaling, scale_stop - 1 - program, measure_first + program - scalings)
    columns, first_chunks, chunk_counts = _integers(tables, 0), _integers(tables, 1), _integers(tables, 2)
    chunk_lengths, sizes = _integers(tables, 3), tl.load(tables + 4).to(tl.pointer_type(tl.int64))
    slots, before, norms, modes = _floats(tables, 5), _floats(tables, 6), _floats(tables, 7), _floats(tables, 8)
    floats, rows, values = _floats(tables, 10), _floats(tables, 12), _floats(tables, 13)
    column = tl.load(columns + chunk)
    address = tl.load(addresses + column)
    first = tl.load(first_chunks + column)
    chunk_length = tl.load(chunk_lengths + column)
    size = tl.load(sizes + column)
    done = (chunk - first).to(tl.int64) * chunk_length
    start = address + done * SIZE
    length = tl.minimum(size - done, chunk_length).to(tl.int32)
    off = tl.load(values + 16).to(tl.int32) == _OFF
    if scaling:
        norm = tl.sqrt_rn(_total(slots, first, first + tl.load(chunk_counts + column)))
        if (address == _ELSEWHERE) | (norms_given != 0):
            norm = tl.load(norms + column)
        loss_scale, skipped = tl.load(values + 18), tl.load(values + 19) > 0
        norm = tl.where(off | skipped, _NOT_MEASURED, tl.div_rn(norm, loss_scale))
        flags = tl.load(tables + 11).to(tl.pointer_type(tl.uint8))
        failed = tl.load(tl.load(tables + 9).to(tl.pointer_type(tl.uint8))) != 0
        scale, zeroed = _decide(norm, failed, chunk == first, column, before, floats, flags, modes, rows, values, count)
        # A scale of one touches nothing, bit for bit.
        if (address > _ELSEWHERE) & ((scale != 1.0) | zeroed):
            # Multiplied by a loss scale of 65536, even a gradient of norm 1 can be out of float16's range.
            limit = tl.where(loss_scale != 1.0, _LARGEST_HALF, float("inf"))
            _multiply(start, length, scale, zeroed, limit, ELEMENT, SIZE, BLOCK)
    else:
        length = tl.where(off | (address <= _ELSEWHERE), 0, length)
        tl.store(slots + chunk, _sum_of_squares(start, length, ELEMENT, SIZE, BLOCK))
        if chunk == first:
            for row in range(11):
                tl.store(before + row * count + column, tl.load(floats + row * count + column))
            tl.store(before + 11 * count + column, tl.load(modes + column))


@triton.jit
def norms_kernel(
    addresses,  # as of `step_kernel`
    tables,
):
    """Write the norm of each tensor that was measured into `norms`: one program a tensor."""
    column = tl.program_id(0)
    if tl.load(addresses + column) != _ELSEWHERE:
        first = tl.load(_integers(tables, 1) + column)
        chunk_count = tl.load(_integers(tables, 2) + column)
        total = _total(_floats(tables, 5), first, first + chunk_count)
        tl.store(_floats(tables, 7) + column, tl.sqrt_rn(total))
