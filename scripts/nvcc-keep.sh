#!/usr/bin/env bash
# scripts/nvcc-keep.sh COMMAND... -o OBJECT: runs nvcc, and leaves what scripts/cuda-report.mjs reads beside the object: what
# ptxas said in OBJECT.log, the intermediate forms and the code in OBJECT.keep. An object from ccache comes with the first alone.
set -uo pipefail
object=${!#}
keep=${object#"$PWD"/}.keep # relative, so that ccache sees the same command in every clone
rm -rf "$keep"
mkdir -p "$keep"
"$@" -Xptxas=-v --keep --keep-dir "$keep" 2>"$object.log"
status=$?
[ $status -eq 0 ] || cat "$object.log" >&2
find "$keep" -type f ! -name '*.ptx' ! -name '*.cubin' -delete
exit $status
