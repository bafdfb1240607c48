#include "node/mapped_file.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "node/env_state.h"
#include "node/errors.h"
#include "node/parse.h"

namespace lora::node {

void FileRef::Poll(napi_env env) {
  std::erase_if(views, [env](const std::shared_ptr<FileView>& view) {
    if (!view->detached && !view->freed) return false;
    napi_value buffer = nullptr;
    if (napi_get_reference_value(env, view->buffer, &buffer) != napi_ok || buffer != nullptr)
      return false;
    napi_delete_reference(env, view->buffer);
    return true;
  });
}

void FileRef::Detach(napi_env env) {
  for (const auto& view : views) {
    napi_value buffer = nullptr;
    bool empty = true;
    if (napi_get_reference_value(env, view->buffer, &buffer) != napi_ok || buffer == nullptr ||
        napi_is_detached_arraybuffer(env, buffer, &empty) != napi_ok || empty)
      continue;
    view->detached = napi_detach_arraybuffer(env, buffer) == napi_ok;
  }
}

void FileRef::Forget(napi_env env) {
  for (const auto& view : views) napi_delete_reference(env, view->buffer);
  views.clear();
}

namespace {

const std::shared_ptr<FileRef>& FileOf(EnvState& state, const Napi::Value& value, const char* op) {
  const std::shared_ptr<FileRef>& file = state.Unwrap(value, Kind::kFile, op, "file").file;
  if (file == nullptr) Throw("ERR_DISPOSED", op, "the file is closed");
  return file;
}

std::shared_ptr<const MappedFile> Open(EnvState& state, const std::string& path) {
  try {
    return MappedFile::Open(path);
  } catch (const Error& error) {
    if (error.code() != "ERR_OUT_OF_MEMORY") throw;
  }
  state.CollectDead();  // the mappings of dead views may be what is in the way
  return MappedFile::Open(path);
}

Napi::Value OpenFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  EnvState& state = *EnvState::Get(env);
  auto file = std::make_shared<FileRef>();
  try {
    file->mapping = Open(state, ParseString(info[0], "openFile", "path"));
  } catch (const Error& error) {
    // Tag 0: this is not the op that was called last.
    throw MakeError(env, error.code(), error.op(), error.what(), 0);
  }
  state.KeepFile(file);
  Napi::Object result = Napi::Object::New(env);
  result.Set("bytes", Napi::Number::New(env, static_cast<double>(file->mapping->size())));
  result.Set("file", state.Wrap({.kind = Kind::kFile, .file = std::move(file)}));
  return result;
}

// An integer from 0 to `last`.
uint64_t IntegerOf(const Napi::Value& value, const char* op, const char* name, uint64_t last) {
  const double number = ParseNumber(value, op, name);
  LORA_CHECK(number >= 0 && number == std::floor(number) && number <= static_cast<double>(last), op,
             "expected ", name, " to be an integer from 0 to ", last, " but received ", number);
  return static_cast<uint64_t>(number);
}

struct Range {
  uint8_t* data;
  size_t length;
};

// [offset, offset + length) of the mapping, by the second and third argument.
Range RangeOf(const Napi::CallbackInfo& info, const MappedFile& mapping, const char* op) {
  const uint64_t offset = IntegerOf(info[1], op, "offset", mapping.size());
  const uint64_t length = IntegerOf(info[2], op, "length", mapping.size() - offset);
  return {mapping.data() + offset, static_cast<size_t>(length)};
}

// Runs when the runtime has let go of a view's memory: after it was detached, or it and whatever
// it was transferred to were collected.
void OnFreed(napi_env env, void*, void* hint) {
  const std::unique_ptr<std::shared_ptr<FileView>> held(
      static_cast<std::shared_ptr<FileView>*>(hint));
  FileView& view = **held;
  view.freed = true;
  const auto file = view.of.lock();
  const auto state = view.state.lock();
  if (!file || !state || --file->not_freed > 0) return;
  const Napi::HandleScope scope(env);
  file->Poll(env);
  if (file->views.empty()) state->DropFiles();
}

[[noreturn]] void NoRoom(Napi::Env env, const char* op, size_t length) {
  napi_value ignored = nullptr;
  napi_get_and_clear_last_exception(env, &ignored);
  Throw("ERR_UNSUPPORTED", op, "this runtime has no room for a view of ", length, " bytes");
}

Napi::Value CopyOf(Napi::Env env, const Range& range, const char* op) {
  void* copy = nullptr;
  napi_value buffer = nullptr;
  if (napi_create_arraybuffer(env, range.length, &copy, &buffer) != napi_ok)
    NoRoom(env, op, range.length);
  if (range.length > 0) std::memcpy(copy, range.data, range.length);
  return Napi::Value(env, buffer);
}

Napi::Value MakeView(const Napi::CallbackInfo& info) {
  const char* op = "fileView";
  Napi::Env env = info.Env();
  EnvState& state = *EnvState::Get(env);
  const std::shared_ptr<FileRef> file = FileOf(state, info[0], op);
  const Range range = RangeOf(info, *file->mapping, op);
  if (range.length == 0) return Napi::ArrayBuffer::New(env, 0);

  const auto view = std::make_shared<FileView>();
  view->of = file;
  view->state = state.weak_from_this();
  auto held = std::make_unique<std::shared_ptr<FileView>>(view);
  ++file->not_freed;
  napi_value buffer = nullptr;
  const napi_status made =
      napi_create_external_arraybuffer(env, range.data, range.length, OnFreed, held.get(), &buffer);
  // A runtime whose heap is a cage (Electron) has no such views.
  if (made == napi_no_external_buffers_allowed) {
    --file->not_freed;
    return CopyOf(env, range, op);
  }
  held.release();  // also after another failure, when Node.js may have called OnFreed or may yet
  if (made != napi_ok) NoRoom(env, op, range.length);
  if (napi_create_reference(env, buffer, 0, &view->buffer) != napi_ok) {
    napi_detach_arraybuffer(env, buffer);
    Throw("ERR_OUT_OF_MEMORY", op, "no reference to a view could be made");
  }
  file->views.push_back(view);
  return Napi::Value(env, buffer);
}

Napi::Value FileBytes(const Napi::CallbackInfo& info) {
  const char* op = "fileBytes";
  const std::shared_ptr<FileRef> file = FileOf(*EnvState::Get(info.Env()), info[0], op);
  return CopyOf(info.Env(), RangeOf(info, *file->mapping, op), op);
}

Napi::Value CloseFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  EnvState& state = *EnvState::Get(env);
  Shell& shell = state.Unwrap(info[0], Kind::kFile, "closeFile", "file");
  if (shell.file == nullptr) return env.Undefined();
  shell.file->Detach(env);
  shell.file->Poll(env);
  shell.file.reset();
  state.DropFiles();
  return env.Undefined();
}

}  // namespace

void RegisterMappedFile(Napi::Env env, Napi::Object exports) {
  Export<OpenFile>(env, exports, "openFile");
  Export<MakeView>(env, exports, "fileView");
  Export<FileBytes>(env, exports, "fileBytes");
  Export<CloseFile>(env, exports, "closeFile");
}

}  // namespace lora::node
