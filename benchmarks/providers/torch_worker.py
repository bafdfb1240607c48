"""The PyTorch rival, kept alive: reads one JSON command per line, answers one JSON line.

{"do": "load", "case": {...}, "dir": DIR}   inputs as raw float32 files x w a b g
{"do": "check", "dir": DIR}                 writes y dx da db as raw float32 files
{"do": "time", "what": "forward" | "step", "iterations": N, "batch": B}   seconds per call, N times over B calls
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

state = {}


def read(directory, name, *shape):
    # bytearray: torch wants writable memory.
    data = bytearray(open(f"{directory}/{name}.bin", "rb").read())
    return torch.frombuffer(data, dtype=torch.float32).reshape(shape).clone()


def load(case, directory):
    m, k, n, r = case["m"], case["in"], case["out"], case["r"]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]
    cast = lambda t: t.to(dtype)
    state.update(
        x=cast(read(directory, "x", m, k)).requires_grad_(), w=cast(read(directory, "w", n, k)),
        a=cast(read(directory, "a", n, r)).requires_grad_(), b=cast(read(directory, "b", r, k)).requires_grad_(),
        g=cast(read(directory, "g", m, n)), scale=case["scale"],
    )


def chain():
    """As PEFT computes it, with the scale folded into the small product."""
    return F.linear(state["x"], state["w"]) + F.linear(F.linear(state["x"], state["b"]) * state["scale"], state["a"])


def addmm():
    """Without the extra pass over y; for inference only."""
    y = F.linear(state["x"], state["w"])
    return y.addmm_(F.linear(state["x"], state["b"]), state["a"].T, alpha=state["scale"])


def forward():
    with torch.inference_mode():
        chain()


def forward_addmm():
    with torch.inference_mode():
        addmm()


def step():
    torch.autograd.grad(chain(), [state["x"], state["a"], state["b"]], state["g"])


work = {"forward": forward, "forward_addmm": forward_addmm, "step": step}


def timed(what, iterations, batch):
    seconds = []
    for _ in range(iterations):
        start = time.perf_counter()
        for _ in range(batch):
            work[what]()
        seconds.append((time.perf_counter() - start) / batch)
    return seconds


def check(directory):
    y = chain()
    grads = torch.autograd.grad(y, [state["x"], state["a"], state["b"]], state["g"])
    for name, t in zip(("y", "dx", "da", "db"), (y, *grads)):
        with open(f"{directory}/{name}.bin", "wb") as out:
            out.write(t.detach().float().contiguous().numpy().tobytes())


def main():
    torch.set_num_threads(int(sys.argv[1]))
    blas = "mkl" if torch.backends.mkl.is_available() else "other BLAS"
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "blas": blas,
                      "onednn": torch.backends.mkldnn.is_available()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = {}
        if command["do"] == "load":
            load(command["case"], command["dir"])
        elif command["do"] == "check":
            check(command["dir"])
        elif command["do"] == "time":
            answer["seconds"] = timed(command["what"], command["iterations"], command["batch"])
        print(json.dumps(answer), flush=True)


main()
