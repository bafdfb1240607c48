// The parts of an op's description (describe.h): each field describes one member of the arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <type_traits>
#include <vector>

#include "core/ops/delta_table.h"
#include "core/ops/tensor_view.h"

namespace lora {

// How an op treats a tensor, and what a failure does to that tensor. An op with a failed kIn,
// kInOut or kUpdate operand does not run; its outputs inherit that operand's failure.
enum class Access : uint8_t {
  kIn,      // read
  kOut,     // written whole: good after a success, failed after a failure
  kInOut,   // read and written (accumulate): failed after a failure, for its value would be wrong
  kUpdate,  // read and written (adamw): keeps value and status; the guard remembers the failure
};

// The shape in which an op sees a tensor that JavaScript sees in another.
enum class Form : uint8_t {
  kSame,
  kRows,    // [.., d] as [n, d]
  kFlat,    // [..] as [n]
  kScalar,  // [] as [1]
};

// ---- tensors that the caller brings ----------------------------------------------------------

template <class A>
struct TensorField {
  const char* name;
  TensorView A::* view;
  Access access;
  Form form = Form::kSame;
  bool optional = false;
  bool activation = false;

  // The op sees its leading dimensions, or all of them, as one.
  constexpr TensorField Rows() const {
    return {name, view, access, Form::kRows, optional, activation};
  }
  constexpr TensorField Flat() const {
    return {name, view, access, Form::kFlat, optional, activation};
  }
  // null stands for an absent tensor.
  constexpr TensorField OrNone() const { return {name, view, access, form, true, activation}; }
  // Its dtype is that of the op's activations. Only backends that say so take f16 there, for
  // inference (Backend::f16_activations).
  constexpr TensorField Activation() const { return {name, view, access, form, optional, true}; }

  template <class Args, class F>
  void Walk(Args& args, F& f) const {
    f(args.*view, access);
  }
};
template <class A>
constexpr TensorField<A> In(const char* name, TensorView A::* view) {
  return {name, view, Access::kIn};
}
template <class A>
constexpr TensorField<A> InOut(const char* name, TensorView A::* view) {
  return {name, view, Access::kInOut};
}
template <class A>
constexpr TensorField<A> Update(const char* name, TensorView A::* view) {
  return {name, view, Access::kUpdate};
}
template <class A>
constexpr TensorField<A> Overwrite(const char* name, TensorView A::* view) {
  return {name, view, Access::kOut};
}

// A list of tensors. Error sentences call one of them `element`.
template <class A>
struct TensorsField {
  const char* name;
  const char* element;
  std::vector<TensorView> A::* views;
  Access access;
  Form form = Form::kSame;
  bool optional = false;

  constexpr TensorsField Rows() const { return {name, element, views, access, Form::kRows}; }
  // null stands for an absent tensor.
  constexpr TensorsField OrNone() const { return {name, element, views, access, form, true}; }

  template <class Args, class F>
  void Walk(Args& args, F& f) const {
    for (auto& view : args.*views) f(view, access);
  }
};
template <class A>
constexpr TensorsField<A> InEach(const char* name, const char* element,
                                 std::vector<TensorView> A::* views) {
  return {name, element, views, Access::kIn};
}
template <class A>
constexpr TensorsField<A> InOutEach(const char* name, const char* element,
                                    std::vector<TensorView> A::* views) {
  return {name, element, views, Access::kInOut};
}

// A frozen matrix.
template <class A>
struct WeightField {
  const char* name;
  PackedView A::* view;
  bool activation = false;

  // See TensorField.
  constexpr WeightField Activation() const { return {name, view, true}; }

  template <class Args, class F>
  void Walk(Args& args, F& f) const {
    f(args.*view);
  }
};
template <class A>
constexpr WeightField<A> Weight(const char* name, PackedView A::* view) {
  return {name, view};
}

// A table of changes, or null.
template <class A>
struct TableField {
  const char* name;
  DeltaTableView A::* view;

  template <class Args, class F>
  void Walk(Args& args, F& f) const {
    f(args.*view);
  }
};
template <class A>
constexpr TableField<A> MaybeTable(const char* name, DeltaTableView A::* view) {
  return {name, view};
}

// A list of structs that describe their own fields: Part::Describe(). They are objects in
// JavaScript. Error sentences call one of them `element`.
template <class A, class Part>
struct PartsField {
  const char* name;
  const char* element;
  std::vector<Part> A::* parts;

  template <class Args, class F>
  void Walk(Args& args, F& f) const {
    for (auto& part : args.*parts) ForEachOperand(part, f);  // describe.h
  }
};
template <class A, class Part>
constexpr PartsField<A, Part> Each(const char* name, const char* element,
                                   std::vector<Part> A::* parts) {
  return {name, element, parts};
}

// ---- results ---------------------------------------------------------------------------------

// The dtype and shape of a result. Rules compute them from arguments that are not checked yet.
struct Result {
  DType dtype = DType::kF32;
  Shape shape;
  bool present = true;
};
inline Result F32Result(const Shape& shape) { return {DType::kF32, shape}; }
inline Result NoResult() { return {DType::kF32, {}, false}; }
// Out("y", &A::y, Like<&A::x>) gives y the dtype and shape of x.
template <auto kView, class A>
Result Like(const A& args) {
  return {(args.*kView).dtype, (args.*kView).shape};
}

template <class A>
struct ResultField {
  const char* name;
  TensorView A::* view;
  Result (*rule)(const A&);
  const char* wanted = nullptr;  // the name of a boolean; null where it is always wanted
  Form form = Form::kSame;
  bool activation = false;
  bool optional = false;

  // JavaScript sees it with the leading dimensions of the first operand that has Rows() or Flat().
  constexpr ResultField Rows() const {
    return {name, view, rule, wanted, Form::kRows, activation, optional};
  }
  constexpr ResultField If(const char* flag) const {
    return {name, view, rule, flag, form, activation, optional};
  }
  // Its rule may say that there is none, which is null in JavaScript.
  constexpr ResultField OrNone() const {
    return {name, view, rule, wanted, form, activation, true};
  }
  // See TensorField.
  constexpr ResultField Activation() const {
    return {name, view, rule, wanted, form, true, optional};
  }

  template <class Args, class F>
  void Walk(Args& args, F& f) const {
    f(args.*view, Access::kOut);
  }
};
template <class A>
constexpr ResultField<A> Out(const char* name, TensorView A::* view,
                             std::type_identity_t<Result (*)(const A&)> rule) {
  return {name, view, rule};
}
// A result of one f32, whose shape is [] in JavaScript.
template <class A>
constexpr ResultField<A> OutScalar(const char* name, TensorView A::* view) {
  return {name, view, [](const A&) { return F32Result({1}); }, nullptr, Form::kScalar};
}

// A list of results, one for each element of another list.
template <class A, class Part>
struct ResultsField {
  const char* name;
  std::vector<TensorView> A::* views;
  std::vector<Part> A::* parts;
  Result (*rule)(const A&, size_t i);
  const char* wanted = nullptr;  // the name of a boolean; null where all are always wanted
  bool each = false;             // `wanted` is a list of booleans instead
  Form form = Form::kSame;

  // See ResultField.
  constexpr ResultsField Rows() const {
    return {name, views, parts, rule, wanted, each, Form::kRows};
  }
  constexpr ResultsField If(const char* flag) const {
    return {name, views, parts, rule, flag, false, form};
  }
  constexpr ResultsField IfEach(const char* flags) const {
    return {name, views, parts, rule, flags, true, form};
  }

  template <class Args, class F>
  void Walk(Args& args, F& f) const {
    for (auto& view : args.*views) f(view, Access::kOut);
  }
};
template <class A, class Part>
constexpr ResultsField<A, Part> OutEach(const char* name, std::vector<TensorView> A::* views,
                                        std::vector<Part> A::* parts,
                                        std::type_identity_t<Result (*)(const A&, size_t)> rule) {
  return {name, views, parts, rule};
}

// ---- numbers and words -----------------------------------------------------------------------

struct NoTensor {
  template <class Args, class F>
  void Walk(Args&, F&) const {}
};

// A float or a double.
template <class A, class T>
struct NumberField : NoTensor {
  const char* name;
  T A::* to;
  bool nan;  // whether NaN is taken
  constexpr NumberField OrNaN() const { return {{}, name, to, true}; }
};
template <class A, class T>
constexpr NumberField<A, T> Number(const char* name, T A::* to) {
  return {{}, name, to, false};
}

// A whole number of at most 2^53, or of at most 2^32 - 1 where T has 32 bits.
template <class A, class T>
struct WholeField : NoTensor {
  const char* name;
  T A::* to;
  int64_t least;
  static constexpr int64_t kMax = sizeof(T) == 4 ? 0xffffffff : int64_t{1} << 53;
};
template <class A, class T>
constexpr WholeField<A, T> Whole(const char* name, T A::* to, int64_t least = 0) {
  return {{}, name, to, least};
}

template <class A>
struct FlagField : NoTensor {
  const char* name;
  bool A::* to;
};
template <class A>
constexpr FlagField<A> Flag(const char* name, bool A::* to) {
  return {{}, name, to};
}

// One of `words`; the index of the word is the value of the enumerator, or its place in `values`.
template <class A, class E>
struct ChoiceField : NoTensor {
  const char* name;
  E A::* to;
  std::span<const char* const> words;
  bool labels;
  const E* values = nullptr;
  // Error sentences begin with the chosen word instead of the op's label.
  constexpr ChoiceField Labels() const { return {{}, name, to, words, true, values}; }
  constexpr ChoiceField Among(const E* of) const { return {{}, name, to, words, labels, of}; }
};
template <class A, class E>
constexpr ChoiceField<A, E> Choice(const char* name, E A::* to,
                                   std::span<const char* const> words) {
  return {{}, name, to, words, false};
}

// A list of whole numbers from 0 to `most`.
template <class A, class T>
struct WholesField : NoTensor {
  const char* name;
  std::vector<T> A::* to;
  int64_t most;
};
template <class A, class T>
constexpr WholesField<A, T> Wholes(const char* name, std::vector<T> A::* to, int64_t most) {
  return {{}, name, to, most};
}

// The dtype or the shape that the caller asks of a result. The rule of the result reads it.
template <class A>
struct DTypeField : NoTensor {
  TensorView A::* of;
};
template <class A>
struct ShapeField : NoTensor {
  TensorView A::* of;
};
template <class A>
constexpr DTypeField<A> DTypeOf(TensorView A::* of) {
  return {{}, of};
}
template <class A>
constexpr ShapeField<A> ShapeOf(TensorView A::* of) {
  return {{}, of};
}

// A frozen matrix as the backend keeps it, which is a weight in JavaScript. The caller gives its
// format, its shape and the dtype of the activations.
template <class A>
struct PackedField : NoTensor {
  void* A::* packed;
  WeightFormat A::* format;
  int64_t A::*rows, A::*cols;
  DType A::* activations;
};
template <class A>
constexpr PackedField<A> OutPacked(void* A::* packed, WeightFormat A::* format, int64_t A::* rows,
                                   int64_t A::* cols, DType A::* activations) {
  return {{}, packed, format, rows, cols, activations};
}

// The device of an op that has no operand on one.
struct DeviceField : NoTensor {};
constexpr DeviceField OnDevice() { return {}; }

// The guard that remembers a skipped update.
struct GuardField : NoTensor {};
constexpr GuardField Guarded() { return {}; }

// A struct that describes its own fields. It is an object in JavaScript, or null, which leaves the
// struct as it is.
template <class A, class Part>
struct PartField : NoTensor {
  const char* name;
  Part A::* part;
};
template <class A, class Part>
constexpr PartField<A, Part> MaybePart(const char* name, Part A::* part) {
  return {{}, name, part};
}

// Fields that are the properties of one object, "options", in JavaScript.
template <class... Fields>
struct OptionsField : NoTensor {
  std::tuple<Fields...> fields;
};
template <class... Fields>
constexpr OptionsField<Fields...> Options(Fields... fields) {
  return {{}, std::tuple<Fields...>(fields...)};
}

}  // namespace lora
