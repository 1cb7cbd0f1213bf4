"""The Triton kernel of the multi-tensor path: measures the gradients of one dtype, decides, and scales them.

`launcher` owns the tables and the launches; `selection` decides whether this file is used. The rule is that of
`steadynorm_contract.rule`, written a third time: on scalars, in the program that scales a part of a gradient.

A tensor is split into chunks, and one program processes one chunk. A launch has two roles, so that the gradients of
one wave are scaled out of L2 while the next wave is measured:

    measure   each program writes its chunk's sum of squares into a slot of its own: no atomics, so the sum is the same
              every time. The first chunk's program also copies the tensor's state into `before`.
    scale     each program adds up its tensor's slots, in one order, and applies the rule to `before`: all programs of a
              tensor decide alike. Only the first chunk's program writes the new state, which no program reads.

Everything that can change (addresses, settings, the mode of the previous step) is read from device memory: a captured
CUDA graph follows settings, and a change of them compiles nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Tunables; measure with benchmarks/gpu_step.py on each kind of GPU.
CHUNK = 1 << 16
"""Elements per program. Large, since a program that scales first adds up all slots of its tensor."""
BLOCK = 1 << 12
"""Elements per iteration of a program's loop: 16 a thread, four 16-byte loads in flight each for float32."""
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}
"""Compiler options. Fused multiply-add is allowed: it does not round the product."""

ABSENT = 0
"""In place of an address: no gradient in this step."""
ELSEWHERE = 1
"""In place of an address: torch measures and scales this one; its norm is in `raw_norm`."""
_ELSEWHERE: tl.constexpr = tl.constexpr(ELSEWHERE)

BEFORE_ROWS = 9
"""STATE_FIELDS and the mode of the previous step."""

_SLOTS: tl.constexpr = tl.constexpr(1024)  # partial sums that are added at once
_OFF: tl.constexpr = tl.constexpr(0)  # MODE_CODES of `statistics`
_STABILIZE: tl.constexpr = tl.constexpr(2)
_SQUARABLE: tl.constexpr = tl.constexpr(1.8e19)  # as in `statistics`
_LARGEST: tl.constexpr = tl.constexpr(3.4e38)
_LARGEST_HALF: tl.constexpr = tl.constexpr(65504.0)
_NOT_MEASURED: tl.constexpr = tl.constexpr(-1.0)
# Rows of Statistics' matrix:
_RAW_NORM: tl.constexpr = tl.constexpr(8)
_SCALE: tl.constexpr = tl.constexpr(9)
_SPIKE_RATIO: tl.constexpr = tl.constexpr(10)
_NORM_MEAN: tl.constexpr = tl.constexpr(11)
_NORM_RMS: tl.constexpr = tl.constexpr(12)
_TARGET: tl.constexpr = tl.constexpr(17)


@triton.jit
def _sum_of_squares(address, length, ELEMENT: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    """Float32 sum of the squares of `length` elements at `address` (int64)."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    # The hint lets the compiler load 16 bytes at once. The second cast is separate, without the hint.
    aligned = tl.multiple_of(address.to(tl.pointer_type(ELEMENT)), 16)
    whole = tl.where(address % 16 == 0, length // BLOCK * BLOCK, 0)
    for start in range(0, whole, BLOCK):
        value = tl.load(aligned + start + lanes).to(tl.float32)
        total += value * value
    loose = address.to(tl.pointer_type(ELEMENT))
    for start in range(whole, length, BLOCK):
        value = tl.load(loose + start + lanes, mask=start + lanes < length, other=0.0).to(tl.float32)
        total += value * value
    return tl.sum(total, axis=0)


@triton.jit
def _scaled(value, scale, zeroed, limit, ELEMENT: tl.constexpr):  # noqa: N803
    """A product in float32, rounded once; or zero, by select, since 0 times NaN is NaN. Float16 ends at `limit`."""
    product = value.to(tl.float32) * scale
    if ELEMENT == tl.float16:  # noqa: SIM300  # the capitals are no constant
        product = tl.where(product > limit, limit, tl.where(product < -limit, -limit, product))  # NaN stays
    return tl.where(zeroed, 0.0, product).to(ELEMENT)


@triton.jit
def _multiply(address, length, scale, zeroed, limit, ELEMENT: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    """Replace `length` elements at `address` (int64) by their `_scaled` values."""
    lanes = tl.arange(0, BLOCK)
    aligned = tl.multiple_of(address.to(tl.pointer_type(ELEMENT)), 16)
    whole = tl.where(address % 16 == 0, length // BLOCK * BLOCK, 0)
    for start in range(0, whole, BLOCK):
        value = tl.load(aligned + start + lanes)
        tl.store(aligned + start + lanes, _scaled(value, scale, zeroed, limit, ELEMENT))
    loose = address.to(tl.pointer_type(ELEMENT))
    for start in range(whole, length, BLOCK):
        inside = start + lanes < length
        value = tl.load(loose + start + lanes, mask=inside, other=0.0)
        tl.store(loose + start + lanes, _scaled(value, scale, zeroed, limit, ELEMENT), mask=inside)


@triton.jit
def _total(slots, first, stop):
    """Sum of the slots first..stop - 1, in an order that depends on their number alone."""
    lanes = tl.arange(0, _SLOTS)
    total = tl.zeros([_SLOTS], dtype=tl.float32)
    for start in range(first, stop, _SLOTS):
        total += tl.load(slots + start + lanes, mask=start + lanes < stop, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _decide(norm, writes, column, before, floats, finite_flags, modes, rows, values, count):
    """The rule for one tensor. Returns its scale and whether it becomes zero; writes the new state if `writes`."""
    gamma1, gamma2 = tl.load(values), tl.load(values + 2)
    new1, new2 = tl.load(values + 4), tl.load(values + 6)  # 1 - gamma, taken in double precision on the host
    spike_limit, eps = tl.load(values + 8), tl.load(values + 9)
    mode, plain = tl.load(values + 10).to(tl.int32), tl.load(values + 11) != 0

    old = before + column
    norm_sum, norm_weight = tl.load(old), tl.load(old + count)
    square_sum, square_weight = tl.load(old + 2 * count), tl.load(old + 3 * count)
    unit, gain = tl.load(old + 4 * count), tl.load(old + 5 * count)
    updates, nonfinite = tl.load(old + 6 * count), tl.load(old + 7 * count)
    previous = tl.load(old + 8 * count).to(tl.int32)

    finite = norm < _SQUARABLE  # false for NaN too
    valid = finite & (norm > 0)  # false for _NOT_MEASURED
    previous_rms = tl.sqrt_rn(tl.div_rn(square_sum, square_weight))
    ratio = tl.div_rn(norm, previous_rms)
    # Without a limit it is infinite; without samples there is nothing to compare with.
    sample = tl.where(previous_rms > 0, tl.minimum(norm, previous_rms * spike_limit), norm)
    norm_sum = tl.where(valid, norm_sum * gamma1 + sample * new1, norm_sum)
    norm_weight = tl.where(valid, norm_weight * gamma1 + new1, norm_weight)
    square_sum = tl.where(valid, square_sum * gamma2 + sample * sample * new2, square_sum)
    square_weight = tl.where(valid, square_weight * gamma2 + new2, square_weight)
    mean = tl.div_rn(norm_sum, norm_weight)
    rms = tl.sqrt_rn(tl.div_rn(square_sum, square_weight))
    target = tl.div_rn(mean, rms + eps)

    # Bumpless transfer.
    stabilizing, stabilized = mode == _STABILIZE, previous == _STABILIZE
    usable = (rms > 0) & (rms <= _LARGEST)
    entering, leaving = stabilizing & (stabilized == 0), (stabilizing == 0) & stabilized
    entry_unit = tl.where(usable, gain * rms, gain)
    exit_gain = tl.where(usable, tl.div_rn(unit, rms), gain)
    unit = tl.where(plain, 1.0, tl.where(entering, entry_unit, unit))
    gain = tl.where(plain, 1.0, tl.where(leaving, exit_gain, gain))

    chosen = tl.where(valid, tl.div_rn(unit * target, norm), tl.where(finite, 1.0, 0.0))
    scale = tl.where(stabilizing, chosen, gain)
    if writes:
        state = floats + column
        tl.store(state, norm_sum)
        tl.store(state + count, norm_weight)
        tl.store(state + 2 * count, square_sum)
        tl.store(state + 3 * count, square_weight)
        tl.store(state + 4 * count, unit)
        tl.store(state + 5 * count, gain)
        tl.store(state + 6 * count, updates + tl.where(valid, 1.0, 0.0))
        tl.store(state + 7 * count, nonfinite + tl.where(finite, 0.0, 1.0))
        tl.store(state + _RAW_NORM * count, norm)
        tl.store(state + _SCALE * count, scale)
        tl.store(state + _SPIKE_RATIO * count, ratio)
        tl.store(state + _NORM_MEAN * count, mean)
        tl.store(state + _NORM_RMS * count, rms)
        tl.store(state + _TARGET * count, target)
        tl.store(finite_flags + column, finite.to(tl.uint8))
        tl.store(modes + column, mode.to(tl.float32))
        row = rows + column * 6  # RING_COLUMNS
        tl.store(row, norm)
        tl.store(row + 1, mean)
        tl.store(row + 2, rms)
        tl.store(row + 3, scale)
        tl.store(row + 4, ratio)
        tl.store(row + 5, target)
    return scale, stabilizing & (finite == 0)


@triton.jit(
    # Numbers that differ between launches and models: compiled once for all of them.
    do_not_specialize=["finite_flags", "count", "scale_first", "scale_stop", "measure_first"],
)
def step_kernel(
    addresses,  # int64 [P]: of each gradient, or ABSENT or ELSEWHERE
    sizes,  # int64 [P]: elements
    first_chunks,  # int32 [P]: first chunk of each tensor
    chunk_counts,  # int32 [P]: its number of chunks, at least one
    columns,  # int32 [chunks]: the tensor of each chunk
    slots,  # float32 [chunks]: partial sums
    before,  # float32 [BEFORE_ROWS, P]
    floats,  # float32 [., P]: Statistics' matrix
    finite_flags,  # uint8 [P]
    modes,  # float32 [P]: the mode of each tensor's last step
    rows,  # float32 [P, RING_COLUMNS]
    values,  # float32 [14]: the settings, see DeviceSettings
    count,  # P
    scale_first,  # chunks scale_first..scale_stop - 1 are scaled by as many programs
    scale_stop,
    measure_first,  # the chunks from here on are measured by the other programs
    ELEMENT: tl.constexpr,  # noqa: N803  # Triton's convention: compile-time constants are in capitals
    CHUNK: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    program = tl.program_id(0)
    scalings = scale_stop - scale_first
    off = tl.load(values + 10).to(tl.int32) == _OFF
    if program < scalings:
        # The last one measured comes first: it is the most likely to still be in L2.
        chunk = scale_stop - 1 - program
        column = tl.load(columns + chunk)
        address = tl.load(addresses + column)
        first = tl.load(first_chunks + column)
        norm = tl.sqrt_rn(_total(slots, first, first + tl.load(chunk_counts + column)))
        if address == _ELSEWHERE:  # then only the first chunk's program matters: it reads the norm, and overwrites it
            norm = tl.load(floats + _RAW_NORM * count + column)
        loss_scale, skipped = tl.load(values + 12), tl.load(values + 13) > 0
        norm = tl.where(off | skipped, _NOT_MEASURED, tl.div_rn(norm, loss_scale))
        scale, zeroed = _decide(norm, chunk == first, column, before, floats, finite_flags, modes, rows, values, count)
        # A scale of one touches nothing, bit for bit.
        if (address > _ELSEWHERE) & ((scale != 1.0) | zeroed):
            done = (chunk - first).to(tl.int64) * CHUNK
            length = tl.minimum(tl.load(sizes + column) - done, CHUNK).to(tl.int32)
            # Multiplied by a loss scale of 65536, even a gradient of norm 1 can be out of float16's range.
            limit = tl.where(loss_scale != 1.0, _LARGEST_HALF, float("inf"))
            _multiply(address + done * (ELEMENT.primitive_bitwidth // 8), length, scale, zeroed, limit, ELEMENT, BLOCK)
    else:
        chunk = measure_first + program - scalings
        column = tl.load(columns + chunk)
        first = tl.load(first_chunks + column)
        address = tl.load(addresses + column)
        done = (chunk - first).to(tl.int64) * CHUNK
        length = tl.minimum(tl.load(sizes + column) - done, CHUNK).to(tl.int32)
        length = tl.where(off | (address <= _ELSEWHERE), 0, length)
        squares = _sum_of_squares(address + done * (ELEMENT.primitive_bitwidth // 8), length, ELEMENT, BLOCK)
        tl.store(slots + chunk, squares)
        if chunk == first:
            for row in range(8):
                tl.store(before + row * count + column, tl.load(floats + row * count + column))
            tl.store(before + 8 * count + column, tl.load(modes + column))
