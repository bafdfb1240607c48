// Holds lib/native/op_functions.ts, the types of the ops' functions in TypeScript, against the
// descriptions. Where they differ, it writes the file anew and fails once:
//   node scripts/ctest.mjs -R op_types
#include <doctest/doctest.h>

#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/ops/ops.h"

namespace lora::test {
namespace {

constexpr const char* kFile = LORA_SOURCE_DIR "/lib/native/op_functions.ts";

// What a function or an object of TypeScript is made of: "x: NativeTensor".
struct Signature {
  const bool object;
  std::vector<std::string> members, results;

  void Add(std::string_view name, const std::string& type) {
    members.push_back(JavaScriptName(name) + ": " + type);
  }
  // A property that may be absent may also be left out; a parameter may not.
  void AddOrNull(std::string_view name, const std::string& type) {
    members.push_back(JavaScriptName(name) + (object ? "?: " : ": ") + type + " | null");
  }
  void Answer(std::string_view name, const std::string& type) {
    results.push_back(JavaScriptName(name) + ": " + type);
  }
};

std::string Joined(const std::vector<std::string>& parts, const char* between) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

template <class... Fields>
Signature SignatureOf(const std::tuple<Fields...>& fields, bool object = false);

template <class... Fields>
std::string ObjectType(const std::tuple<Fields...>& fields) {
  return "{ " + Joined(SignatureOf(fields, true).members, "; ") + " }";
}

std::string TensorList(bool nullable) {
  return nullable ? "(NativeTensor | null)[]" : "NativeTensor[]";
}

std::string Quoted(std::span<const char* const> words, const char* between) {
  std::vector<std::string> quoted;
  for (const char* word : words) quoted.push_back("'" + std::string(word) + "'");
  return Joined(quoted, between);
}

// ---- what each kind of field adds ------------------------------------------------------------

template <class A>
void Add(Signature& to, const TensorField<A>& field) {
  if (field.optional)
    to.AddOrNull(field.name, "NativeTensor");
  else
    to.Add(field.name, "NativeTensor");
}
template <class A>
void Add(Signature& to, const TensorsField<A>& field) {
  to.Add(field.name, "readonly " + TensorList(field.optional));
}
template <class A>
void Add(Signature& to, const WeightField<A>& field) {
  to.Add(field.name, "NativeWeight");
}
template <class A>
void Add(Signature& to, const TableField<A>& field) {
  to.AddOrNull(field.name, "NativeTable");
}
template <class A, class Part>
void Add(Signature& to, const PartsField<A, Part>& field) {
  to.Add(field.name, "readonly " + ObjectType(kDescription<Part>.fields) + "[]");
}
template <class A, class Part>
void Add(Signature& to, const PartField<A, Part>& field) {
  to.AddOrNull(field.name, ObjectType(kDescription<Part>.fields));
}
template <class... Fields>
void Add(Signature& to, const OptionsField<Fields...>& field) {
  to.Add("options", ObjectType(field.fields));
}
template <class A>
void Add(Signature& to, const ResultField<A>& field) {
  if (field.wanted != nullptr) to.Add(field.wanted, "boolean");
  const bool nullable = field.wanted != nullptr || field.optional;
  to.Answer(field.name, nullable ? "NativeTensor | null" : "NativeTensor");
}
template <class A, class Part>
void Add(Signature& to, const ResultsField<A, Part>& field) {
  if (field.wanted != nullptr) to.Add(field.wanted, field.each ? "readonly boolean[]" : "boolean");
  to.Answer(field.name, TensorList(field.wanted != nullptr));
}
template <class A, class T>
void Add(Signature& to, const NumberField<A, T>& field) {
  to.Add(field.name, "number");
}
template <class A, class T>
void Add(Signature& to, const WholeField<A, T>& field) {
  to.Add(field.name, "number");
}
template <class A>
void Add(Signature& to, const FlagField<A>& field) {
  to.Add(field.name, "boolean");
}
template <class A, class E>
void Add(Signature& to, const ChoiceField<A, E>& field) {
  to.Add(field.name, Quoted(field.words, " | "));
}
template <class A, class T>
void Add(Signature& to, const WholesField<A, T>& field) {
  to.Add(field.name, "readonly number[]");
}
template <class A>
void Add(Signature& to, const DTypeField<A>&) {
  to.Add("dtype", "DType");
}
template <class A>
void Add(Signature& to, const ShapeField<A>&) {
  to.Add("shape", "readonly number[]");
}
template <class A>
void Add(Signature& to, const PackedField<A>&) {
  to.Add("format", Quoted(std::span(kFormatNames).first(kFormatsOfJavaScript), " | "));
  to.Add("shape", "readonly number[]");
  to.Add("dtype", "DType");
  to.Answer("packed", "NativeWeight");
}
void Add(Signature& to, const DeviceField&) { to.Add("device", "NativeDevice"); }
void Add(Signature& to, const GuardField&) { to.Add("guard", "NativeGuard"); }

template <class... Fields>
Signature SignatureOf(const std::tuple<Fields...>& fields, bool object) {
  Signature signature{object, {}, {}};
  std::apply([&](const Fields&... field) { (Add(signature, field), ...); }, fields);
  return signature;
}

// ---- the file --------------------------------------------------------------------------------

// As Answer() of node/ops.cc: nothing, the only result, or an array.
std::string ResultType(const std::vector<std::string>& results) {
  if (results.empty()) return "void";
  if (results.size() > 1) return "[" + Joined(results, ", ") + "]";
  return results[0].substr(results[0].find(": ") + 2);
}

std::string FileText() {
  std::ostringstream text;
  text << "// Written by native/test/core/op_types_test.cc from the descriptions in\n"
          "// native/core/ops, which has formulas and shapes.\n"
          "import type { DType } from './dtype';\n"
          "import type { NativeDevice, NativeGuard, NativeTable, NativeTensor, NativeWeight } from "
          "'./handles';\n\n"
          "/** A function for each op. Scalars have shape []. */\n"
          "export interface OpFunctions {\n";
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) {
    const Signature signature = SignatureOf(kDescription<Args>.fields);
    text << "  " << JavaScriptName(kDescription<Args>.name) << "(\n";
    for (const std::string& parameter : signature.members) text << "    " << parameter << ",\n";
    text << "  ): " << ResultType(signature.results) << ";\n";
  });
  text << "}\n";
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) {
    ForEachField<Args>([&](const auto& field) {
      if constexpr (requires { field.words; })
        if (field.labels && !std::string_view(kDescription<Args>.name).ends_with("_backward"))
          text << "export const " << kDescription<Args>.name << "Kinds = ["
               << Quoted(field.words, ", ") << "] as const;\n";
    });
  });
  return text.str();
}

TEST_CASE("the types of the ops' functions follow their descriptions") {
  const std::string text = FileText();
  std::ostringstream written;
  written << std::ifstream(kFile).rdbuf();
  if (written.str() == text) return;
  std::ofstream(kFile) << text;
  FAIL(kFile << " was not what the descriptions say; this run has written it anew");
}

}  // namespace
}  // namespace lora::test
