#include "node/mapped_file.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/io/mapped_file.h"
#include "node/errors.h"
#include "node/parse.h"

namespace lora::node {
namespace {

using Mapping = std::shared_ptr<const MappedFile>;

// What a NativeFile points to. Each view holds the mapping too, so that views outlive a file object
// that was collected without being closed, and whatever still holds a detached view's memory keeps
// it mapped.
struct FileHandle {
  Mapping mapping;              // null once closed
  std::vector<napi_ref> views;  // weak
};

// Tells the Externals of openFile from all others, which may point anywhere.
constexpr napi_type_tag kFileTag = {0x6c6f72612d6e6174, 0x6976652d66696c65};

FileHandle& HandleOf(const Napi::Value& value) {
  bool ours = false;
  if (value.IsExternal()) napi_check_object_type_tag(value.Env(), value, &kFileTag, &ours);
  LORA_CHECK(ours, "openFile", "expected a file of openFile but received something else");
  return *value.As<Napi::External<FileHandle>>().Data();
}

void DropViews(Napi::Env env, FileHandle& file, bool detach) {
  for (napi_ref view : file.views) {
    napi_value buffer = nullptr;
    if (detach && napi_get_reference_value(env, view, &buffer) == napi_ok && buffer != nullptr) {
      napi_detach_arraybuffer(env, buffer);
    }
    napi_delete_reference(env, view);
  }
  file.views.clear();
}

Napi::Value OpenFile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto file = std::make_unique<FileHandle>();
  try {
    file->mapping = MappedFile::Open(ParseString(info[0], "openFile", "path"));
  } catch (const Error& error) {
    // Tag 0: this is not the op that was called last.
    throw MakeError(env, error.code(), error.op(), error.what(), 0);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("bytes", Napi::Number::New(env, static_cast<double>(file->mapping->size())));
  const auto handle =
      Napi::External<FileHandle>::New(env, file.get(), [](Napi::Env env, FileHandle* file) {
        DropViews(env, *file, /*detach=*/false);
        delete file;
      });
  file.release();
  napi_type_tag_object(env, handle, &kFileTag);
  result.Set("file", handle);
  return result;
}

// An integer from 0 to `last`.
uint64_t IntegerOf(const Napi::Value& value, const char* name, uint64_t last) {
  const double number = ParseNumber(value, "fileView", name);
  LORA_CHECK(number >= 0 && number == std::floor(number) && number <= static_cast<double>(last),
             "fileView", "expected ", name, " to be an integer from 0 to ", last, " but received ",
             number);
  return static_cast<uint64_t>(number);
}

// Runs when the memory of a view is released: after it was detached or collected.
void ReleaseMapping(napi_env, void*, void* hint) { delete static_cast<Mapping*>(hint); }

napi_value ViewOf(napi_env env, const Mapping& mapping, uint64_t offset, uint64_t length) {
  uint8_t* data = mapping->data() + offset;
  auto* held = new Mapping(mapping);
  napi_value view = nullptr;
  const napi_status status = napi_create_external_arraybuffer(
      env, data, static_cast<size_t>(length), ReleaseMapping, held, &view);
  if (status == napi_ok) return view;
  if (status == napi_no_external_buffers_allowed) {
    // A runtime whose heap is a cage (Electron): copy.
    delete held;
    void* copy = nullptr;
    if (napi_create_arraybuffer(env, static_cast<size_t>(length), &copy, &view) == napi_ok) {
      std::memcpy(copy, data, static_cast<size_t>(length));
      return view;
    }
  }
  // After another failure Node.js may or may not run the finalizer: `held` is left to it.
  napi_value ignored = nullptr;
  napi_get_and_clear_last_exception(env, &ignored);
  Throw("ERR_UNSUPPORTED", "fileView", "this runtime has no room for a view of ", length, " bytes");
}

Napi::Value FileView(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  FileHandle& file = HandleOf(info[0]);
  if (file.mapping == nullptr) Throw("ERR_DISPOSED", "fileView", "the file is closed");
  const uint64_t size = file.mapping->size();
  const uint64_t offset = IntegerOf(info[1], "offset", size);
  const uint64_t length = IntegerOf(info[2], "length", size - offset);
  if (length == 0) return Napi::ArrayBuffer::New(env, 0);
  const napi_value view = ViewOf(env, file.mapping, offset, length);
  napi_ref weak = nullptr;
  if (napi_create_reference(env, view, 0, &weak) != napi_ok) {
    napi_detach_arraybuffer(env, view);
    Throw("ERR_OUT_OF_MEMORY", "fileView", "no reference to a view could be made");
  }
  file.views.push_back(weak);
  return Napi::Value(env, view);
}

Napi::Value CloseFile(const Napi::CallbackInfo& info) {
  FileHandle& file = HandleOf(info[0]);
  DropViews(info.Env(), file, /*detach=*/true);
  file.mapping.reset();
  return info.Env().Undefined();
}

}  // namespace

void RegisterMappedFile(Napi::Env env, Napi::Object exports) {
  Export<OpenFile>(env, exports, "openFile");
  Export<FileView>(env, exports, "fileView");
  Export<CloseFile>(env, exports, "closeFile");
}

}  // namespace lora::node
