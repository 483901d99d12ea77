"""The bugs that mutate.py seeds, and the tests that are to catch each of them."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: str  # arguments for pytest


SIZES = "tests/test_rules.py -k test_sizes"
TORCH = "tests/test_rules.py -k test_torch"
OPTIONS = "tests/test_options.py tests/test_clipping.py"
PARITY = "tests/test_parity.py"
TEAM = "tests/test_team.py"
ERRORS = "tests/test_errors.py tests/test_overlaps.py"
HUGE = "tests/test_process.py -k test_6"
STORAGE = "tests/test_storage.py tests/test_storage_refused.py"
LAYOUTS = "tests/test_windows.py tests/test_layouts.py"
SAMPLES = "tests/test_micro_batches.py"
CALLS = "tests/test_properties.py"
SKIPS = "tests/test_skips.py"

MUTANTS = [
    Mutant(
        "dropped tail", "csrc/cpu/rule_loop.h",
        "written at the same index.\n#pragma omp simd\n  for (int64_t i = 0; i < n; ++i) {",
        "written at the same index.\n#pragma omp simd\n  for (int64_t i = 0; i < n / 8 * 8; ++i) {", SIZES,
    ),
    Mutant(
        "no-op kernel", "csrc/cpu/rule_loop.h",
        "out[i] = base[i] + rule(", "out[i] = base[i] + 0 * rule(", SIZES,
    ),
    Mutant(
        "int32 index", "csrc/cpu/engine.h",
        "int64_t end = (last - t.first_block) * kBlock;",
        "int64_t end = int32_t((last - t.first_block) * kBlock);", HUGE,
    ),
    Mutant(
        "wrong state slot", "csrc/cpu/rule_loop.h",
        "base, out, states, Keeps::at[k] ? address<T>(state[k], begin)",
        "base, out, states, Keeps::at[k] ? address<T>(state[0], begin)", SIZES,
    ),
    Mutant(
        "states from the start of the tensor", "csrc/cpu/rule_loop.h",
        "base, out, states, Keeps::at[k] ? address<T>(state[k], begin)",
        "base, out, states, Keeps::at[k] ? address<T>(state[k], 0)", OPTIONS,
    ),
    Mutant(
        "coupled instead of decoupled decay", "fastupdate/rules/adamw.py",
        "step, m, v, v_max = direction(flags, s, g, m, v, v_max)",
        "step, m, v, v_max = direction(flags, s, g + s.weight_decay * p, m, v, v_max)", TORCH,
    ),
    Mutant(
        "wrong bias correction", "fastupdate/rules/adam.py",
        "1 / (1 - h.beta2**t)", "1 / (1 - h.beta2 ** (t + 1))", TORCH,
    ),
    Mutant(
        "swapped betas", "fastupdate/rules/adam.py",
        "one_minus_beta1=1 - h.beta1", "one_minus_beta1=1 - h.beta2", TORCH,
    ),
    Mutant(
        "epsilon inside the root", "fastupdate/rules/rmsprop.py",
        "else sqrt(variance) + s.eps)", "else sqrt(variance + s.eps))", TORCH,
    ),
    Mutant(
        "lost nesterov", "fastupdate/rules/sgd.py",
        "g = g + s.momentum * b if flags.nesterov else b", "g = b", TORCH,
    ),
    Mutant(
        "first gradient dampened", "fastupdate/rules/sgd.py",
        "first_intake=1.0 if t == 1 else intake", "first_intake=intake", TORCH,
    ),
    Mutant(
        "skipped decay in a rule", "fastupdate/rules/momentum.py",
        "g = g + s.weight_decay * p", "", "tests/test_rules.py -k test_keras",
    ),
    Mutant(
        "skipped decay stage", "csrc/cpu/tile.h",
        "run_stages<kBefore>(t, span.group", "if (false) run_stages<kBefore>(t, span.group", OPTIONS,
    ),
    Mutant(
        "float32 sum in norms", "csrc/core/sums.h",
        "return __builtin_fma(double(x), double(y), sum);", "return float(__builtin_fma(double(x), double(y), sum));",
        OPTIONS,
    ),
    Mutant(
        "wrong lane fold order", "csrc/core/sums.h",
        "lane[j] = op(lane[j], lane[j + width]);", "lane[j] = op(lane[2 * j], lane[2 * j + 1]);", OPTIONS,
    ),
    Mutant(
        "blocks folded one after the other", "csrc/core/sums.h",
        "for (int64_t k = count++; k & 1; k >>= 1) x = op(level[depth++], x);",
        "if (count) x = op(level[0], x);\n    count = 1;", PARITY,
    ),
    Mutant(
        "contracted multiply-add", "cmake/kernels.cmake",
        "-ffp-contract=off", "-ffp-contract=fast", PARITY,
    ),
    Mutant(
        "a block lost between threads", "csrc/cpu/team.h",
        "return some(first(k, n), first(k + 1, n), work);",
        "return some(first(k, n), first(k + 1, n) - (k + 1 < n), work);", PARITY,
    ),
    Mutant(
        "a piece lost to a thread that helps", "csrc/cpu/team.h",
        "end = first(of + 1, n);", "end = first(of + 1, n) - (of != k);", "tests/test_plan.py",
    ),
    Mutant(
        "a piece taken twice", "csrc/cpu/team.h",
        "taken_[of].count.fetch_add(piece_)", "taken_[of].count.fetch_add(piece_ - (piece_ > 1))", TEAM,
    ),
    Mutant(
        "clip factor ignored", "fastupdate/step/whole.py",
        "self.scale * outcome.factor * stepper.sign", "self.scale * stepper.sign", OPTIONS,
    ),
    Mutant(
        "every unit scaled as the first", "csrc/cpu/tile.h",
        "scale_tile(stop - i, scale * factors[unit]", "scale_tile(stop - i, scale * factors[0]", OPTIONS,
    ),
    Mutant(
        "average reversed", "fastupdate/stages/table.py",
        "return mean + weight * (value - mean)", "return value + weight * (mean - value)", OPTIONS,
    ),
    Mutant(
        "threshold keeps small weights", "fastupdate/stages/table.py",
        "return p - clipped(p, -s.threshold, s.threshold)",
        "return where(p > s.threshold, p - s.threshold, p)", OPTIONS,
    ),
    Mutant(
        "float16 ties away from even", "csrc/core/storage.h",
        "0x0fffu + ((a >> 13) & 1)", "0x1000u", OPTIONS,
    ),
    Mutant(
        "gradients not zeroed", "csrc/cpu/tile.h",
        "if (stages & kZeroGrads) clear_gradient(t, begin, n);", "", OPTIONS,
    ),
    Mutant(
        "a sample left out", "csrc/cpu/tile.h",
        "for (int64_t k = 1; k < t.samples; ++k) {", "for (int64_t k = 2; k < t.samples; ++k) {", SAMPLES,
    ),
    Mutant(
        "accumulators never emptied", "csrc/cpu/plan.h",
        "sweep_.first = clock_[kMicroBatches] == 0;", "sweep_.first = false;", SAMPLES,
    ),
    Mutant(
        "stale gradient pointer", "csrc/python/adopt.h",
        "t.g = g.data;", "if (!t.g) t.g = g.data;", CALLS,
    ),
    Mutant(
        "strides of another axis", "csrc/core/views.h",
        "axes.stride[d - 1] - axes.shape[d] * axes.stride[d]", "axes.stride[d - 1]", ERRORS,
    ),
    Mutant(
        "overlap not seen", "csrc/python/adopt.h",
        "? 0 : std::prev(after)->second", "? 0 : std::prev(after)->first", ERRORS,
    ),
    Mutant(
        "the next array not seen", "csrc/python/adopt.h",
        "? UINT64_MAX : after->first", "? UINT64_MAX : after->second", ERRORS,
    ),
    Mutant(
        "what a second thread found is lost", "csrc/python/core_module.cpp",
        "i >= 0 && i < least", "i >= 0 && first == 0 && i < least", ERRORS,
    ),
    Mutant(
        "workers keep their own rounding", "csrc/cpu/team.h",
        "if (differs_) mode.set();", "", "tests/test_team.py",
    ),
    Mutant(
        "sums in the order of memory", "csrc/cpu/window.h",
        "const bool reorders = logical && t.order;", "const bool reorders = logical && t.order && !t.g_order;", LAYOUTS,
    ),
    Mutant(
        "units in the order of memory", "csrc/cpu/tile.h",
        "if (!t.order) return t.unit_length;", "return t.unit_length;", LAYOUTS,
    ),
    Mutant(
        "the last squares not moved back to the end", "csrc/cpu/transpose.h",
        "return step + 1 < steps ? step * width : columns - width;", "return step * width;",
        "tests/test_windows.py -k c-fortran-plain",  # which hangs
    ),
    Mutant(
        "rows of squares one short", "csrc/cpu/transpose.h",
        "if (i + side > height) i = height - side;", "if (i + side > height) break;", LAYOUTS,
    ),
    Mutant(
        "samples of a copied gradient not added", "csrc/cpu/window.h",
        "for (int j = 0; s && j < m; ++j) sum[i + j] += sample[j];", "", LAYOUTS,
    ),
    Mutant(
        "a panel of more rows than there is room for", "csrc/cpu/panels.h",
        ": most < kTile ? most : kTile;", ": kTile;", LAYOUTS,
    ),
    Mutant(
        "what fills up lanes counted as zeros", "csrc/cpu/panel_sums.h",
        "lanes.zeros[0] -= n;", "(void)lanes, (void)n;", LAYOUTS,
    ),
    Mutant(
        "beginnings of rows left out of panels", "csrc/cpu/panels.h",
        "add(*open_[0], (row + k) * columns_, beginning(row + k), kept_, k * kKept);", "", LAYOUTS,
    ),
    Mutant(
        "the last strip of columns left out", "csrc/cpu/panels.h",
        "count = width - c < 2 * kStrip ? width - c : kStrip;", "count = kStrip; if (c + count > width) break;",
        LAYOUTS,
    ),
    Mutant(
        "columns that follow taken for granted", "csrc/cpu/panels.h",
        "follow = follow && at[j] == at[0] + j * rows;", "follow = follow && (j != 1 || at[j] == at[0] + rows);",
        LAYOUTS,
    ),
    Mutant(
        "non-finite gradients in strands not counted", "csrc/cpu/strands.h",
        "if (nothing != 0)", "if (false)", LAYOUTS,
    ),
    Mutant(
        "beginnings of rows left out of sums", "csrc/cpu/strands.h",
        "go_through_columns(beginnings_, true, write);", "", LAYOUTS,
    ),
    Mutant(
        "sums of other threads' blocks written", "csrc/cpu/strands.h",
        "if (r < rows) close(r, c, before, write);", "close(r, c, before, write);", LAYOUTS,
    ),
    Mutant(
        "columns found where the first window has them", "csrc/cpu/columns.h",
        "(k * pitch(n_) - begin_) * size_", "(k * pitch(n_)) * size_", LAYOUTS,
    ),
    Mutant(
        "any columns taken for neighbours", "csrc/cpu/columns.h",
        "&& b == a + uint64_t(size);", ";", LAYOUTS,
    ),
    Mutant(
        "any strided gradient taken for the one before", "csrc/python/adopt.h",
        "lies_as(g, *reinterpret_cast<const Layout*>(t.g_layout));", "true;",
        "tests/test_layouts.py -k test_strides",
    ),
    Mutant(
        "threshold without the learning rate", "fastupdate/stages/table.py",
        "threshold=h.proximal * (h.lr * h.l1)", "threshold=h.proximal * h.l1", OPTIONS,
    ),
    Mutant(
        "non-finite gradients not counted", "csrc/core/sums.h",
        "__builtin_expect(all_finite(lanes.gg), true)", "__builtin_expect(!all_finite(lanes.gg), true)", SKIPS,
    ),
    Mutant(
        "step counts stand still", "csrc/cpu/plan.h",
        "++groups_[k].t;", "(void)k;", TORCH,
    ),
    Mutant(
        "subnormal halves taken for normal ones", "csrc/core/storage.h",
        "a < 0x0400u ? subnormal : ", "", STORAGE,
    ),
    Mutant(
        "infinite halves taken for numbers", "csrc/core/storage.h",
        "a < 0x7c00u ? normal : normal + (112u << 23)", "normal", STORAGE,
    ),
    Mutant(
        "narrow gradients zeroed as wide ones", "csrc/cpu/tile.h",
        "const int64_t size = item_size(t.g_dtype);", "const int64_t size = item_size(t.dtype);", STORAGE,
    ),
    Mutant(
        "a buffer's type not looked at again", "csrc/python/adopt.h",
        "(g.data == t.g || !t.n) && g.dtype == t.g_dtype &&", "(g.data == t.g || !t.n) &&", STORAGE,
    ),
    Mutant(
        "a narrow gradient found where a wide one lies", "csrc/python/adopt.h",
        "return !t.order || g.dtype == t.dtype", "return true || g.dtype == t.dtype", STORAGE,
    ),
    Mutant(
        "narrow gradients for float64", "csrc/python/adopt.h",
        "g.dtype != kNone && p.dtype == kFloat32", "g.dtype != kNone", STORAGE,
    ),
    Mutant(
        "the ends of narrow gradients unknown", "fastupdate/step/plan.py",
        'memory.item_sizes(rows["g_dtype"])', "1", STORAGE,
    ),
]  # fmt: skip
