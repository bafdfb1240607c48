#!/usr/bin/env python3
"""Makes the bundled base model from text.py: a byte-level BPE tokenizer and a tiny Llama, trained with PyTorch.

    apt-get install python3-torch && /usr/bin/python3 examples/base-model/make.py [--steps 3000]

Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json and model.safetensors (bf16) here.
"""

import argparse
import collections
import json
import math
import pathlib
import re
import struct
import time

import torch
import torch.nn.functional as F

from text import documents

HERE = pathlib.Path(__file__).parent
CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=512, hidden_size=128, intermediate_size=352,
    num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=512,
    rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", attention_bias=False, mlp_bias=False,
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, torch_dtype="bfloat16",
)
END = "<|end|>"  # before and after each document


# ---- tokenizer: byte-level BPE ------------------------------------------------------------------------------------

def byte_alphabet():
    """The printable stand-in of each byte, as byte-level BPE files write it."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return {b: chr(b if b in shown else next(extra)) for b in range(256)}


ALPHABET = byte_alphabet()
# Words with their leading space, single digits, runs of punctuation, blanks.
SPLIT = r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]+|\s+"


def train_bpe(texts, size):
    words = collections.Counter(w for t in texts for w in re.findall(SPLIT, t))
    pieces = {w: [ALPHABET[b] for b in w.encode()] for w in words}
    vocab, merges = [END, *ALPHABET.values()], []
    while len(vocab) < size:
        pairs = collections.Counter()
        for w, n in words.items():
            for pair in zip(pieces[w], pieces[w][1:]):
                pairs[pair] += n
        if not pairs:
            break
        a, b = max(pairs, key=lambda p: (pairs[p], p))
        merges.append([a, b])
        vocab.append(a + b)
        for w, p in pieces.items():
            i, merged = 0, []
            while i < len(p):
                if p[i : i + 2] == [a, b]:
                    merged.append(a + b)
                    i += 2
                else:
                    merged.append(p[i])
                    i += 1
            pieces[w] = merged
    ids = {token: i for i, token in enumerate(vocab)}
    return ids, merges, {w: [ids[t] for t in p] for w, p in pieces.items()}


def tokenizer_json(ids, merges):
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": 0, "content": END, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": END, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": ids, "merges": [f"{a} {b}" for a, b in merges]},
    }


# ---- model --------------------------------------------------------------------------------------------------------

def init_weights():
    c, g = CONFIG, torch.Generator().manual_seed(0)
    d, ff, hd = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * hd, c["num_key_value_heads"] * hd
    def normal(rows, cols, std=0.02):
        return torch.randn(rows, cols, generator=g) * std

    out_std = 0.02 / math.sqrt(2 * c["num_hidden_layers"])  # of what is added to the residual stream
    w = {"model.embed_tokens.weight": normal(c["vocab_size"], d)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        w |= {
            p + "input_layernorm.weight": torch.ones(d), p + "post_attention_layernorm.weight": torch.ones(d),
            p + "self_attn.q_proj.weight": normal(q, d), p + "self_attn.k_proj.weight": normal(kv, d),
            p + "self_attn.v_proj.weight": normal(kv, d), p + "self_attn.o_proj.weight": normal(d, q, out_std),
            p + "mlp.gate_proj.weight": normal(ff, d), p + "mlp.up_proj.weight": normal(ff, d),
            p + "mlp.down_proj.weight": normal(d, ff, out_std),
        }
    w["model.norm.weight"] = torch.ones(d)
    return {k: t.requires_grad_() for k, t in w.items()}


def rms_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"]) * weight


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def logits_of(w, ids):
    c = CONFIG
    batch, seq = ids.shape
    hd, heads, kv = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
    angle = torch.arange(seq)[:, None] * c["rope_theta"] ** (-torch.arange(0, hd, 2) / hd)
    cos, sin = angle.cos(), angle.sin()
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[p + "input_layernorm.weight"])
        q, k, v = (
            (h @ w[p + f"self_attn.{name}_proj.weight"].T).view(batch, seq, n, hd).transpose(1, 2)
            for name, n in (("q", heads), ("k", kv), ("v", kv))
        )
        k, v = (t.repeat_interleave(heads // kv, 1) for t in (rotate(k, cos, sin), v))
        a = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        x = x + a.transpose(1, 2).reshape(batch, seq, -1) @ w[p + "self_attn.o_proj.weight"].T
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"])
        gate = F.silu(h @ w[p + "mlp.gate_proj.weight"].T)
        x = x + (gate * (h @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def save_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        size = tensors[name].numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            out.write(tensors[name].detach().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    torch.manual_seed(0)

    texts = list(documents(seed=7, n=100_000))
    ids, merges, pieces = train_bpe(texts[:20_000], CONFIG["vocab_size"])
    def encode(text):
        return [t for w in re.findall(SPLIT, text) for t in (pieces.get(w) or [ids[ALPHABET[b]] for b in w.encode()])]

    stream = torch.tensor([t for text in texts for t in [0, *encode(text)]])
    print(f"{len(stream)} tokens, vocabulary {len(ids)}")

    weights = init_weights()
    matrices = [t for t in weights.values() if t.dim() == 2]
    vectors = [t for t in weights.values() if t.dim() == 1]
    peak, batch, seq = 3e-3, 16, 128
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=peak, betas=(0.9, 0.95))
    start = time.time()
    for step in range(args.steps):
        lr = peak * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        at = torch.randint(len(stream) - seq - 1, (batch,))
        window = torch.stack([stream[i : i + seq + 1] for i in at])
        loss = F.cross_entropy(logits_of(weights, window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == args.steps - 1:
            print(f"step {step} loss {loss.item():.3f} ({time.time() - start:.0f} s)", flush=True)

    save_safetensors(HERE / "model.safetensors", weights)
    def write(name, value):
        (HERE / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf8")

    write("config.json", CONFIG)
    write("generation_config.json", {"bos_token_id": 0, "eos_token_id": 0})
    write("tokenizer.json", tokenizer_json(ids, merges))
    write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END,
                                    "model_max_length": CONFIG["max_position_embeddings"], "clean_up_tokenization_spaces": False})


if __name__ == "__main__":
    main()
