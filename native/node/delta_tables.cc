// createDeltaTable() and setDeltaSlot(): the changes of adapters for calls whose rows have adapters
// of their own (core/ops/delta_table.h).
#include <cmath>

#include "node/api.h"
#include "node/op_call.h"

namespace lora::node {
namespace {

constexpr const char* kLabel = "delta_table";

// One entry on its way into the table. What failed before it was set becomes a failed entry.
struct Incoming {
  DeltaEntry entry;
  StatusPtr up, down, factor;  // of the factor: or null
};

std::vector<DeltaSite> ParseSites(Napi::Value value) {
  const Napi::Array list = ParseArray(value, kLabel, "sites");
  const uint32_t length = list.Length();
  LORA_CHECK(length > 0, kLabel, "expected at least one site but received none");
  std::vector<DeltaSite> sites;
  for (uint32_t i = 0; i < length; ++i) {
    const Napi::HandleScope scope(value.Env());
    const Shape shape = ParseShape(list.Get(i), kLabel);
    LORA_CHECK(shape.rank() == 2, kLabel,
               "expected a site to be the shape of a weight, [out, in], but received ", shape);
    sites.push_back({shape[0], shape[1]});
  }
  return sites;
}

// Writes entries of a slot, or of the whole table, when the commands before are done.
void EnqueueEntries(EnvState& state, const TableRef& table, size_t first,
                    std::vector<Incoming> incoming) {
  Device& device = *table.entries->device();
  Command command;
  command.op = kLabel;
  command.bytes = incoming.size() * sizeof(DeltaEntry);
  command.operands = {{table.entries->status(), Access::kInOut}};
  command.copies_from_host = true;
  auto* const to = static_cast<DeltaEntry*>(table.entries->data()) + first;
  command.run = [&device, to, copy = table.entries->status()->host_copy.get(),
                 incoming = std::move(incoming)](Scratch, Context& context) {
    std::vector<DeltaEntry> entries;
    for (const Incoming& from : incoming) {
      entries.push_back(from.entry);
      if (from.entry.rank > 0 &&
          (from.up->failure || from.down->failure || (from.factor && from.factor->failure))) {
        entries.back() = {nullptr, nullptr, nullptr, 0, kFailedRank};
      }
    }
    const size_t bytes = entries.size() * sizeof(DeltaEntry);
    device.CopyTo(to, entries.data(), bytes, context);
    if (copy) copy->Wrote(to, entries.data(), bytes);
  };
  state.Enqueue(device, std::move(command));
}

bool ReadsTables(const Device& device, DType dtype) {
  return dtype == DType::kF32 || (dtype == DType::kBF16 && device.backend().bf16_deltas);
}

// readsDeltas(device, dtype)
Napi::Value ReadsDeltas(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const auto device = state.Unwrap(info[0], Kind::kDevice, kLabel, "device").device;
  return Napi::Boolean::New(info.Env(), ReadsTables(*device, ParseDType(info[1], kLabel)));
}

// createDeltaTable(device, sites, slots, maxRank, dtype)
Napi::Value CreateDeltaTable(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const auto device = state.Unwrap(info[0], Kind::kDevice, kLabel, "device").device;
  state.RefuseRecording(*device, kLabel);
  const auto sites = std::make_shared<const std::vector<DeltaSite>>(ParseSites(info[1]));
  constexpr int64_t kMax = 1 << 20;
  const int64_t slots = ParseInteger(info[2], kLabel, "slots", 1, kMax);
  const int64_t max_rank = ParseInteger(info[3], kLabel, "maxRank", 1, kMax);
  const DType dtype = ParseDType(info[4], kLabel);
  if (!ReadsTables(*device, dtype))
    Throw("ERR_UNSUPPORTED", kLabel, device->name(), " reads no tables of ", NameOf(dtype));
  const size_t count = static_cast<size_t>(slots) * sites->size();
  // The entries are made on the host first.
  constexpr size_t kMaxEntries = size_t{1} << 22;
  LORA_CHECK(count <= kMaxEntries, kLabel, "expected at most ", kMaxEntries,
             " entries (slots times sites) but received ", count);
  auto table = std::make_shared<TableRef>();
  table->entries = state.NewStorage(device, count * sizeof(DeltaEntry), kLabel);
  table->entries->KeepHostCopy();
  table->view = {static_cast<DeltaEntry*>(table->entries->data()), slots, max_rank, sites,
                 table->entries->status()->host_copy.get(),        dtype};
  table->held.resize(static_cast<size_t>(slots));
  EnqueueEntries(state, *table, 0, std::vector<Incoming>(count));
  return state.Wrap({.kind = Kind::kTable, .table = std::move(table)});
}

// What an entry names: where it is, and what keeps it.
struct Named {
  const void* data = nullptr;
  StoragePtr storage;
  Shape shape;
};

void CheckPlace(const TableRef& table, const StoragePtr& storage, DType expected, DType dtype,
                const char* name) {
  const Device& device = *table.entries->device();
  LORA_CHECK(storage->device().get() == &device, kLabel, "expected ", name, " on ", device.name(),
             " (the device of the table) but received it on ", storage->device()->name());
  LORA_CHECK(dtype == expected, kLabel, "expected ", name, " of dtype ", NameOf(expected),
             " but received ", NameOf(dtype));
}

Named TakeTensor(EnvState& state, const TableRef& table, Napi::Value value, DType dtype,
                 const char* name) {
  const TensorRef tensor = state.Tensor(value, kLabel, name);
  CheckPlace(table, tensor.storage, dtype, tensor.dtype, name);
  return {tensor.view().data, tensor.storage, tensor.shape};
}

Named TakePacked(EnvState& state, const TableRef& table, Napi::Value value, DType dtype,
                 const char* name) {
  const std::shared_ptr<WeightRef> weight = state.Weight(value, kLabel, name);
  LORA_CHECK(weight->format == FormatOf(weight->dtype), kLabel, "expected ", name,
             " packed in its own dtype but received ", NameOf(weight->format));
  CheckPlace(table, weight->packed, dtype, weight->dtype, name);
  return {weight->packed->data(), weight->packed, {weight->rows, weight->cols}};
}

Named CheckLowRank(Named named, const char* name, int dim, int64_t size) {
  const Shape& shape = named.shape;
  LORA_CHECK(shape.rank() == 2 && shape[dim] == size, kLabel, "expected ", name, " of shape ",
             dim == 0 ? "[" : "[rank, ", size, dim == 0 ? ", rank]" : "]", " but received ", shape);
  return named;
}

// setDeltaSlot(table, slot, [{up, down, scale, factor?} | null per site] | null)
// Where the table is of bf16, up is a packed weight.
Napi::Value SetDeltaSlot(const Napi::CallbackInfo& info) {
  EnvState& state = *EnvState::Get(info.Env());
  const std::shared_ptr<TableRef> table = state.Table(info[0], kLabel, "table");
  state.RefuseRecording(*table->entries->device(), kLabel);
  const std::vector<DeltaSite>& sites = *table->view.sites;
  const size_t slot =
      static_cast<size_t>(ParseInteger(info[1], kLabel, "slot", 0, table->view.slots - 1));
  const DType dtype = table->view.dtype;
  std::vector<Incoming> incoming(sites.size());
  std::vector<StoragePtr> held;
  if (!IsNone(info[2])) {
    const Napi::Array changes = ParseArray(info[2], kLabel, "changes");
    LORA_CHECK(changes.Length() == sites.size(), kLabel, "expected ", sites.size(),
               " changes (one per site) but received ", changes.Length());
    for (uint32_t i = 0; i < sites.size(); ++i) {
      const Napi::HandleScope scope(info.Env());
      const Napi::Value value = changes.Get(i);
      if (IsNone(value)) continue;
      const Napi::Object change = ParseObject(value, kLabel, "change");
      const auto take_up = dtype == DType::kF32 ? TakeTensor : TakePacked;
      const Named up = CheckLowRank(take_up(state, *table, change.Get("up"), dtype, "up"), "up", 0,
                                    sites[i].out);
      const Named down = CheckLowRank(TakeTensor(state, *table, change.Get("down"), dtype, "down"),
                                      "down", 1, sites[i].in);
      const double scale = ParseNumber(change.Get("scale"), kLabel, "scale");
      const int64_t rank = up.shape[1];
      LORA_CHECK(down.shape[0] == rank, kLabel, "expected up and down of one rank but received ",
                 up.shape, " and ", down.shape);
      LORA_CHECK(rank >= 1 && rank <= table->view.max_rank, kLabel, "expected a rank from 1 to ",
                 table->view.max_rank, " (that of the table) but received ", rank);
      LORA_CHECK(std::isfinite(static_cast<float>(scale)), kLabel,
                 "expected scale to be finite but received ", scale);
      incoming[i] = {
          {up.data, down.data, nullptr, static_cast<float>(scale), static_cast<int32_t>(rank)},
          up.storage->status(),
          down.storage->status(),
          nullptr};
      held.push_back(up.storage);
      held.push_back(down.storage);
      const Napi::Value given = change.Get("factor");
      if (IsNone(given)) continue;
      const Named factor = TakeTensor(state, *table, given, DType::kF32, "factor");
      LORA_CHECK(factor.shape == Shape({sites[i].out}), kLabel, "expected factor of shape ",
                 Shape{sites[i].out}, " but received ", factor.shape);
      incoming[i].entry.factor = static_cast<const float*>(factor.data);
      incoming[i].factor = factor.storage->status();
      held.push_back(factor.storage);
    }
  }
  EnqueueEntries(state, *table, slot * sites.size(), std::move(incoming));
  // After the command is queued: what the slot named before may be given back then.
  table->held[slot] = std::move(held);
  return info.Env().Undefined();
}

}  // namespace

void RegisterDeltaTables(Napi::Env env, Napi::Object exports) {
  Export<ReadsDeltas>(env, exports, "readsDeltas");
  Export<CreateDeltaTable>(env, exports, "createDeltaTable");
  Export<SetDeltaSlot>(env, exports, "setDeltaSlot");
}

}  // namespace lora::node
