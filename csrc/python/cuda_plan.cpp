// What the module fastupdate._cuda offers to Python.
#include "python/cuda_plan.h"

#include "python/collectable.h"

namespace fastupdate {
namespace {

// Copies between device memory and a host buffer, in the order of a stream; both wait, and let other Python threads
// run meanwhile: what comes before on the stream may be a function of Python's.
void copy_to_host(py::buffer to, uint64_t from, int device, Stream stream) {
  device::Scope scope(device);
  const py::buffer_info info = to.request(true);
  without_gil([&] {
    device::copy(info.ptr, reinterpret_cast<const void*>(from), size_t(info.size * info.itemsize), stream);
    device::synchronize(stream);
  });
}

void copy_from_host(uint64_t to, py::buffer from, int device, Stream stream) {
  device::Scope scope(device);
  const py::buffer_info info = from.request();
  without_gil([&] {
    device::copy(reinterpret_cast<void*>(to), info.ptr, size_t(info.size * info.itemsize), stream);
    device::synchronize(stream);
  });
}

void follow(Stream later, Stream earlier, int device) {
  device::Scope scope(device);
  device::follow(later, earlier);
}

// What the array in a DLPack capsule is like, as __array_interface__ says it.
py::dict describe_dlpack(const py::capsule& capsule) {
  struct Described {  // DLTensor, and the start of DLManagedTensor
    void* data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
  };
  if (std::strcmp(capsule.name(), "dltensor") != 0) throw py::type_error("not a DLPack capsule");
  const auto& x = *static_cast<const Described*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  constexpr uint8_t kBfloat = 4;
  if (x.lanes != 1 || (x.code > 2 && x.code != kBfloat)) throw py::type_error("expected numbers of one value each");
  py::tuple shape(x.ndim), strides(x.ndim);
  int64_t dense = x.bits / 8;
  for (int d = x.ndim - 1; d >= 0; --d) {
    shape[size_t(d)] = x.shape[d];
    strides[size_t(d)] = x.strides ? x.strides[d] * (x.bits / 8) : dense;
    dense *= x.shape[d];
  }
  py::dict described;
  described["shape"] = shape;
  described["strides"] = strides;
  described["typestr"] = x.code == kBfloat ? "bfloat" + std::to_string(x.bits)
                                           : std::string("<") + "iuf"[x.code] + std::to_string(x.bits / 8);
  described["data"] = py::make_tuple(uint64_t(x.data) + x.offset, false);
  return described;
}

// Memory that is one of Python's objects.
struct Buffer {
  explicit Buffer(size_t bytes) : memory(std::make_unique<Memory>(bytes)) {}
  ~Buffer() {
    without_gil([&] { memory.reset(); });  // which waits for the device
  }

  std::unique_ptr<Memory> memory;
};

std::unique_ptr<Buffer> new_buffer(size_t bytes, int device) {
  device::Scope scope(device);
  return std::make_unique<Buffer>(bytes);
}

std::shared_ptr<Outcome> new_outcome(Plan& plan, double clip_norm, double clip_tensor_norm, double clip_unit_norm,
                                     bool sums, bool skip_nonfinite, bool monitor) {
  return plan.outcome({clip_norm, clip_tensor_norm, clip_unit_norm, sums, skip_nonfinite, monitor});
}

}  // namespace

void bind_cuda(py::module_& m) {
  m.def("problem", &device::problem);
  m.def("devices", &device::devices);
  m.def("driver", &device::driver);
  m.def("rules", [] { return describe_rules(cuda::engine.rules, cuda::engine.rule_count); });
  m.def("record_sizes", &record_sizes);
  m.def("device_of", [](uint64_t address) { return device::device_of(reinterpret_cast<const void*>(address)); });
  m.def("copy_to_host", &copy_to_host);
  m.def("copy_from_host", &copy_from_host);
  m.def("follow", &follow);
  m.def("describe_dlpack", &describe_dlpack);
  m.def("meet_torch", [](py::type tensor, py::type parameter, py::object raise_versions) {
    return meet_torch(tensor, parameter, raise_versions, dlpack::kCuda);
  });
  m.def("reads", [](py::handle tensor, int device) {
    View view;
    return is_torch(tensor.ptr()) && look_at_torch(tensor.ptr(), view) && view.device == device;
  });
  m.attr("toolkit") = device::toolkit();
  m.attr("architectures") = FASTUPDATE_CUDA_ARCHITECTURES;
  const py::custom_type_setup with_care(make_with_care);
  const py::detail::is_new_style_constructor made;
  py::class_<Buffer>(m, "Memory", py::module_local(), with_care)
      .def("__init__", constructor(&new_buffer), made)
      .def_property_readonly("address", [](const Buffer& buffer) { return uint64_t(buffer.memory->as()); });
  m.attr("MAX_ROWS") = kMaxRows;
  py::class_<Plan> plan(m, "Plan", py::module_local(), collectable<Plan>());
  py::class_<Outcome, std::shared_ptr<Outcome>>(m, "Outcome", py::module_local(), with_care)
      .def("__init__", constructor(&new_outcome), made, py::arg("plan"), py::kw_only(), py::arg("clip_norm"),
           py::arg("clip_tensor_norm"), py::arg("clip_unit_norm"), py::arg("sums"), py::arg("skip_nonfinite"),
           py::arg("monitor"))
      .def_property_readonly("fetched", &Outcome::fetched)
      .def_property_readonly("ready", &Outcome::ready)
      .def_property_readonly("lost", &Outcome::lost)
      .def("decision", &Outcome::decision)
      .def("totals", &Outcome::totals);
  plan.def("__init__",
           constructor<Plan, const std::string&, unsigned, py::array, py::array, py::array, py::array_t<int64_t>, bool,
                       int, py::type>(),
           made)
      .def_property_readonly("moves", &Plan::moves)
      .def_property_readonly("stages", &Plan::stages)
      .def_property_readonly("lr", &Plan::lr)
      .def("take", &Plan::take)
      .def("derive", &Plan::derive)
      .def("derive_possible", &Plan::derive_possible)
      .def("watch", &Plan::watch)
      .def("adopt", &Plan::adopt)
      .def("update", &Plan::update)
      .def("step", &Plan::step)
      .def("judge", &Plan::judge)
      .def("judged_update", &Plan::judged_update)
      .def("finish", &Plan::finish)
      .def("prepare_replay", &Plan::prepare_replay)
      .def("fetch_replayed", &Plan::fetch_replayed)
      .def("gradient_sums", &Plan::gradient_sums)
      .def("accumulate", &Plan::accumulate)
      .def("clear_gradients", &Plan::clear_gradients)
      .def("fold", &Plan::fold)
      .def("overall", &Plan::overall)
      .def("clip_units", &Plan::clip_units);
}

}  // namespace fastupdate
