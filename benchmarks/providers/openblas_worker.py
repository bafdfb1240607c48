"""OpenBLAS, kept alive: the forward pass of layers in f32 as three calls of sgemm each. Needs Python and libopenblas alone.

Commands are those of torch_worker.py; without attention, and with one form, "forward".
"""

import ctypes
import ctypes.util
import sys
import time

from worker import say, serve

ROW_MAJOR, NO, TRANSPOSED = 101, 111, 112
state = {}


def open_library():
    path = sys.argv[2] if len(sys.argv) > 2 else ctypes.util.find_library("openblas")
    if path is None:
        raise OSError("no libopenblas was found (apt-get install libopenblas0-pthread)")
    library = ctypes.CDLL(path)
    library.openblas_get_config.restype = ctypes.c_char_p
    library.openblas_get_corename.restype = ctypes.c_char_p
    return library


def sgemm(m, n, k, alpha, a, b, beta, c):
    """c [m, n] ← alpha·a [m, k]·b [n, k]ᵀ + beta·c"""
    state["library"].cblas_sgemm(ROW_MAJOR, NO, TRANSPOSED, m, n, k, ctypes.c_float(alpha), a, k, b, k,
                                 ctypes.c_float(beta), c, n)


def load(case, directory):
    def read(name):
        data = open(f"{directory}/{name}.bin", "rb").read()
        return (ctypes.c_float * (len(data) // 4)).from_buffer_copy(data)

    m, r = case["m"], case["r"]
    layers = [(n, read(f"w{i}"), read(f"a{i}"), read(f"b{i}"), (ctypes.c_float * (m * n))()) for i, n in enumerate(case["out"])]
    state.update(case=case, x=read("x"), h=(ctypes.c_float * (m * r))(), layers=layers)


def forward():
    case, x, h = state["case"], state["x"], state["h"]
    m, k, r = case["m"], case["in"], case["r"]
    for n, w, a, b, y in state["layers"]:
        sgemm(m, n, k, 1, x, w, 0, y)
        sgemm(m, r, k, 1, x, b, 0, h)
        sgemm(m, n, r, case["scale"], h, a, 1, y)


def answer(command):
    if command["do"] == "layers":
        load(command["case"], command["dir"])
    elif command["do"] == "check":
        forward()
        for i, (_, _, _, _, y) in enumerate(state["layers"]):
            with open(f"{command['dir']}/y{i}.bin", "wb") as out:
                out.write(bytes(y))
        return {"names": [f"y{i}" for i in range(len(state["layers"]))]}
    elif command["do"] == "time":
        seconds = []
        for _ in range(command["iterations"]):
            start = time.perf_counter()
            for _ in range(command["batch"]):
                forward()
            seconds.append((time.perf_counter() - start) / command["batch"])
        return {"seconds": seconds}
    return {}


def main():
    try:
        library = state["library"] = open_library()
    except OSError as error:
        say({"error": str(error)})
        return
    library.openblas_set_num_threads(int(sys.argv[1]))
    words = library.openblas_get_config().decode().split()
    serve({"version": words[1], "core": library.openblas_get_corename().decode(),
           "threads": library.openblas_get_num_threads()}, answer)


main()
