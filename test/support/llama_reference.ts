/** A Llama-family forward pass in plain double loops, written apart from the library to check it against. */
import { openSafetensors } from '../../lib/formats/safetensors';
import type { LlamaConfig } from '../../lib/models/families/llama';
import { parseModelConfig } from '../../lib/models/families';
import { inverseFrequencies } from '../../lib/models/config/rope';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

type Matrix = { rows: number; cols: number; at: Float64Array };
/** LoRA pairs by module path: the layer adds scale·up·(down·x). */
export type Deltas = ReadonlyMap<string, { up: Matrix; down: Matrix; scale: number }>;

export const matrix = (rows: number, cols: number, values: ArrayLike<number>): Matrix => ({
  rows,
  cols,
  at: Float64Array.from(values),
});

/** ∂loss/∂values[i] by central differences. */
export function slope(values: Matrix, i: number, loss: () => number): number {
  const kept = values.at[i]!;
  const at = (x: number): number => {
    values.at[i] = x;
    return loss();
  };
  const rise = at(kept + 1e-5) - at(kept - 1e-5);
  values.at[i] = kept;
  return rise / 2e-5;
}

function times(w: Matrix, x: ArrayLike<number>): Float64Array {
  const y = new Float64Array(w.rows);
  for (let i = 0; i < w.rows; i++) for (let j = 0; j < w.cols; j++) y[i]! += w.at[i * w.cols + j]! * x[j]!;
  return y;
}

function norm(x: ArrayLike<number>, weight: Matrix, eps: number): Float64Array {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! ** 2;
  const rstd = 1 / Math.sqrt(sum / x.length + eps);
  return Float64Array.from(x, (v, i) => v * rstd * weight.at[i]!);
}

export class ReferenceLlama {
  constructor(
    readonly config: LlamaConfig,
    readonly tensors: ReadonlyMap<string, Matrix>,
  ) {}

  /** Reads an F32 directory. */
  static async load(dir: string): Promise<ReferenceLlama> {
    const config = parseModelConfig(
      JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')),
    ) as LlamaConfig;
    const file = await openSafetensors(join(dir, 'model.safetensors'));
    const tensors = new Map<string, Matrix>();
    for (const [name, { shape, bytes }] of file.tensors)
      tensors.set(name, matrix(shape[0]!, shape[1] ?? 1, new Float32Array(new Uint8Array(bytes).buffer)));
    file.close();
    return new ReferenceLlama(config, tensors);
  }

  #linear(path: string, x: Float64Array, deltas: Deltas): Float64Array {
    const y = times(this.tensors.get(`${path}.weight`)!, x);
    const bias = this.tensors.get(`${path}.bias`);
    const delta = deltas.get(path);
    const more = delta && times(delta.up, times(delta.down, x));
    return y.map((v, i) => v + (bias?.at[i] ?? 0) + (more ? delta.scale * more[i]! : 0));
  }

  /** Logits of every position of one sequence. */
  logits(ids: readonly number[], deltas: Deltas = new Map()): Float64Array[] {
    const c = this.config;
    const get = (name: string): Matrix => this.tensors.get(name)!;
    const embedding = get('model.embed_tokens.weight');
    let xs = ids.map((id) => embedding.at.slice(id * c.hiddenSize, (id + 1) * c.hiddenSize));
    const inv = inverseFrequencies(c.layers[0]!.rope, c.headDim);
    const rotate = (head: Float64Array, position: number): Float64Array => {
      const half = c.headDim / 2;
      return head.map((v, i) => {
        const [cos, sin] = [Math.cos(position * inv[i % half]!), Math.sin(position * inv[i % half]!)];
        return i < half ? v * cos - head[i + half]! * sin : v * cos + head[i - half]! * sin;
      });
    };
    for (let l = 0; l < c.numHiddenLayers; l++) {
      const p = `model.layers.${l}.`;
      const heads = (flat: Float64Array, kind: 'q' | 'k', position: number): Float64Array[] =>
        Array.from({ length: flat.length / c.headDim }, (_, h) => {
          const head = flat.slice(h * c.headDim, (h + 1) * c.headDim);
          const own = this.tensors.get(`${p}self_attn.${kind}_norm.weight`);
          return rotate(own ? norm(head, own, c.rmsNormEps) : head, position);
        });
      const normed = xs.map((x) => norm(x, get(`${p}input_layernorm.weight`), c.rmsNormEps));
      const q = normed.map((x, t) => heads(this.#linear(`${p}self_attn.q_proj`, x, deltas), 'q', t));
      const k = normed.map((x, t) => heads(this.#linear(`${p}self_attn.k_proj`, x, deltas), 'k', t));
      const v = normed.map((x) => this.#linear(`${p}self_attn.v_proj`, x, deltas));
      xs = xs.map((x, t) => {
        const mixed = new Float64Array(c.numAttentionHeads * c.headDim);
        for (let h = 0; h < c.numAttentionHeads; h++) {
          const kv = Math.floor(h / (c.numAttentionHeads / c.numKeyValueHeads));
          const window = c.layers[l]!.window;
          const first = window > 0 ? Math.max(0, t - window + 1) : 0;
          const scores: number[] = [];
          for (let j = first; j <= t; j++) {
            let dot = 0;
            for (let d = 0; d < c.headDim; d++) dot += q[t]![h]![d]! * k[j]![kv]![d]!;
            scores.push(Math.exp(dot / Math.sqrt(c.headDim)));
          }
          const total = scores.reduce((a, b) => a + b, 0);
          for (const [n, score] of scores.entries())
            for (let d = 0; d < c.headDim; d++)
              mixed[h * c.headDim + d]! += (score / total) * v[first + n]![kv * c.headDim + d]!;
        }
        const attended = this.#linear(`${p}self_attn.o_proj`, mixed, deltas);
        return x.map((value, i) => value + attended[i]!);
      });
      xs = xs.map((x) => {
        const inner = norm(x, get(`${p}post_attention_layernorm.weight`), c.rmsNormEps);
        const gate = this.#linear(`${p}mlp.gate_proj`, inner, deltas);
        const up = this.#linear(`${p}mlp.up_proj`, inner, deltas);
        const down = this.#linear(
          `${p}mlp.down_proj`,
          gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]!),
          deltas,
        );
        return x.map((value, i) => value + down[i]!);
      });
    }
    const head = this.tensors.get('lm_head.weight') ?? embedding;
    return xs.map((x) => {
      const hidden = norm(x, get('model.norm.weight'), c.rmsNormEps);
      const delta = deltas.get('lm_head');
      const more = delta && times(delta.up, times(delta.down, hidden));
      return times(head, hidden).map((y, i) => y + (more ? delta.scale * more[i]! : 0));
    });
  }

  /** Σ −log p of the labels that count, and how many do. */
  loss(ids: readonly number[], labels: readonly number[], deltas?: Deltas): { sum: number; count: number } {
    let [sum, count] = [0, 0];
    this.logits(ids, deltas).forEach((row, t) => {
      const label = labels[t + 1];
      if (label === undefined || label === -100) return;
      const most = Math.max(...row);
      sum += most + Math.log(row.reduce((a, x) => a + Math.exp(x - most), 0)) - row[label]!;
      count++;
    });
    return { sum, count };
  }
}
