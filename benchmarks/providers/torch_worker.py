"""The PyTorch rival, kept alive: reads one JSON command per line, answers one JSON line. Needs torch alone.

{"do": "layers" | "attention" | "short_conv" | "delta_rule", "case": {...}, "dir": DIR}   loads inputs, raw float32 files: x w0 a0 b0 g0 w1 …,
                                                            or q k v g
{"do": "check", "what": NAME, "dir": DIR}                   writes what a form computes as raw float32 files, and names them
{"do": "time", "what": NAME, "iterations": N, "batch": B}   seconds per call, N times over B calls
"""

import ctypes
import sys
import time

import torch
import torch.nn.functional as F

from delta_rule import delta_rule
from worker import serve

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
work = {}


def read(directory, name, *shape):
    # bytearray: torch wants writable memory.
    data = bytearray(open(f"{directory}/{name}.bin", "rb").read())
    return torch.frombuffer(data, dtype=torch.float32).reshape(shape)


def write(directory, name, tensor):
    t = tensor.detach().float().contiguous()
    with open(f"{directory}/{name}.bin", "wb") as out:
        out.write(ctypes.string_at(t.data_ptr(), t.numel() * 4))


def load_layers(case, directory):
    """Layers that read one x. With copies, calls go round that many copies of the weights, which no cache holds then."""
    m, k, r, scale, dtype = case["m"], case["in"], case["r"], case["scale"], DTYPES[case["dtype"]]
    cast = lambda name, *shape: read(directory, name, *shape).to(dtype).clone()
    x = cast("x", m, k).requires_grad_()
    layers = [
        (cast(f"w{i}", n, k), cast(f"a{i}", n, r).requires_grad_(), cast(f"b{i}", r, k).requires_grad_())
        for i, n in enumerate(case["out"])
    ]
    g = [cast(f"g{i}", m, n) for i, n in enumerate(case["out"])]
    copies = [layers] + [[(w.clone(), a, b) for w, a, b in layers] for _ in range(case.get("copies", 1) - 1)]
    turn = [0]

    def layers_of_turn():
        turn[0] = (turn[0] + 1) % len(copies)
        return copies[turn[0]]

    def peft(w, a, b):  # as PEFT computes it, with the scale folded into the small product
        return F.linear(x, w) + F.linear(F.linear(x, b) * scale, a)

    def addmm(w, a, b):  # the sum in the product's own pass
        return torch.addmm(F.linear(x, w), F.linear(x, b), a.t(), alpha=scale)

    def addmm_in_place(w, a, b):  # without a second y; for inference only
        return F.linear(x, w).addmm_(F.linear(x, b), a.t(), alpha=scale)

    frozen = lambda w, a, b: F.linear(x, w)

    def forward(form):
        def run():
            with torch.inference_mode():
                return {f"y{i}": form(*layer) for i, layer in enumerate(layers_of_turn())}

        return run

    def step(form, adapted):
        def run():
            now = layers_of_turn()
            y = [form(*layer) for layer in now]
            wanted = [x] + ([t for _, a, b in now for t in (a, b)] if adapted else [])
            grads = torch.autograd.grad(y, wanted, g)
            named = {f"y{i}": t for i, t in enumerate(y)} | {"dx": grads[0]}
            for i in range(len(now) if adapted else 0):
                named |= {f"da{i}": grads[1 + 2 * i], f"db{i}": grads[2 + 2 * i]}
            return named

        return run

    work.clear()
    work.update({
        "forward": forward(peft), "forward_addmm": forward(addmm_in_place), "frozen_forward": forward(frozen),
        "step": step(peft, True), "step_addmm": step(addmm, True), "frozen_step": step(frozen, False),
    })


def load_attention(case, directory):
    n, heads, shared, d, dtype = case["tokens"], case["heads"], case["kvHeads"], case["d"], DTYPES[case["dtype"]]
    # Its own order is [batch, heads, tokens, d].
    turned = lambda name, h: read(directory, name, 1, n, h, d).transpose(1, 2).to(dtype).contiguous()
    q, k, v, g = turned("q", heads), turned("k", shared), turned("v", shared), turned("g", heads)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    gqa = heads != shared
    attend = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    back = lambda t: t.transpose(1, 2)

    def forward():
        with torch.inference_mode():
            return {"y": back(attend())}

    def step():
        y = attend()
        dq, dk, dv = torch.autograd.grad(y, leaves, g)
        return {"y": back(y), "dq": back(dq), "dk": back(dk), "dv": back(dv)}

    work.clear()
    work.update(forward=forward, step=step)


def load_short_conv(case, directory):
    n, c, k, dtype = case["tokens"], case["channels"], case["taps"], DTYPES[case["dtype"]]
    gated = case["form"] == "gated"
    x = read(directory, "x", 1, n, 3 * c if gated else c).to(dtype).requires_grad_()
    w = read(directory, "w", c, 1, k).to(dtype)
    g = read(directory, "g", 1, n, c).to(dtype)

    def mixed():
        b, gate, v = x.chunk(3, dim=-1) if gated else (None, None, x)
        u = (b * v if gated else v).transpose(1, 2)
        z = F.conv1d(u, w, padding=k - 1, groups=c)[..., :n].transpose(1, 2)
        return gate * z if gated else F.silu(z)

    def forward():
        with torch.inference_mode():
            return {"y": mixed()}

    def step():
        y = mixed()
        (dx,) = torch.autograd.grad(y, [x], g)
        return {"y": y, "dx": dx}

    work.clear()
    work.update(forward=forward, step=step)


def load_delta_rule(case, directory):
    n, h, d, dtype = case["tokens"], case["heads"], case["d"], DTYPES[case["dtype"]]
    wide = lambda name: read(directory, name, 1, n, h, d).to(dtype).transpose(1, 2).float()
    per_head = lambda name: read(directory, name, 1, n, h).transpose(1, 2).clone()
    q, k, v = (wide(name).requires_grad_() for name in "qkv")
    decay, beta = per_head("decay").requires_grad_(), per_head("beta").requires_grad_()
    g, leaves, back = wide("g"), [q, k, v, decay, beta], lambda t: t.transpose(1, 2)
    run = lambda: delta_rule(q, k, v, decay, beta, None)[0]

    def forward():
        with torch.inference_mode():
            return {"y": back(run())}

    def step():
        y = run()
        named = dict(zip(("dq", "dk", "dv", "dg", "db"), torch.autograd.grad(y, leaves, g)))
        return {"y": back(y)} | {name: back(t) for name, t in named.items()}

    work.clear()
    work.update(forward=forward, step=step)


def timed(what, iterations, batch):
    run = work[what]
    seconds = []
    for _ in range(iterations):
        start = time.perf_counter()
        for _ in range(batch):
            run()
        seconds.append((time.perf_counter() - start) / batch)
    return seconds


def answer(command):
    do = command["do"]
    if do == "layers":
        load_layers(command["case"], command["dir"])
    elif do == "attention":
        load_attention(command["case"], command["dir"])
    elif do == "short_conv":
        load_short_conv(command["case"], command["dir"])
    elif do == "delta_rule":
        load_delta_rule(command["case"], command["dir"])
    elif do == "check":
        results = work[command["what"]]()
        for name, t in results.items():
            write(command["dir"], name, t)
        return {"names": list(results)}
    elif do == "time":
        return {"seconds": timed(command["what"], command["iterations"], command["batch"])}
    return {}


def main():
    torch.set_num_threads(int(sys.argv[1]))
    blas = "MKL" if torch.backends.mkl.is_available() else "another BLAS"
    serve({"version": torch.__version__, "threads": torch.get_num_threads(), "blas": blas,
           "onednn": torch.backends.mkldnn.is_available()}, answer)


main()
