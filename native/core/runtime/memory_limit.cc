#include "core/runtime/memory_limit.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <sstream>

#include "core/error.h"

namespace lora {
namespace {

constexpr size_t kGrant = size_t{64} << 20;

}  // namespace

std::optional<size_t> ParseBytes(const std::string& text) {
  // Digits alone: strtod would take hexadecimal numbers, exponents and signs too.
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::string number = text.substr(0, digits);
  char* end = nullptr;
  const double value = std::strtod(number.c_str(), &end);
  if (number.empty() || *end != '\0') return std::nullopt;
  std::string unit;
  for (const char letter : text.substr(digits))
    if (!std::isspace(static_cast<unsigned char>(letter)))
      unit += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  double factor = 1;
  if (!unit.empty() && unit != "b") {
    const size_t power = std::string("kmgt").find(unit[0]);
    const std::string rest = unit.substr(1);
    if (power == std::string::npos || (!rest.empty() && rest != "b" && rest != "ib"))
      return std::nullopt;
    factor = std::pow(rest == "b" ? 1000.0 : 1024.0, static_cast<double>(power + 1));
  }
  if (value * factor >= 1e18) return std::nullopt;
  return static_cast<size_t>(value * factor);
}

std::optional<size_t> BytesFromEnvironment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  const auto bytes = ParseBytes(text);
  LORA_CHECK(bytes, "device", "expected ", name, " to be a size such as 2GiB but received \"", text,
             "\"");
  return bytes;
}

std::string MiBText(size_t bytes, Rounding rounding) {
  const double hundredths = static_cast<double>(bytes) * 100 / (1 << 20);
  std::ostringstream text;
  text.precision(15);
  text << (rounding == Rounding::kUp ? std::ceil(hundredths) : std::floor(hundredths)) / 100
       << " MiB";
  return text.str();
}

size_t MemoryBudget::SystemFree() const {
  // Without a limit of ours the last 1/16 (at most 256 MiB) stays with the system and with V8.
  const size_t available = AvailableMemory(files_);
  return available - std::min(available / 16, size_t{256} << 20);
}

size_t MemoryBudget::free() const {
  const size_t used = used_;
  if (limit_) return *limit_ > used ? *limit_ - used : 0;
  return SystemFree();
}

bool MemoryBudget::TryReserve(size_t bytes) {
  if (limit_) {
    size_t used = used_;
    do {
      if (used > *limit_ || bytes > *limit_ - used) return false;
    } while (!used_.compare_exchange_weak(used, used + bytes));
    return true;
  }
  const std::lock_guard lock(mutex_);
  if (bytes > granted_) {
    const size_t free = SystemFree();
    if (bytes > free) return false;
    granted_ = std::min(free, std::max(bytes, kGrant));
  }
  granted_ -= bytes;
  used_ += bytes;
  return true;
}

MemoryBudget& HostMemoryBudget() {
  static MemoryBudget budget(BytesFromEnvironment("LORA_MEMORY_LIMIT"));
  return budget;
}

}  // namespace lora
