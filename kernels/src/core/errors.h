#pragma once
#include <stdexcept>
#include <string>

namespace kt {

struct IsaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct FormatError : std::runtime_error {  // a packed file that cannot be used
  using std::runtime_error::runtime_error;
};

}  // namespace kt
