"""Vectors of texts with a Llama in plain PyTorch, as sentence-transformers computes them: sorted by length, in batches padded on the right, the mean of a
text's tokens, of length 1.

    embed_worker.py THREADS BASELINES MODEL f32|bf16

BASELINES is the folder with llama_lora.py, the lean Llama. A token sees those before it alone, so that padding behind a text changes none of it. Answers
{"texts": [ids, ...]} with milliseconds and the vectors of the first and last text. The first answer tries batches of several sizes, and the fastest stays.
"""

import os
import sys
import time

os.environ.setdefault("KMP_BLOCKTIME", "0")  # its threads sleep between runs
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

threads, baselines, directory, dtype = sys.argv[1:5]
torch.set_num_threads(int(threads))
sys.path.insert(0, baselines)
from llama_lora import LlamaLora  # noqa: E402
from worker import serve  # noqa: E402

model = LlamaLora(directory, {"f32": torch.float32, "bf16": torch.bfloat16}[dtype])
chosen = None


def embed(texts, size):
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    vectors = [None] * len(texts)
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        longest = len(texts[rows[0]])
        ids = torch.tensor([texts[i] + [0] * (longest - len(texts[i])) for i in rows])
        count = torch.tensor([len(texts[i]) for i in rows])
        seen = (torch.arange(longest) < count[:, None])[..., None]
        hidden = model.hidden(ids).view(len(rows), longest, -1).float()
        mean = F.normalize((hidden * seen).sum(1) / count[:, None], dim=-1)
        for i, vector in zip(rows, mean):
            vectors[i] = vector
    return vectors


def timed(texts, size):
    begun = time.perf_counter()
    with torch.inference_mode():
        vectors = embed(texts, size)
    return (time.perf_counter() - begun) * 1e3, vectors


def answer(command):
    global chosen
    texts = command["texts"]
    if chosen is None:
        timed(texts[:64], 32)
        chosen = min((8, 16, 32, 64, 128), key=lambda size: timed(texts[:256], size)[0])
    ms, vectors = timed(texts, chosen)
    return {"ms": ms, "batch": chosen, "vectors": torch.cat((vectors[0], vectors[-1])).tolist()}


serve({"version": torch.__version__}, answer)
