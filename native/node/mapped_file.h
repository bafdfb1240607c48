// openFile, fileView, fileBytes, closeFile: a mapped file and the ArrayBuffers that show parts of
// it.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "core/io/mapped_file.h"

namespace lora::node {

class EnvState;
struct FileRef;

// One ArrayBuffer over a part of a mapping.
struct FileView {
  napi_ref buffer = nullptr;  // weak
  // closeFile took its memory away, so no transfer can have moved that to another ArrayBuffer.
  bool detached = false;
  // The runtime has let go of the memory. It says so in a turn of the event loop.
  bool freed = false;
  std::weak_ptr<FileRef> of;
  std::weak_ptr<EnvState> state;
};

// What a NativeFile is: a mapping, and what of it JavaScript has. The memory stays while one of the
// ArrayBuffers is there, also a detached one: who holds it may be reading (zlib and fs read on
// other threads).
struct FileRef {
  std::shared_ptr<const MappedFile> mapping;
  std::vector<std::shared_ptr<FileView>> views;
  size_t not_freed = 0;  // views

  // Forgets the views whose memory nobody can reach any more.
  void Poll(napi_env env);
  // Empties every ArrayBuffer.
  void Detach(napi_env env);
  // Gives the weak references back, at the end of the environment.
  void Forget(napi_env env);
};

void RegisterMappedFile(Napi::Env env, Napi::Object exports);

}  // namespace lora::node
