// Arrays from Python: what they must be, and the exact fact when they are not.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

#include "../core/routing.h"
#include "../isa/abi.h"

namespace kt {

namespace nb = nanobind;
using Array = nb::ndarray<>;
using ConstArray = nb::ndarray<nb::ro>;

inline std::string shape_text(const std::vector<size_t>& dims) {
  std::string s = "[";
  for (size_t i = 0; i < dims.size(); ++i) s += (i ? ", " : "") + std::to_string(dims[i]);
  return s + "]";
}

inline bool is_dtype(nb::dlpack::dtype t, nb::dlpack::dtype_code code, int bits) {
  return t.code == uint8_t(code) && t.bits == bits && t.lanes == 1;
}

inline std::string dtype_text(nb::dlpack::dtype t) {
  static const char* const names[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  return (t.code < 7 ? names[t.code] : "type " + std::to_string(t.code) + " of ") + std::string(std::to_string(t.bits));
}

// Any array on the CPU with C order and exactly this shape.
template <class A>
void check_array(const A& a, const char* name, const std::vector<size_t>& shape) {
  if (a.device_type() != nb::device::cpu::value)
    throw nb::value_error((std::string(name) + " must be in CPU memory").c_str());
  std::vector<size_t> given;
  for (size_t i = 0; i < a.ndim(); ++i) given.push_back(a.shape(i));
  if (given != shape)
    throw nb::value_error(
        (std::string(name) + " has shape " + shape_text(given) + ", not " + shape_text(shape)).c_str());
  if (a.size() == 0) return;
  int64_t stride = 1;
  for (size_t i = a.ndim(); i-- > 0; stride *= int64_t(a.shape(i)))
    if (a.shape(i) > 1 && a.stride(i) != stride)
      throw nb::value_error((std::string(name) + " must be contiguous").c_str());
}

// uint16 arrays hold bf16, as numpy has no such type.
template <class A>
Dtype float_dtype(const A& a, const char* name) {
  using C = nb::dlpack::dtype_code;
  const auto t = a.dtype();
  if (is_dtype(t, C::Float, 32)) return Dtype::f32;
  if (is_dtype(t, C::Float, 16)) return Dtype::f16;
  if (is_dtype(t, C::Bfloat, 16) || is_dtype(t, C::UInt, 16)) return Dtype::bf16;
  throw nb::type_error(
      (std::string(name) + " is " + dtype_text(t) + ", not float32, float16 or bfloat16 (uint16 in numpy)").c_str());
}

inline Ids ids_of(const ConstArray& a) {
  using C = nb::dlpack::dtype_code;
  if (is_dtype(a.dtype(), C::Int, 32)) return {a.data(), false};
  if (is_dtype(a.dtype(), C::Int, 64)) return {a.data(), true};
  throw nb::type_error(("ids are " + dtype_text(a.dtype()) + ", not int32 or int64").c_str());
}

inline const uint8_t* mask_of(const ConstArray& a) {
  const auto t = a.dtype();
  if (t.code == uint8_t(nb::dlpack::dtype_code::Bool) || is_dtype(t, nb::dlpack::dtype_code::UInt, 8))
    return static_cast<const uint8_t*>(a.data());
  throw nb::type_error(("mask is " + dtype_text(t) + ", not bool").c_str());
}

}  // namespace kt
