// Experts called from CUDA streams, for Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "../core/gpu.h"
#include "../core/mailbox.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kt {
namespace {

using Released = nb::call_guard<nb::gil_scoped_release>;

CudaStream stream_of(uintptr_t handle) { return reinterpret_cast<CudaStream>(handle); }

nb::ndarray<nb::numpy, uint8_t> bytes_of(const Pinned& p) {
  const size_t shape[1] = {p.size()};
  return nb::ndarray<nb::numpy, uint8_t>(p.data(), 1, shape, nb::find(&p));
}

}  // namespace

void bind_gpu(nb::module_& m) {
  nb::exception<CudaError>(m, "CudaError", PyExc_RuntimeError);
  m.def("wake_mailboxes", &wake_mailboxes);
  nb::class_<Gpu>(m, "Gpu")
      .def(nb::init<int>(), Released())
      .def("device", &Gpu::device)
      .def("has_memory_ops", &Gpu::has_memory_ops);
  nb::class_<Pinned>(m, "Pinned").def(nb::init<const Gpu&, size_t>(), Released()).def("bytes", &bytes_of);
  nb::class_<GpuCall>(m, "GpuCall")
      // The call and what it reads go after the GPU's call has.
      .def(
          "__init__",
          [](GpuCall* self, const Gpu& gpu, HostCall& call, bool mailbox) { new (self) GpuCall(gpu, call, mailbox); },
          nb::keep_alive<1, 3>())
      .def(
          "start",
          [](GpuCall& c, uintptr_t stream, int tokens, uintptr_t x, uintptr_t ids, uintptr_t weights) {
            c.start(stream_of(stream), tokens, {x, ids, weights});
          },
          Released())
      .def(
          "finish",
          [](GpuCall& c, uintptr_t stream, int tokens, uintptr_t out) { c.finish(stream_of(stream), tokens, out); },
          Released())
      .def(
          "both",
          [](GpuCall& c, uintptr_t stream, int tokens, uintptr_t x, uintptr_t ids, uintptr_t weights, uintptr_t out) {
            c.both(stream_of(stream), tokens, {x, ids, weights}, out);
          },
          Released());
}

}  // namespace kt
