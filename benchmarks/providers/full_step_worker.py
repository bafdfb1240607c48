"""PyTorch's full fine-tuning step: answers each line with the milliseconds of a step, its CPU time and its loss.

    full_step_worker.py THREADS BASELINES MODEL f32|bf16 BATCH LENGTH

BASELINES is the folder with llama_lora.py, the lean Llama, all of whose tensors are trained here. In bf16 the moments of AdamW are bf16
too, as PyTorch keeps them.
"""

import os
import resource
import sys
import time

os.environ.setdefault("KMP_BLOCKTIME", "0")  # its threads sleep between steps
import torch  # noqa: E402

threads, baselines, directory, dtype, batch, length = sys.argv[1:]
torch.set_num_threads(int(threads))
sys.path.insert(0, baselines)
from llama_lora import LlamaLora  # noqa: E402
from worker import serve  # noqa: E402

model = LlamaLora(directory, {"f32": torch.float32, "bf16": torch.bfloat16}[dtype])
# Memory of their own, since tensors that need no cast are still pages of the file.
model.w = {name: tensor.clone().requires_grad_() for name, tensor in model.w.items()}
model.head = model.w.get("lm_head.weight", model.w["model.embed_tokens.weight"])
parameters = list(model.w.values())
optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
count = int(batch) * int(length)
# The ids of steps.mjs.
ids = (torch.arange(count) % 256 * 167 % model.config["vocab_size"]).view(int(batch), int(length))


def step():
    used, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    loss = model.loss(ids, ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    ms, now = (time.perf_counter() - start) * 1e3, resource.getrusage(resource.RUSAGE_SELF)
    user, system = now.ru_utime - used.ru_utime, now.ru_stime - used.ru_stime
    return {"ms": ms, "loss": loss.item(), "userMs": user * 1e3, "systemMs": system * 1e3}


first = step()["loss"]
step()
serve({"version": torch.__version__, "loss": first}, lambda _: step())
