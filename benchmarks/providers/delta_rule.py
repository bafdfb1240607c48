"""The gated delta rule in plain PyTorch, in chunks of 64 tokens."""

import torch
import torch.nn.functional as F

CHUNK = 64


def delta_rule(q, k, v, g, beta, state):
    """q, k, v [b, h, s, d], g and beta [b, h, s], all f32; state [b, h, dk, dv] or None -> y [b, h, s, dv] and the state behind the last token.

    With G the sums of g inside of a chunk, the values u that its tokens write solve (I + A)·u = beta·(v − e^G·k·S) with the strictly lower triangle
    A_ij = beta_i·e^(G_i − G_j)·(k_i·k_j): Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", 2024.
    """
    b, h, s, dk = q.shape
    dv = v.shape[-1]
    q, k = (t * torch.rsqrt((t * t).sum(-1, keepdim=True) + 1e-6) for t in (q, k))
    q = q * dk**-0.5
    state = q.new_zeros(b, h, dk, dv) if state is None else state
    if s == 1:
        left = state * g.exp()[..., None]
        u = beta[..., None] * (v - k @ left)
        state = left + k.transpose(-1, -2) @ u
        return q @ state, state
    pad = -s % CHUNK
    q, k, v = (F.pad(t, (0, 0, 0, pad)).view(b, h, -1, CHUNK, t.shape[-1]) for t in (q, k, v))
    g, beta = (F.pad(t, (0, pad)).view(b, h, -1, CHUNK) for t in (g, beta))
    total = g.cumsum(-1)
    decay = (total[..., :, None] - total[..., None, :]).tril().exp().tril()
    own = (beta[..., None] * k) @ k.transpose(-1, -2)
    lower = torch.eye(CHUNK) + (own * decay).tril(-1)
    both = torch.cat((beta[..., None] * v, (beta * total.exp())[..., None] * k), dim=-1)
    values, keys = torch.linalg.solve_triangular(lower, both, upper=False, unitriangular=True).split((dv, dk), dim=-1)
    among = (q @ k.transpose(-1, -2)) * decay
    reading = q * total.exp()[..., None]
    last = total[..., -1:]
    writing = k * (last - total).exp()[..., None]
    out = []
    for i in range(q.shape[2]):
        u = values[:, :, i] - keys[:, :, i] @ state
        out.append(reading[:, :, i] @ state + among[:, :, i] @ u)
        state = state * last[:, :, i].exp()[..., None] + writing[:, :, i].transpose(-1, -2) @ u
    return torch.stack(out, dim=2).reshape(b, h, -1, dv)[:, :, :s], state
