// The words in which an op is described: once, beside its arguments (linear.h, layers.h, …).
//
//   struct RmsNormForwardArgs {
//     TensorView x, addend, weight;
//     float eps = 0;
//     TensorView sum, y, rstd;
//     float offset = 0;
//
//     static constexpr auto Describe() {
//       using A = RmsNormForwardArgs;
//       return OpDescription{
//           "rms_norm_forward",
//           "rms_norm",
//           In("x", &A::x).Rows(),
//           In("addend", &A::addend).Rows().OrNone(),
//           In("weight", &A::weight),
//           Number("eps", &A::eps),
//           Number("offset", &A::offset),
//           DTypeOf(&A::y),
//           Out("sum", &A::sum,
//               [](const A& a) { return Result{a.x.dtype, a.x.shape, a.addend.defined}; })
//               .Rows()
//               .OrNone(),
//           Out("y", &A::y, [](const A& a) { return Result{a.y.dtype, a.x.shape}; })
//               .Rows()
//               .Activation(),
//           Out("rstd", &A::rstd, [](const A& a) { return F32Result({a.x.dim(0)}); })
//               .If("keepRstd"),
//       };
//     }
//   };
//
// Three things follow from a description:
//   - The walk over the op's tensors, ForEachOperand below, which the tests' mirror uses.
//   - The op's function for JavaScript,
//       rmsNormForward(x, addend, weight, eps, offset, dtype, keepRstd) → [sum, y, rstd],
//     which node/ops.cc makes. It takes its arguments in the order of the fields, and its error
//     sentences use the fields' names. Its type in TypeScript follows too
//     (test/core/op_types_test.cc).
//   - The op's entry in the table of every backend (backend.h), which the op's file there fills
//     (backend/NAME/kernels.h).
#pragma once

#include <cctype>
#include <cstddef>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "core/ops/fields.h"

namespace lora {

template <class... Fields>
struct PartDescription {
  explicit constexpr PartDescription(Fields... fields) : fields(fields...) {}
  std::tuple<Fields...> fields;
};

template <class... Fields>
struct OpDescription {
  constexpr OpDescription(const char* name, const char* label, Fields... fields)
      : name(name), label(label), fields(fields...) {}
  const char* name;   // "rms_norm_forward" is rmsNormForward in JavaScript
  const char* label;  // error sentences begin with it
  std::tuple<Fields...> fields;
};

// The description of the op with these arguments, or of a part of them.
template <class Args>
inline constexpr auto kDescription = Args::Describe();

template <class Args, class F>
constexpr void ForEachField(F f) {
  std::apply([&](const auto&... field) { (f(field), ...); }, kDescription<Args>.fields);
}

// Calls f(TensorView&, Access) for each tensor of the arguments, defined or not, and f(PackedView&)
// for each frozen matrix, and f(DeltaTableView&) for each table. Args may be const.
template <class Args, class F>
void ForEachOperand(Args& args, F&& f) {
  ForEachField<std::remove_const_t<Args>>([&](const auto& field) { field.Walk(args, f); });
}

// Returns the word that error sentences about these arguments begin with.
template <class Args>
const char* LabelOf(const Args& args) {
  const char* label = kDescription<Args>.label;
  ForEachField<Args>([&](const auto& field) {
    if constexpr (requires { field.labels; })
      if (field.labels) label = field.words[static_cast<size_t>(args.*field.to)];
  });
  return label;
}

// Returns the dtype of the tensor that the description marks with Activation(), or of those that
// will read a packed matrix, or f32.
template <class Args>
DType ActivationOf(const Args& args) {
  DType dtype = DType::kF32;
  ForEachField<Args>([&](const auto& field) {
    if constexpr (requires { field.activation; })
      if (field.activation) dtype = (args.*field.view).dtype;
    if constexpr (requires { field.activations; }) dtype = args.*field.activations;
  });
  return dtype;
}

// Returns the name in JavaScript: "rmsNormForward" for "rms_norm_forward".
inline std::string JavaScriptName(std::string_view name) {
  std::string result;
  for (size_t i = 0; i < name.size(); ++i)
    result += name[i] == '_'
                  ? static_cast<char>(std::toupper(static_cast<unsigned char>(name[++i])))
                  : name[i];
  return result;
}

// A list of ops by their arguments.
template <class... Args>
struct OpList {
  // Calls f(std::type_identity<Args>()) for each op.
  template <class F>
  static void ForEach(F f) {
    (f(std::type_identity<Args>()), ...);
  }
};
template <class... Some, class... Others>
OpList<Some..., Others...> operator+(OpList<Some...>, OpList<Others...>);

}  // namespace lora
