// Defines the exception type of the native side, and the check that throws it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace lora {

// Becomes a LoRAError in JavaScript with the same `code` and `op`.
class Error : public std::runtime_error {
 public:
  Error(std::string code, std::string op, const std::string& message)
      : std::runtime_error(message), code_(std::move(code)), op_(std::move(op)) {}
  const std::string& code() const { return code_; }
  const std::string& op() const { return op_; }

 private:
  std::string code_;
  std::string op_;
};

template <class... Parts>
[[noreturn]] void Throw(const char* code, const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << '[' << op << "] ";
  (message << ... << parts);
  throw Error(code, op, message.str());
}

}  // namespace lora

// Throws ERR_ARGUMENT: LORA_CHECK(cond, "op", "expected ", what, " but received ", got).
#define LORA_CHECK(cond, op, ...)                                \
  do {                                                           \
    if (!(cond)) ::lora::Throw("ERR_ARGUMENT", op, __VA_ARGS__); \
  } while (0)
