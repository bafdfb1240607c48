// A device (its backend, its stream, its memory), and the memory of one tensor on it.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "core/runtime/allocator.h"
#include "core/runtime/pool.h"
#include "core/runtime/profile.h"
#include "core/runtime/stream.h"

namespace lora {

class Program;

// How much a device was given to do since it was opened.
struct Activity {
  int64_t launches = 0;  // of kernels, also in graphs
  int64_t waits = 0;     // of the stream's worker, until the device had done all before
  int64_t graphs = 0;    // launches of graphs (steps.h)
  int64_t refused = 0;   // pieces of programs of which there is no graph
  std::string refusal;   // why there is none of the last such piece
};

// One thread owns it, like its allocator. HostDevice below and CudaDevice (backend/cuda/device.cc)
// implement it; nothing above this layer knows which one it has.
class Device {
 public:
  Device(std::string name, const Backend& backend, std::unique_ptr<MemorySource> source,
         std::unique_ptr<Stream> stream)
      : name_(std::move(name)),
        backend_(backend),
        source_(std::move(source)),
        allocator_(*source_),
        stream_(std::move(stream)) {}
  virtual ~Device() = default;

  const std::string& name() const { return name_; }
  const Backend& backend() const { return backend_; }
  Stream& stream() { return *stream_; }
  Allocator& allocator() { return allocator_; }

  // These run in commands of this device's stream. CopyFrom returns when the bytes have arrived.
  virtual void CopyTo(void* device, const void* host, size_t bytes, Context&) = 0;
  virtual void CopyFrom(void* host, const void* device, size_t bytes, Context&) = 0;
  // The host may touch the memory while no command does.
  virtual bool host_memory() const = 0;

  // Gives what is cached beyond `keep` back to the system, after the commands enqueued so far.
  void Trim(size_t keep) {
    auto blocks = allocator_.Trim(keep);
    if (blocks.empty()) return;
    Command command;
    command.op = "trim";
    // This is in `done`, because that is called even when the stream has ended.
    command.done = [blocks = std::move(blocks), this](const FailurePtr&) {
      for (const Block& block : blocks) source_->Unmap(block.data, block.bytes);
    };
    stream_->Enqueue(std::move(command));
  }

  // Without kernels to launch there is nothing to count.
  virtual Activity activity() const { return {}; }

  // Counts the bytes of all storages, and tells the observer when they change.
  size_t bytes = 0;
  std::function<void(int64_t change)> on_bytes;
  void Count(int64_t change) {
    bytes += static_cast<size_t>(change);
    if (on_bytes) on_bytes(change);
  }
  // Takes back a block for which `counted` bytes were counted; commands enqueued before may use it.
  void GiveBack(const Block& block, size_t counted) {
    allocator_.Free(block);
    Count(-static_cast<int64_t>(counted));
    // A device's own memory is kept until there is no other: giving it back waits for the device.
    if (host_memory() && allocator_.wants_trim()) Trim(allocator_.in_use());
  }

  // The program that is being recorded, if one is: calls of ops are added to it, not enqueued.
  std::shared_ptr<Program> recording;

  // Times the calls of ops that are planned while it is there.
  std::shared_ptr<Profile> profile;

 private:
  std::string name_;
  const Backend& backend_;
  std::unique_ptr<MemorySource> source_;
  Allocator allocator_;
  std::unique_ptr<Stream> stream_;  // last, so that it ends first
};

class HostDevice final : public Device {
 public:
  HostDevice(std::string name, const Backend& backend, int threads)
      : Device(std::move(name), backend, std::make_unique<HostMemory>(HostMemoryBudget()),
               std::make_unique<WorkerStream>(backend.create_context, threads,
                                              WorkerStream::Waiting::kRuns)) {}
  ~HostDevice() override { stream().Stop(); }  // before its members go, which commands use
  void CopyTo(void* device, const void* host, size_t bytes, Context&) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
  }
  void CopyFrom(void* host, const void* device, size_t bytes, Context&) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
  }
  bool host_memory() const override { return true; }
};

// Only handles and views count; queued commands hold the raw address and the status. The last
// reference gives the block back in stream order.
class Storage {
 public:
  Storage(std::shared_ptr<Device> device, Block block, size_t bytes)
      : device_(std::move(device)), block_(block), bytes_(bytes) {
    device_->Count(static_cast<int64_t>(bytes_));
  }
  // The block is the pool's, which counts it and gets it back.
  Storage(std::shared_ptr<Pool> pool, Block block, size_t bytes)
      : device_(pool->device()), pool_(std::move(pool)), block_(block), bytes_(bytes) {}
  ~Storage() {
    if (pool_)
      pool_->Free(block_);
    else
      device_->GiveBack(block_, bytes_);
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  const std::shared_ptr<Device>& device() const { return device_; }
  void* data() const { return block_.data; }
  size_t bytes() const { return bytes_; }
  bool fresh() const { return block_.fresh; }
  const StatusPtr& status() const { return status_; }
  // Makes the host keep what it writes here, before the first command on it is enqueued.
  void KeepHostCopy() {
    if (device_->host_memory() || bytes_ > HostCopy::kMaxBytes) return;
    status_->host_copy = std::make_unique<HostCopy>(block_.data, bytes_);
  }
  // Returns null where the memory is the device's own.
  const std::shared_ptr<Pool>& pool() const { return pool_; }

 private:
  std::shared_ptr<Device> device_;
  std::shared_ptr<Pool> pool_;
  Block block_;
  size_t bytes_;
  StatusPtr status_ = std::make_shared<Status>();
};
using StoragePtr = std::shared_ptr<Storage>;

}  // namespace lora
