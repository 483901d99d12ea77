// The order in which the rows of a gradient are gone through.
#pragma once

#include <pybind11/numpy.h>

#include <array>
#include <utility>
#include <vector>

namespace fastupdate {

namespace py = pybind11;

// Groups numbers 0 … bound − 1: those that occur in rising order, where each one's positions start, and the positions,
// those of one number in their order. Sorted by counting, digit by digit from the last.
inline py::tuple grouped(const py::array_t<int64_t, py::array::c_style>& numbers, int64_t bound) {
  constexpr int kBits = 11;
  constexpr int64_t kDigits = 1 << kBits;
  using Entry = std::pair<int64_t, int64_t>;  // number, position
  const int64_t n = numbers.size();
  std::vector<Entry> from(static_cast<size_t>(n)), to(from.size());
  for (int64_t i = 0; i < n; ++i) from[size_t(i)] = {numbers.data()[i], i};
  for (int shift = 0; shift < 63 && (bound - 1) >> shift > 0; shift += kBits) {
    std::array<int64_t, kDigits> next{};
    const auto digit = [shift](const Entry& entry) { return size_t(entry.first >> shift & (kDigits - 1)); };
    for (const Entry& entry : from) ++next[digit(entry)];
    int64_t before = 0;
    for (int64_t& count : next) before += std::exchange(count, before);
    for (const Entry& entry : from) to[size_t(next[digit(entry)]++)] = entry;
    std::swap(from, to);
  }
  const auto begins = [&from](int64_t i) { return i == 0 || from[size_t(i)].first != from[size_t(i) - 1].first; };
  int64_t distinct = 0;
  for (int64_t i = 0; i < n; ++i) distinct += begins(i);
  py::array_t<int64_t> found(distinct), starts(distinct + 1), positions(n);
  int64_t *next = found.mutable_data(), *start = starts.mutable_data();
  for (int64_t i = 0; i < n; ++i) {
    positions.mutable_data()[i] = from[size_t(i)].second;
    if (begins(i)) *next++ = from[size_t(i)].first, *start++ = i;
  }
  *start = n;
  return py::make_tuple(found, starts, positions);
}

}  // namespace fastupdate
