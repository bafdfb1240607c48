#!/usr/bin/env bash
# Installs what this project builds with and is missing here: system packages through apt-get (as root or
# with sudo), npm packages into node_modules. Says what it installs before it does.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v node >/dev/null || [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ]; then
  echo "lora-native needs Node.js 20 or newer on the PATH" >&2
  exit 1
fi

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need g++ g++
need cmake cmake
need make make
need ninja ninja-build # compiles the files of all targets side by side, where make goes target by target
[ -e /usr/include/hwy/highway.h ] || missing+=(libhwy-dev) # its headers; CMake says which version it needs
[ -e /usr/include/doctest/doctest.h ] || missing+=(doctest-dev)
missing+=("$@") # extra packages that the caller asks for
if [ ${#missing[@]} -gt 0 ]; then
  sudo=""
  [ "$(id -u)" -eq 0 ] || sudo=sudo
  echo "installing system packages: ${missing[*]}"
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# npm ci again only when the lock file changed.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "installing npm packages (npm ci)"
  npm ci --no-audit --no-fund --loglevel=error
fi
