// A recorded program: calls of ops that were checked and planned once, and run as one command as
// often as wanted. While Device::recording holds a program, the calls of the device's ops go into
// it instead of the queue. They run on the same memory each time:
//  - what they make lies in the program's pool (pool.h); a storage that is dropped while the
//    program is recorded makes room for later ones of the program;
//  - storages that were there before are held;
//  - scratch is one block of the size that the largest step needs.
// The thread that enqueues owns a program. Queued runs hold the steps but no memory, which is
// stream-ordered like all memory: a program may be dropped while its runs are queued.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "core/runtime/steps.h"
#include "core/runtime/storage.h"

namespace lora {

class Program {
 public:
  using Planner = std::function<PlannedCall(int threads)>;
  // Makes a storage of the device, or throws.
  using Allocate = std::function<StoragePtr(size_t bytes)>;

  explicit Program(std::shared_ptr<Device> device);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const std::shared_ptr<Device>& device() const { return pool_->device(); }

  // ---- while it is recorded
  Pool& pool() { return *pool_; }
  // Makes a storage of a block of pool().
  StoragePtr Make(const Block& block, size_t bytes);
  // `call` is planned for the device's present number of threads, and `plan` does it again for
  // another. The storages are those of the operands.
  void Record(Step step, const std::vector<StoragePtr>& storages, PlannedCall call, Planner plan);

  // ---- afterwards
  // Makes the program ready to run with the device's present number of threads, on which the bits
  // depend as those of enqueued ops do. Throws what `allocate` or a plan throws; what is queued and
  // what ran before is then as it was.
  void Prepare(const Allocate& allocate);
  // Returns a command that runs it; Prepare comes before.
  Command Run() const;

 private:
  struct Recorded {
    Step step;
    Planner plan;
    PlannedCall call;
  };

  std::shared_ptr<Pool> pool_;
  std::set<StoragePtr> held_;
  std::vector<StatusPtr> made_;
  std::vector<Recorded> recorded_;
  int planned_threads_;    // that all calls of recorded_ are planned for; 0: they differ
  int ready_threads_ = 0;  // that steps_ is for
  StoragePtr scratch_;
  std::shared_ptr<Steps> steps_;
};

}  // namespace lora
