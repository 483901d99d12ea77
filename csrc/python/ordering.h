// The order in which the rows of a gradient are gone through.
#pragma once

#include <pybind11/numpy.h>

#include <array>
#include <utility>
#include <vector>

namespace fastupdate {

namespace py = pybind11;

// The positions of numbers 0 … bound − 1 in rising order of these, those of equal numbers in their own: by counting,
// digit by digit from the last.
inline py::array_t<int64_t> stable_order(const py::array_t<int64_t, py::array::c_style>& numbers, int64_t bound) {
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
  py::array_t<int64_t> order(n);
  for (int64_t i = 0; i < n; ++i) order.mutable_data()[i] = from[size_t(i)].second;
  return order;
}

}  // namespace fastupdate
