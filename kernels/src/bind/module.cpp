#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <atomic>
#include <memory>
#include <optional>

#include "../core/back_forward.h"
#include "../core/backward.h"
#include "../core/checksum.h"
#include "../core/cpu.h"
#include "../core/errors.h"
#include "../core/forward.h"
#include "../core/host_call.h"
#include "../core/limits.h"
#include "../core/pool.h"
#include "../core/submit.h"
#include "../core/switch.h"
#include "../core/wait.h"
#include "arrays.h"
#include "in_flight.h"
#include "low_rank.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kt {

void bind_gpu(nb::module_& m);  // after HostCall
void bind_nodes(nb::module_& m);
void bind_tuning(nb::module_& m);

namespace {

std::atomic<const Kernels*> g_kernels{nullptr};

const Kernels& kernels() {
  const Kernels* k = g_kernels.load();
  if (!k) g_kernels.store(k = choose_kernels(""));
  return *k;
}

using CodingName = std::pair<std::string, int>;  // format, group

class Experts {
 public:
  Experts(int experts, int hidden, int intermediate, const CodingName& up, const CodingName& down, int top_k, bool gelu)
      : top_k_(top_k), act_(gelu ? Act::gelu : Act::silu) {
    weights_ = std::make_unique<Weights>(Shape{experts, hidden, intermediate}, need(up), need(down));
  }

  Experts(const std::string& path, size_t data_at, size_t file_bytes, int experts, int hidden, int intermediate,
          const CodingName& up, const CodingName& down, int top_k, bool gelu)
      : top_k_(top_k), act_(gelu ? Act::gelu : Act::silu) {
    const Layout layout(Shape{experts, hidden, intermediate}, need(up), need(down));
    if (data_at + layout.bytes() != file_bytes)
      throw FormatError(path + ": holds " + std::to_string(file_bytes - data_at) +
                        " bytes of weights, its header says " + std::to_string(layout.bytes()));
    weights_ = std::make_unique<Weights>(layout, Region(path, file_bytes), data_at);
  }

  // What is left out stays as it is.
  void set_expert(int e, const std::optional<ConstArray>& gate, const std::optional<ConstArray>& up,
                  const std::optional<ConstArray>& down) {
    const Shape& s = layout().shape;
    check_expert(e);
    const size_t h = size_t(s.hidden), i = size_t(s.intermediate);
    const Source g = source(gate, "gate", {i, h}), u = source(up, "up", {i, h}), d = source(down, "down", {h, i});
    nb::gil_scoped_release released;
    PoolLock lock;
    weights_->set_expert(e, g, u, d, kernels());
  }

  // Codes as bytes [n, k], scales as bytes [n, groups · width], minima f16 as uint16 [n, groups].
  void set_codes(int e, int matrix, const ConstArray& codes, const ConstArray& scales,
                 const std::optional<ConstArray>& minima, const std::optional<ConstArray>& row_scales) {
    check_expert(e);
    if (matrix < 0 || matrix > 2) throw nb::index_error("a matrix is 0, 1 or 2");
    const auto p = Projection(matrix);
    const Coding& coding = layout().stack(p).coding;
    const Format& f = *coding.format;
    if (!f.ints()) throw nb::value_error((std::string(f.name) + " has no codes").c_str());
    const size_t n = size_t(layout().rows(p)), k = size_t(layout().depth(p)), group = size_t(coding.group);
    const size_t groups = f.grouped() ? (k + group - 1) / group : 0;
    const CodeRows from = {
        .codes = static_cast<const unsigned char*>(exact(codes, "codes", {n, k}, 8)),
        .scales = static_cast<const char*>(exact(scales, "scales", {n, groups * f.scale_width()}, 8)),
        .minima = static_cast<const char*>(needed(minima, "minima", f.minimum, {n, groups}, 16)),
        .row_scales = static_cast<const float*>(needed(row_scales, "row scales", f.row, {n}, 32)),
        .rows = int(n),
        .k = int(k),
        .groups = int(groups)};
    nb::gil_scoped_release released;
    PoolLock lock;
    weights_->set_codes(e, p, from);
  }

  void forward(const ConstArray& x, const ConstArray& ids, const ConstArray& weights,
               const std::optional<ConstArray>& mask, const Array& out) const {
    const Call call = checked(x, ids, weights, mask, out);
    nb::gil_scoped_release released;
    PoolLock lock;
    kt::forward(*weights_, call, kernels());
  }

  void backward(const ConstArray& x, const ConstArray& ids, const ConstArray& weights,
                const std::optional<ConstArray>& mask, const ConstArray& dout, const Array& dx, const Array& dweights,
                const std::vector<ConstArray>& low_rank, const std::vector<Array>& grads, float scale) const {
    const Call c = checked(x, ids, weights, mask, dx);
    const size_t tokens = size_t(c.tokens);
    check_array(dout, "dout", {tokens, size_t(layout().shape.hidden)});
    check_array(dweights, "dweights", {tokens, size_t(top_k_)});
    if (float_dtype(dout, "dout") != c.dtype) throw nb::type_error("dout and x differ in dtype");
    if (float_dtype(dweights, "dweights") != Dtype::f32) throw nb::type_error("dweights must be float32");
    Lora lora;
    if (!low_rank.empty()) lora = lora_of(layout().shape, low_rank, grads, scale);
    const BackCall call = {.x = c.x,
                           .dout = static_cast<const char*>(dout.data()),
                           .dx = c.out,
                           .dtype = c.dtype,
                           .ids = c.ids,
                           .weights = c.weights,
                           .dweights = static_cast<float*>(dweights.data()),
                           .mask = c.mask,
                           .tokens = c.tokens,
                           .top_k = c.top_k,
                           .act = c.act,
                           .lora = low_rank.empty() ? nullptr : &lora};
    nb::gil_scoped_release released;
    PoolLock lock;
    kt::backward(*weights_, call, kernels());
  }

  void forward_low_rank(const ConstArray& x, const ConstArray& ids, const ConstArray& weights,
                        const std::optional<ConstArray>& mask, const Array& out,
                        const std::vector<ConstArray>& low_rank, float scale) const {
    const Call c = checked(x, ids, weights, mask, out);
    const Lora lora = lora_of(layout().shape, low_rank, {}, scale);
    const BackCall call = {.x = c.x,
                           .dout = nullptr,
                           .dx = c.out,
                           .dtype = c.dtype,
                           .ids = c.ids,
                           .weights = c.weights,
                           .mask = c.mask,
                           .tokens = c.tokens,
                           .top_k = c.top_k,
                           .act = c.act,
                           .lora = &lora};
    nb::gil_scoped_release released;
    PoolLock lock;
    kt::forward_low_rank(*weights_, call, kernels());
  }

  // Seconds of each phase of one forward.
  std::vector<double> phases(const ConstArray& x, const ConstArray& ids, const ConstArray& weights,
                             const std::optional<ConstArray>& mask, const Array& out) const {
    Call call = checked(x, ids, weights, mask, out);
    std::vector<double> seconds(kMaxPhases);
    call.seconds = seconds.data();
    nb::gil_scoped_release released;
    PoolLock lock;
    kt::forward(*weights_, call, kernels());
    return seconds;
  }

  // Seconds of one forward, on tiles or on vectors.
  double timed(const ConstArray& x, const ConstArray& ids, const ConstArray& weights, const Array& out,
               bool tiles) const {
    Call call = checked(x, ids, weights, std::nullopt, out);
    if (tiles && !kernels().tile_from) throw nb::value_error("this variant has no tiles");
    call.way = tiles ? Way::tiles : Way::vectors;
    nb::gil_scoped_release released;
    PoolLock lock;
    const long start = now();
    kt::forward(*weights_, call, kernels());
    return 1e-9 * double(now() - start);
  }

  // Arrays and experts stay alive until the call is done.
  uint64_t submit(const ConstArray& x, const ConstArray& ids, const ConstArray& weights,
                  const std::optional<ConstArray>& mask, const Array& out) const {
    const Call call = checked(x, ids, weights, mask, out);
    const Weights* w = weights_.get();
    const Kernels* k = &kernels();
    const uint64_t ticket = kt::submit([call, w, k] {
      PoolLock lock;
      kt::forward(*w, call, *k);
    });
    background().keep({ticket, nb::find(this), x, ids, weights, mask, out});
    return ticket;
  }

  std::unique_ptr<HostCall> host_call(const ConstArray& x, const ConstArray& ids, const ConstArray& weights,
                                      const std::optional<ConstArray>& mask, const Array& out) const {
    return std::make_unique<HostCall>(*weights_, checked(x, ids, weights, mask, out), kernels());
  }

  void copy_expert(int e) {
    check_expert(e);
    nb::gil_scoped_release released;
    weights_->copy_expert(e);
  }

  void unpack(int e, const nb::ndarray<float>& gate, const nb::ndarray<float>& up,
              const nb::ndarray<float>& down) const {
    const size_t h = size_t(layout().shape.hidden), i = size_t(layout().shape.intermediate);
    check_array(gate, "gate", {i, h});
    check_array(up, "up", {i, h});
    check_array(down, "down", {h, i});
    nb::gil_scoped_release released;
    weights_->unpack(e, gate.data(), up.data(), down.data());
  }

  nb::ndarray<nb::numpy, const uint8_t> data() const {
    const size_t shape[1] = {layout().bytes()};
    return nb::ndarray<nb::numpy, const uint8_t>(weights_->data(), 1, shape, nb::find(this));
  }

  LayerKind kind() const { return kind_of(layout(), pool_threads()); }
  bool wants_switch() const { return kernels().tile_from && kt::wants_switch(kernels(), layout(), pool_threads()); }

  const Layout& layout() const { return weights_->layout(); }
  int top_k() const { return top_k_; }

 private:
  static Coding need(const CodingName& coding) {
    const auto& [name, group] = coding;
    const Format* f = find_format(name);
    if (!f) throw nb::value_error(("unknown weight format " + name).c_str());
    for (int g : format_groups(*f))
      if (g == group) return {f, group};
    throw nb::value_error((name + " has no groups of " + std::to_string(group)).c_str());
  }

  void check_expert(int e) const {
    const int experts = layout().shape.experts;
    if (e < 0 || e >= experts)
      throw nb::index_error(("expert " + std::to_string(e) + " of " + std::to_string(experts)).c_str());
  }

  static const void* exact(const ConstArray& a, const char* name, const std::vector<size_t>& shape, int bits) {
    check_array(a, name, shape);
    if (a.dtype().bits != bits || a.dtype().lanes != 1)
      throw nb::type_error((std::string(name) + " are " + dtype_text(a.dtype())).c_str());
    return a.data();
  }

  // What one format has and another has not.
  static const void* needed(const std::optional<ConstArray>& a, const char* name, bool wanted,
                            const std::vector<size_t>& shape, int bits) {
    if (bool(a) != wanted)
      throw nb::value_error((std::string(name) + (wanted ? " are missing" : " have no place")).c_str());
    return a ? exact(*a, name, shape, bits) : nullptr;
  }

  static Source source(const std::optional<ConstArray>& a, const char* name, const std::vector<size_t>& shape) {
    if (!a) return {nullptr, Dtype::f32};
    check_array(*a, name, shape);
    return {static_cast<const char*>(a->data()), float_dtype(*a, name)};
  }

  Call checked(const ConstArray& x, const ConstArray& ids, const ConstArray& weights,
               const std::optional<ConstArray>& mask, const Array& out) const {
    const Shape& s = layout().shape;
    const size_t tokens = x.ndim() ? x.shape(0) : 0, k = size_t(top_k_);
    check_array(x, "x", {tokens, size_t(s.hidden)});
    check_array(out, "out", {tokens, size_t(s.hidden)});
    check_array(ids, "ids", {tokens, k});
    check_array(weights, "weights", {tokens, k});
    if (mask) check_array(*mask, "mask", {size_t(s.experts)});
    const Dtype dtype = float_dtype(x, "x");
    if (float_dtype(out, "out") != dtype) throw nb::type_error("out and x differ in dtype");
    if (float_dtype(weights, "weights") != Dtype::f32) throw nb::type_error("weights must be float32");
    return {.x = static_cast<const char*>(x.data()),
            .out = static_cast<char*>(out.data()),
            .dtype = dtype,
            .ids = ids_of(ids),
            .weights = static_cast<const float*>(weights.data()),
            .mask = mask ? mask_of(*mask) : nullptr,
            .tokens = int(tokens),
            .top_k = top_k_,
            .act = act_};
  }

  std::unique_ptr<Weights> weights_;
  int top_k_;
  Act act_;
};

nb::dict layout_dict(const Experts& e) {
  const Layout& l = e.layout();
  nb::dict d;
  d["bytes"] = l.bytes();
  d["expert_bytes"] = l.expert_bytes;
  d["down_at"] = l.down.first_panel;
  d["up_scale_at"] = l.up.first_scale;
  d["down_scale_at"] = l.down.first_scale;
  d["padded_hidden"] = l.hidden;
  d["padded_intermediate"] = l.intermediate;
  return d;
}

void bind_cpu(nb::module_& m) {
  nb::exception<IsaError>(m, "IsaError", PyExc_RuntimeError);
  nb::exception<FormatError>(m, "FormatError", PyExc_ValueError);
  m.def("features", [] { return cpu().features; });
  m.def("amx", [] { return std::make_pair(cpu().amx_permission, cpu().amx_reason); });
  m.def("variants", [] {
    std::vector<std::pair<std::string, std::string>> v;
    for (const Variant& x : cpu().variants) v.emplace_back(x.name, x.lacks);
    return v;
  });
  m.def("use_isa", [](const std::string& name) { g_kernels.store(choose_kernels(name)); });
  m.def("isa", [] { return std::string(kernels().name); });
  m.def("set_threads", &set_threads, nb::call_guard<nb::gil_scoped_release>());
  m.def("threads", &threads);
  m.def("allowed_cores", &allowed_cores);
  m.def("formats", &format_names);
  m.def("groups", [](const std::string& name) {
    const Format* f = find_format(name);
    if (!f) throw nb::value_error(("unknown weight format " + name).c_str());
    return format_groups(*f);
  });
  m.def("max_threads", [] { return kMaxThreads; });
}

void bind_limits(nb::module_& m) {
  m.def("bandwidth", [](int threads, size_t bytes, double seconds) {
    const Kernels& k = kernels();
    nb::gil_scoped_release released;
    return read_bandwidth(k, threads, bytes, seconds);
  });
  m.def("peak", [](int kind, int threads, double seconds) {
    const Kernels& k = kernels();
    nb::gil_scoped_release released;
    return peak_rate(k, kind, threads, seconds);
  });
  m.def("checksums", [](const nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& data) {
    std::vector<uint32_t> sums((data.size() + kSummed - 1) / kSummed);
    const Kernels& k = kernels();
    {
      nb::gil_scoped_release released;
      checksums(k, reinterpret_cast<const char*>(data.data()), data.size(), sums.data());
    }
    return nb::bytes(sums.data(), sums.size() * sizeof(uint32_t));
  });
  m.def("job_time", [](int phases, double unit, double seconds) {
    nb::gil_scoped_release released;
    PoolLock lock;
    return job_time(phases, unit, seconds);
  });
}

}  // namespace
}  // namespace kt

NB_MODULE(_core, m) {
  using kt::Experts;
  nb::set_leak_warnings(false);
  kt::bind_cpu(m);
  kt::bind_limits(m);
  m.def("wait", [](uint64_t ticket) { kt::background().wait(ticket); });
  nb::class_<kt::HostCall>(m, "HostCall")
      .def("context", [](kt::HostCall& c) { return uintptr_t(&c); })
      .def("take_error", &kt::HostCall::take_error)
      .def_static("submit", [] { return uintptr_t(&kt::HostCall::submit); })
      .def_static("sync", [] { return uintptr_t(&kt::HostCall::sync); });
  kt::bind_gpu(m);
  kt::bind_nodes(m);
  kt::bind_tuning(m);
  nb::class_<Experts>(m, "Experts")
      .def(nb::init<int, int, int, const kt::CodingName&, const kt::CodingName&, int, bool>())
      .def(nb::init<const std::string&, size_t, size_t, int, int, int, const kt::CodingName&, const kt::CodingName&,
                    int, bool>())
      .def("set_expert", &Experts::set_expert, "expert"_a, "gate"_a.noconvert().none(), "up"_a.noconvert().none(),
           "down"_a.noconvert().none())
      .def("set_codes", &Experts::set_codes, "expert"_a, "matrix"_a, "codes"_a.noconvert(), "scales"_a.noconvert(),
           "minima"_a.noconvert().none(), "row_scales"_a.noconvert().none())
      .def("forward", &Experts::forward, "x"_a.noconvert(), "ids"_a.noconvert(), "weights"_a.noconvert(),
           "mask"_a.noconvert().none(), "out"_a.noconvert())
      .def("forward_low_rank", &Experts::forward_low_rank, "x"_a.noconvert(), "ids"_a.noconvert(),
           "weights"_a.noconvert(), "mask"_a.noconvert().none(), "out"_a.noconvert(), "low_rank"_a, "scale"_a)
      .def("backward", &Experts::backward, "x"_a.noconvert(), "ids"_a.noconvert(), "weights"_a.noconvert(),
           "mask"_a.noconvert().none(), "dout"_a.noconvert(), "dx"_a.noconvert(), "dweights"_a.noconvert(),
           "low_rank"_a, "grads"_a, "scale"_a)
      .def("phases", &Experts::phases, "x"_a.noconvert(), "ids"_a.noconvert(), "weights"_a.noconvert(),
           "mask"_a.noconvert().none(), "out"_a.noconvert())
      .def("timed", &Experts::timed, "x"_a.noconvert(), "ids"_a.noconvert(), "weights"_a.noconvert(),
           "out"_a.noconvert(), "tiles"_a)
      .def("kind", &Experts::kind)
      .def("wants_switch", &Experts::wants_switch)
      .def("submit", &Experts::submit, "x"_a.noconvert(), "ids"_a.noconvert(), "weights"_a.noconvert(),
           "mask"_a.noconvert().none(), "out"_a.noconvert())
      // The call keeps the experts and its arrays, and waits for what runs before it lets go of them.
      .def("host_call", &Experts::host_call, "x"_a.noconvert(), "ids"_a.noconvert(), "weights"_a.noconvert(),
           "mask"_a.noconvert().none(), "out"_a.noconvert(), nb::keep_alive<0, 1>(), nb::keep_alive<0, 2>(),
           nb::keep_alive<0, 3>(), nb::keep_alive<0, 4>(), nb::keep_alive<0, 5>(), nb::keep_alive<0, 6>())
      .def("unpack", &Experts::unpack, "expert"_a, "gate"_a.noconvert(), "up"_a.noconvert(), "down"_a.noconvert())
      .def("copy_expert", &Experts::copy_expert)
      .def("data", &Experts::data)
      .def("layout", &kt::layout_dict);
}
