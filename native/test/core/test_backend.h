// A backend without ops, whose contexts tell how many threads they have.
#pragma once

#include <memory>

#include "core/ops/backend.h"

namespace lora {

class CountingContext final : public Context {
 public:
  explicit CountingContext(int threads) : threads_(threads) {}
  int threads() const override { return threads_; }

 private:
  int threads_;
};

inline Backend TestBackend() {
  Backend backend;
  backend.name = "test";
  backend.create_context = [](int threads) -> std::unique_ptr<Context> {
    return std::make_unique<CountingContext>(threads);
  };
  return backend;
}
inline const Backend kBackend = TestBackend();

}  // namespace lora
