// Node-API is in the program that loads the add-on, whatever it is called: node.exe, bun.exe,
// electron.exe. The add-on is linked against "node.exe" with delayed loading, and this answers the
// question for it with that program.
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
// After windows.h.
#include <delayimp.h>

#include <cstring>

namespace {

FARPROC WINAPI AnswerWithThisProgram(unsigned event, DelayLoadInfo* info) {
  if (event != dliNotePreLoadLibrary || _stricmp(info->szDll, "node.exe") != 0) return nullptr;
  return reinterpret_cast<FARPROC>(GetModuleHandleW(nullptr));
}

}  // namespace

PfnDliHook __pfnDliNotifyHook2 = AnswerWithThisProgram;
