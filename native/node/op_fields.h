// Takes the arguments of an op from JavaScript as its description says (core/ops/describe.h). Each
// kind of field has an overload of Take.
#pragma once

#include <napi.h>

#include <tuple>
#include <vector>

#include "core/ops/ops.h"
#include "node/op_call.h"
#include "node/parse.h"

namespace lora::node {

// The values that fields take. They are the arguments of a call, one after the other, or the
// properties of an object, by name.
class Values {
 public:
  explicit Values(const Napi::CallbackInfo& info) : info_(&info) {}
  explicit Values(Napi::Object object) : object_(object) {}

  Napi::Value Next(const char* name) {
    return info_ != nullptr ? (*info_)[next_++] : object_.Get(name);
  }

 private:
  const Napi::CallbackInfo* info_ = nullptr;
  size_t next_ = 0;
  Napi::Object object_;
};

// Takes each field of a description in order.
template <class A, class... Fields>
void TakeAll(OpCall& call, Values& values, const std::tuple<Fields...>& fields, A& args) {
  std::apply([&](const Fields&... field) { (Take(call, values, field, args), ...); }, fields);
}

// ---- tensors ---------------------------------------------------------------------------------

template <class A>
void Take(OpCall& call, Values& values, const TensorField<A>& field, A& args) {
  const Napi::Value value = values.Next(field.name);
  if (field.optional && IsNone(value)) return;
  args.*field.view = call.Operand(value, field.name, field.access, field.form);
}

template <class A>
void Take(OpCall& call, Values& values, const TensorsField<A>& field, A& args) {
  const Napi::Array list = ParseArray(values.Next(field.name), call.label(), field.name);
  const uint32_t length = list.Length();  // once: an element may be a getter that adds others
  for (uint32_t i = 0; i < length; ++i) {
    const Napi::HandleScope scope(call.env());
    const Napi::Value value = list.Get(i);
    TensorView& view = (args.*field.views).emplace_back();
    // A list of holes may say that it has more elements than there is memory for.
    if (field.optional && value.IsNull()) continue;
    view = call.Operand(value, field.element, field.access, field.form);
  }
}

template <class A>
void Take(OpCall& call, Values& values, const WeightField<A>& field, A& args) {
  call.Weight(&(args.*field.view), values.Next(field.name), field.name);
}

template <class A>
void Take(OpCall& call, Values& values, const TableField<A>& field, A& args) {
  const Napi::Value value = values.Next(field.name);
  if (!IsNone(value)) call.Table(&(args.*field.view), value, field.name);
}

template <class A, class Part>
void Take(OpCall& call, Values& values, const PartsField<A, Part>& field, A& args) {
  const Napi::Array list = ParseArray(values.Next(field.name), call.label(), field.name);
  const uint32_t length = list.Length();  // once: an element may be a getter that adds others
  for (uint32_t i = 0; i < length; ++i) {
    const Napi::HandleScope scope(call.env());
    Values object(ParseObject(list.Get(i), call.label(), field.element));
    // One by one: a list may say that it has more elements than there is memory for.
    Part& part = (args.*field.parts).emplace_back();
    TakeAll(call, object, kDescription<Part>.fields, part);
  }
}

// ---- results ---------------------------------------------------------------------------------

template <class A>
void Take(OpCall& call, Values& values, const ResultField<A>& field, A& args) {
  if (field.wanted != nullptr && !ParseBool(values.Next(field.wanted), call.label(), field.wanted))
    return;
  call.Out(&(args.*field.view), field.rule(args), field.form);
}

template <class A, class Part>
void Take(OpCall& call, Values& values, const ResultsField<A, Part>& field, A& args) {
  const size_t n = (args.*field.parts).size();
  std::vector<bool> wanted(n, true);
  if (field.each) {
    const Napi::Array flags = ParseArray(values.Next(field.wanted), call.label(), field.wanted);
    LORA_CHECK(flags.Length() == n, call.label(), "expected ", field.wanted, " to be a list of ", n,
               " but received one of ", flags.Length());
    for (uint32_t i = 0; i < n; ++i)
      wanted[i] = ParseBool(flags.Get(i), call.label(), field.wanted);
  } else if (field.wanted != nullptr) {
    wanted.assign(n, ParseBool(values.Next(field.wanted), call.label(), field.wanted));
  }
  std::vector<TensorView>& views = args.*field.views;
  views.resize(n);  // now, because the call keeps addresses of elements
  for (size_t i = 0; i < n; ++i)
    if (wanted[i]) call.Out(&views[i], field.rule(args, i), field.form);
}

template <class A>
void Take(OpCall& call, Values& values, const PackedField<A>& field, A& args) {
  const WeightFormat format = ParseFormat(values.Next("format"), call.label());
  const Shape shape = ParseShape(values.Next("shape"), call.label());
  LORA_CHECK(shape.rank() == 2 && shape[0] >= 0 && shape[1] >= 0, call.label(),
             "expected a shape [out, in] but received ", shape);
  const DType activations = ParseDType(values.Next("dtype"), call.label());
  args.*field.format = format;
  args.*field.rows = shape[0];
  args.*field.cols = shape[1];
  args.*field.activations = activations;
  call.Packed(&(args.*field.packed), {nullptr, format, activations, shape[0], shape[1]});
}

// ---- numbers and words -----------------------------------------------------------------------

template <class A, class T>
void Take(OpCall& call, Values& values, const NumberField<A, T>& field, A& args) {
  const Napi::Value value = values.Next(field.name);
  const auto parse = field.nan ? ParseAnyNumber : ParseNumber;
  args.*field.to = static_cast<T>(parse(value, call.label(), field.name));
}

template <class A, class T>
void Take(OpCall& call, Values& values, const WholeField<A, T>& field, A& args) {
  args.*field.to = static_cast<T>(
      ParseInteger(values.Next(field.name), call.label(), field.name, field.least, field.kMax));
}

template <class A>
void Take(OpCall& call, Values& values, const FlagField<A>& field, A& args) {
  args.*field.to = ParseBool(values.Next(field.name), call.label(), field.name);
}

template <class A, class E>
void Take(OpCall& call, Values& values, const ChoiceField<A, E>& field, A& args) {
  const size_t choice = ParseChoice(values.Next(field.name), call.label(), field.name, field.words);
  args.*field.to = field.values ? field.values[choice] : static_cast<E>(choice);
  if (field.labels) call.Relabel(field.words[choice]);
}

template <class A, class T>
void Take(OpCall& call, Values& values, const WholesField<A, T>& field, A& args) {
  const Napi::Array list = ParseArray(values.Next(field.name), call.label(), field.name);
  const uint32_t length = list.Length();  // once: an element may be a getter that adds others
  for (uint32_t i = 0; i < length; ++i)
    (args.*field.to)
        .push_back(
            static_cast<T>(ParseInteger(list.Get(i), call.label(), field.name, 0, field.most)));
}

template <class A>
void Take(OpCall& call, Values& values, const DTypeField<A>& field, A& args) {
  (args.*field.of).dtype = ParseDType(values.Next("dtype"), call.label());
}

template <class A>
void Take(OpCall& call, Values& values, const ShapeField<A>& field, A& args) {
  (args.*field.of).shape = ParseShape(values.Next("shape"), call.label());
}

template <class A, class Part>
void Take(OpCall& call, Values& values, const PartField<A, Part>& field, A& args) {
  const Napi::Value value = values.Next(field.name);
  if (IsNone(value)) return;
  Values part(ParseObject(value, call.label(), field.name));
  TakeAll(call, part, kDescription<Part>.fields, args.*field.part);
}

template <class... Fields, class A>
void Take(OpCall& call, Values& values, const OptionsField<Fields...>& field, A& args) {
  Values options(ParseObject(values.Next("options"), call.label(), "options"));
  TakeAll(call, options, field.fields, args);
}

template <class A>
void Take(OpCall& call, Values& values, const DeviceField&, A&) {
  call.On(values.Next("device"));
}

template <class A>
void Take(OpCall& call, Values& values, const GuardField&, A&) {
  call.Guarded(
      call.state().Unwrap(values.Next("guard"), Kind::kGuard, call.label(), "guard").guard);
}

// ---- what the call answers -------------------------------------------------------------------

// Appends the handles of a field's results.
template <class Field, class A>
void Give(OpCall&, const Field&, const A&, std::vector<Napi::Value>&) {}

template <class A>
void Give(OpCall& call, const ResultField<A>& field, const A& args,
          std::vector<Napi::Value>& values) {
  values.push_back(call.ResultOf(args.*field.view));
}

template <class A>
void Give(OpCall& call, const PackedField<A>&, const A&, std::vector<Napi::Value>& values) {
  values.push_back(call.PackedResult());
}

template <class A, class Part>
void Give(OpCall& call, const ResultsField<A, Part>& field, const A& args,
          std::vector<Napi::Value>& values) {
  Napi::Array list = Napi::Array::New(call.env(), (args.*field.views).size());
  uint32_t i = 0;
  for (const TensorView& view : args.*field.views) list.Set(i++, call.ResultOf(view));
  values.push_back(list);
}

}  // namespace lora::node
