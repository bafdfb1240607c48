"""PyTorch's prefill: reads a list of ids per line, answers the milliseconds until the next id is known, and that id.

    prefill_worker.py THREADS BASELINES MODEL f32|bf16       BASELINES: the folder with llama_lora.py, the lean Llama
"""

import sys
import time

import torch
import torch.nn.functional as F

threads, baselines, directory, dtype = sys.argv[1:]
torch.set_num_threads(int(threads))
sys.path.insert(0, baselines)
from llama_lora import LlamaLora  # noqa: E402
from worker import serve  # noqa: E402

model = LlamaLora(directory, {"f32": torch.float32, "bf16": torch.bfloat16}[dtype])


def answer(command):
    ids = torch.tensor([command["ids"]])
    start = time.perf_counter()
    with torch.inference_mode():
        # The head of the last row alone, as serving needs it.
        token = F.linear(model.hidden(ids)[-1:], model.head).argmax().item()
    return {"ms": (time.perf_counter() - start) * 1e3, "id": token}


serve({"version": torch.__version__}, answer)
