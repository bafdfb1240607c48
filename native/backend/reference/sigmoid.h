#pragma once

#include <cmath>

namespace lora::reference {

inline double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace lora::reference
