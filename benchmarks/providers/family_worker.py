"""LFM2, Qwen3.5 and Qwen3 with experts with LoRA in plain PyTorch, as it computes them without kernels of their own: conv1d of groups, the delta rule in
chunks of 64 tokens, an expert after the other.

    family_worker.py THREADS BASELINES MODEL f32|bf16 BATCH LENGTH [step|decode]

BASELINES is the folder with llama_lora.py, the lean Llama, whose layers are those here. Answers {"do": "step"} with the milliseconds and the loss of a
training step of BATCH texts of LENGTH tokens (r = 16 on all linear layers), and {"do": "decode", "ids": [...], "tokens": N} with those of reading a prompt
and of writing tokens behind it.
"""

import os
import resource
import sys
import time

os.environ.setdefault("KMP_BLOCKTIME", "0")  # its threads sleep between steps
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

threads, baselines, directory, dtype, batch, length = sys.argv[1:7]
torch.set_num_threads(int(threads))
sys.path.insert(0, baselines)
from llama_lora import LlamaLora  # noqa: E402
from delta_rule import delta_rule  # noqa: E402
from worker import serve  # noqa: E402


class Family(LlamaLora):
    """One class for the three: `past` holds what each layer keeps of a text, by layer."""

    def __init__(self, directory, dtype):
        super().__init__(directory, dtype)
        c = self.config
        self.type, self.eps = c["model_type"], c.get("rms_norm_eps", c.get("norm_eps"))
        self.plus = 1 if self.type == "qwen3_5_text" else 0
        self.width = int(self.head_dim * c.get("partial_rotary_factor", 1))
        self.inv_freq = c["rope_theta"] ** (-torch.arange(0, self.width, 2, dtype=torch.float64) / self.width)
        for name in list(self.w):  # as their modules would add 1 in each call
            if self.plus and name.endswith("norm.weight") and "linear_attn" not in name:
                self.w[name] = self.w[name] + 1

    def targets(self, layer):
        """Its linear layers that adapters change: no router, and no experts."""
        prefix, skipped = f"model.layers.{layer}.", (".mlp.gate.", ".experts.")
        two = [n for n, w in self.w.items() if n.startswith(prefix) and w.dim() == 2]
        return [n[: -len(".weight")] for n in two if not any(part in n for part in skipped)]

    def add_lora(self, rank, alpha):
        gen = torch.Generator().manual_seed(0)
        for layer in range(self.config["num_hidden_layers"]):
            for name in self.targets(layer):
                d, k = self.w[name + ".weight"].shape
                a = (torch.rand(rank, k, generator=gen) * 2 - 1) / k**0.5
                self.set_adapter(name, a, torch.zeros(d, rank), alpha / rank)

    def norm(self, name, x):
        return F.rms_norm(x, x.shape[-1:], self.w[name + ".weight"], self.eps)

    def turned(self, x, begin):
        angle = torch.outer(torch.arange(begin, begin + x.shape[2], dtype=torch.float64), self.inv_freq)
        cos, sin = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        if self.width == self.head_dim:
            return self.rotate(x, cos, sin)
        own, rest = x.split((self.width, self.head_dim - self.width), dim=-1)
        return torch.cat((self.rotate(own, cos, sin), rest), dim=-1)

    def attend(self, p, y, n, m, past, layer):
        lfm = self.type == "lfm2"
        heads = lambda t, h: t.view(n, m, h, -1).transpose(1, 2)
        flat = self.linear(p + "self_attn.q_proj", y)
        gate = None
        if self.plus:  # each head has its q, and behind it the gate of its output
            q, gate = flat.view(n, m, self.heads, 2, self.head_dim).unbind(3)
            q, gate = q.transpose(1, 2), gate.reshape(n * m, -1)
        else:
            q = heads(flat, self.heads)
        k, v = (heads(self.linear(p + f"self_attn.{x}_proj", y), self.kv_heads) for x in "kv")
        end = "layernorm" if lfm else "norm"
        q, k = self.norm(p + f"self_attn.q_{end}", q), self.norm(p + f"self_attn.k_{end}", k)
        before = past.get(layer) if past is not None else None
        begin = 0 if before is None else before[0].shape[2]
        q, k = self.turned(q, begin), self.turned(k, begin)
        if before is not None:
            k, v = torch.cat((before[0], k), dim=2), torch.cat((before[1], v), dim=2)
        if past is not None:
            past[layer] = (k, v)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=m > 1, enable_gqa=self.kv_heads != self.heads)
        o = o.transpose(1, 2).reshape(n * m, -1)
        if gate is not None:
            o = o * torch.sigmoid(gate)
        return self.linear(p + ("self_attn.out_proj" if lfm else "self_attn.o_proj"), o)

    def convolved(self, name, x, past, key):
        """x [n, m, channels] -> the same; a text's last inputs stay in `past`."""
        w = self.w[name + ".weight"]
        taps, m = w.shape[-1], x.shape[1]
        x = x.transpose(1, 2)
        before = past.get(key) if past is not None else None
        x = F.pad(x, (taps - 1, 0)) if before is None else torch.cat((before, x), dim=2)
        if past is not None:
            past[key] = x[..., 1 - taps :]
        return F.conv1d(x, w, groups=w.shape[0])[..., -m:].transpose(1, 2)

    def short_conv(self, p, y, n, m, past, layer):
        b, c, v = self.linear(p + "conv.in_proj", y).view(n, m, -1).chunk(3, dim=-1)
        z = c * self.convolved(p + "conv.conv", b * v, past, layer)
        return self.linear(p + "conv.out_proj", z.reshape(n * m, -1))

    def delta(self, p, y, n, m, past, layer):
        c, p = self.config, p + "linear_attn."
        heads, keys = c["linear_num_value_heads"], c["linear_num_key_heads"]
        mixed = self.linear(p + "in_proj_qkv", y).view(n, m, -1)
        mixed = F.silu(self.convolved(p + "conv1d", mixed, past, (layer, "conv")))
        widths = [keys * c["linear_key_head_dim"]] * 2 + [heads * c["linear_value_head_dim"]]
        split = lambda t, h: t.reshape(n, m, h, -1).transpose(1, 2).float()
        q, k, v = (split(t, h) for t, h in zip(mixed.split(widths, dim=-1), (keys, keys, heads)))
        if keys != heads:
            q, k = (t.repeat_interleave(heads // keys, dim=1) for t in (q, k))
        per_head = lambda name: self.linear(p + name, y).view(n, m, heads).transpose(1, 2).float()
        rate, dt = self.w[p + "A_log"].float().exp()[:, None], self.w[p + "dt_bias"].float()[:, None]
        g = -rate * F.softplus(per_head("in_proj_a") + dt)
        state = past.get((layer, "state")) if past is not None else None
        out, state = delta_rule(q, k, v, g, torch.sigmoid(per_head("in_proj_b")), state)
        if past is not None:
            past[(layer, "state")] = state
        out = self.norm(p + "norm", out.to(self.dtype)).transpose(1, 2).reshape(n * m, -1)
        return self.linear(p + "out_proj", out * F.silu(self.linear(p + "in_proj_z", y)))

    def experts(self, p, y):
        weights, chosen = F.linear(y, self.w[p + "mlp.gate.weight"]).float().softmax(-1).topk(self.config["num_experts_per_tok"])
        weights = (weights / weights.sum(-1, keepdim=True)).to(y.dtype)
        out = torch.zeros_like(y)
        for e in chosen.unique().tolist():
            token, place = (chosen == e).nonzero(as_tuple=True)
            x, e = y[token], p + f"mlp.experts.{e}."
            x = F.silu(F.linear(x, self.w[e + "gate_proj.weight"])) * F.linear(x, self.w[e + "up_proj.weight"])
            x = F.linear(x, self.w[e + "down_proj.weight"]) * weights[token, place, None]
            out = out.index_add(0, token, x)
        return out

    def mlp(self, p, y):
        gate, up, down = ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2") if self.type == "lfm2" else ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        return self.linear(p + down, F.silu(self.linear(p + gate, y)) * self.linear(p + up, y))

    def hidden(self, ids, past=None):
        n, m = ids.shape
        lfm = self.type == "lfm2"
        first, second = ("operator_norm", "ffn_norm") if lfm else ("input_layernorm", "post_attention_layernorm")
        x = F.embedding(ids.flatten(), self.w["model.embed_tokens.weight"])
        for layer in range(self.config["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            mix = self.short_conv if p + "conv.conv.weight" in self.w else self.delta if p + "linear_attn.A_log" in self.w else self.attend
            x = x + mix(p, self.norm(p + first, x), n, m, past, layer)
            y = self.norm(p + second, x)
            x = x + (self.experts(p, y) if p + "mlp.gate.weight" in self.w else self.mlp(p, y))
        return self.norm("model.embedding_norm" if lfm else "model.norm", x)


if __name__ == "__main__":
    model = Family(directory, {"f32": torch.float32, "bf16": torch.bfloat16}[dtype])
    model.add_lora(16, 32)
    parameters = model.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, fused=True)
    count = int(batch) * int(length)
    # The ids of steps.mjs.
    texts = (torch.arange(count) % 256 * 167 % model.config["vocab_size"]).view(int(batch), int(length))

    def step():
        used, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        loss = model.loss(texts, texts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ms, now = (time.perf_counter() - start) * 1e3, resource.getrusage(resource.RUSAGE_SELF)
        user, system = now.ru_utime - used.ru_utime, now.ru_stime - used.ru_stime
        return {"ms": ms, "loss": loss.item(), "userMs": user * 1e3, "systemMs": system * 1e3}

    def decode(ids, tokens):
        with torch.inference_mode():
            past, start, written = {}, time.perf_counter(), []
            now = torch.tensor([ids])
            first = start
            for _ in range(tokens):
                logits = F.linear(model.hidden(now, past)[-1:], model.head)
                written.append(int(logits.argmax()))
                now = torch.tensor([[written[-1]]])
                if len(written) == 1:
                    first = time.perf_counter()
        return {"prefillMs": (first - start) * 1e3, "decodeMs": (time.perf_counter() - first) * 1e3, "ids": written}

    def answer(command):
        if command.get("do") == "decode":
            return decode(command["ids"], command["tokens"])
        return step()

    facts = {"version": torch.__version__}
    if "decode" in sys.argv[7:]:
        model.adapters = {}  # of the base alone
    else:
        facts["loss"] = step()["loss"]
        step()
    serve(facts, answer)
