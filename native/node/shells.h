// What the handles of JavaScript stand for, and where it is kept.
#pragma once

#include <napi.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/ops/delta_table.h"
#include "core/runtime/platform/platform.h"
#include "core/runtime/program.h"
#include "core/runtime/storage.h"

namespace lora::node {

struct FileRef;

// A reference to storage: what a NativeTensor is.
struct TensorRef {
  StoragePtr storage;
  size_t offset = 0;  // bytes
  DType dtype = DType::kF32;
  Shape shape;

  TensorView view() const {
    TensorView view(static_cast<std::byte*>(storage->data()) + offset, dtype, shape);
    view.host_copy = storage->status()->host_copy.get();
    return view;
  }
};

// What a NativeWeight is.
struct WeightRef {
  StoragePtr packed;
  WeightFormat format = WeightFormat::kF32;
  DType dtype = DType::kF32;  // of the activations
  int64_t rows = 0, cols = 0;
};

// What a NativeTable is. It holds the tensors that its entries name, of each slot.
struct TableRef {
  StoragePtr entries;
  DeltaTableView view;
  std::vector<std::vector<StoragePtr>> held;
};

enum class Kind : uint8_t { kTensor, kWeight, kTable, kDevice, kGuard, kFile, kProgram, kLock };

// What a JavaScript External points at. release() frees the content; the shell itself is freed when
// a poll finds the External dead (PollDead), or with the environment.
struct Shell {
  Kind kind;
  napi_ref weak = nullptr;
  std::optional<TensorRef> tensor = {};
  std::shared_ptr<WeightRef> weight = {};  // calls hold it while they read their arguments
  std::shared_ptr<TableRef> table = {};    // likewise
  std::shared_ptr<Device> device = {};
  std::shared_ptr<Guard> guard = {};
  std::shared_ptr<FileRef> file = {};  // null once closed
  std::shared_ptr<Program> program = {};
  std::shared_ptr<platform::FileLock> lock = {};  // null once unlocked
};

// The shells of one environment. They lie in few blocks, so that the address of a shell is told
// from a foreign one without a search among thousands. A shell stays where it is, and a block until
// the environment ends.
class Shells {
 public:
  Shell* Add(Shell shell);
  void Remove(Shell* shell);
  // Returns nullptr where no shell is. Any address may be asked for: it is compared, and read only
  // where it is that of a shell.
  Shell* Find(const void* address) const;
  size_t size() const { return size_; }

  // Calls f(Shell&), which may remove its argument and must not add others.
  template <class F>
  void ForEach(const F& f) const {
    for (const auto& block : blocks_)
      for (std::optional<Shell>& slot : *block)
        if (slot) f(*slot);
  }

 private:
  using Block = std::array<std::optional<Shell>, 256>;
  using Blocks = std::vector<std::unique_ptr<Block>>;

  // Returns the place of the shell at an address, or nullptr.
  std::optional<Shell>* SlotOf(const void* address) const;
  // Returns the first block whose address is larger.
  Blocks::const_iterator BlockBehind(const void* address) const;

  Blocks blocks_;  // in the order of their addresses
  std::vector<std::optional<Shell>*> free_;
  size_t size_ = 0;
};

}  // namespace lora::node
