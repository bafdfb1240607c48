// lora-native: ops as CausalLM calls them, beneath the tape, whose cost has a row of its own (kinds/overhead.mjs).
// On the device 'reference' it is the definition in double that the tests compare with.
import { synchronize } from 'lora-native';
import { addon } from '../addon.mjs';

const bytesOf = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

export class OursProvider {
  #native = addon();
  #device;
  #name;
  #owned = [];
  /** What can be timed and checked: name → function that calls ops and returns the results by name. */
  #work = {};

  constructor(name = 'cpu') {
    this.#name = name;
    this.#device = this.#native.openDevice(name);
  }

  #own(handle) {
    this.#owned.push(handle);
    return handle;
  }

  #tensor(values, shape, dtype) {
    const f32 = this.#own(this.#native.fromBytes(this.#device, 'f32', shape, bytesOf(values)));
    return dtype === 'f32' ? f32 : this.#own(this.#native.unary('copy', 1, f32, dtype));
  }

  /** Layers that read one x. With `copies`, calls go round that many copies of the weights, which no cache holds then. */
  loadLayers({ m, in: k, out, r, dtype }, { x, branches, scale }, copies = 1) {
    this.free();
    const native = this.#native;
    const input = this.#tensor(x, [m, k], dtype);
    const g = branches.map((branch, i) => this.#tensor(branch.g, [m, out[i]], dtype));
    const shared = branches.map(({ a, b }, i) => ({
      bias: null,
      up: this.#tensor(a, [out[i], r], 'f32'),
      down: this.#tensor(b, [r, k], 'f32'),
      scale,
      dropout: null,
      site: -1,
      factor: null,
      activations: 'exact',
    }));
    const rows = branches.map(({ w }, i) => this.#tensor(w, [out[i], k], dtype));
    const adapted = Array.from({ length: copies }, () =>
      shared.map((branch, i) => ({
        ...branch,
        weight: this.#own(native.pack(rows[i], null, dtype, [out[i], k], dtype)),
      })),
    );
    const frozen = adapted.map((layers) => layers.map((layer) => ({ ...layer, up: null, down: null })));
    for (const handle of rows) native.release(handle);

    let at = 0;
    const next = (list) => list[(at = (at + 1) % copies)];
    const forward = (layers) => {
      const [y] = native.loraLinearForward(input, layers, 'auto', null, null, false);
      return named('y', y);
    };
    const step = (layers, want) => {
      const wanted = layers.map(() => want);
      const [y, h] = native.loraLinearForward(input, layers, 'auto', null, null, want);
      const x = want ? input : null;
      const [dx, da, db] = native.loraLinearBackward(x, layers, g, h, [], true, wanted, wanted, false);
      for (const handle of h) if (handle) native.release(handle);
      return { ...named('y', y), dx, ...named('da', da), ...named('db', db) };
    };
    this.#work = {
      forward: () => forward(next(adapted)),
      frozen_forward: () => forward(next(frozen)),
      step: () => step(next(adapted), true),
      frozen_step: () => step(next(frozen), false),
    };
  }

  /** Causal grouped-query attention, and its gradients. */
  loadAttention({ tokens, heads, kvHeads, d, dtype }, { q, k, v, g }) {
    this.free();
    const native = this.#native;
    const [Q, G] = [q, g].map((values) => this.#tensor(values, [1, tokens, heads, d], dtype));
    const [K, V] = [k, v].map((values) => this.#tensor(values, [1, tokens, kvHeads, d], dtype));
    const options = { window: 0, scale: 1 / Math.sqrt(d) };
    const forward = (keep) => native.attentionForward(Q, K, V, null, null, options, keep, null);
    this.#work = {
      forward: () => ({ y: forward(false)[0] }),
      step: () => {
        const [y, lse] = forward(true);
        const [dq, dk, dv] = native.attentionBackward(Q, K, V, null, y, lse, G, options, null);
        native.release(lse);
        return { y, dq, dk, dv };
      },
    };
  }

  /** A short convolution, and its gradient. */
  loadShortConv({ tokens, channels, taps, form, dtype }, { x, w, g }) {
    this.free();
    const native = this.#native;
    const X = this.#tensor(x, [1, tokens, form === 'gated' ? 3 * channels : channels], dtype);
    const W = this.#tensor(w, [channels, taps], dtype);
    const G = this.#tensor(g, [1, tokens, channels], dtype);
    const forward = () => ({ y: native.shortConvForward(form, X, W, null, null) });
    this.#work = {
      forward,
      step: () => {
        const [dx] = native.shortConvBackward(form, X, W, null, null, G, true, false, false);
        return { ...forward(), dx };
      },
    };
  }

  /** The gated delta rule, and its gradients. */
  loadDeltaRule({ tokens, heads, d, dtype }, { q, k, v, g, decay, beta }) {
    this.free();
    const native = this.#native;
    const [Q, K, V, G] = [q, k, v, g].map((values) => this.#tensor(values, [1, tokens, heads, d], dtype));
    const [D, B] = [decay, beta].map((values) => this.#tensor(values, [1, tokens, heads], 'f32'));
    const options = { scale: 1 / Math.sqrt(d), eps: 1e-6 };
    const forward = () => ({ y: native.gatedDeltaForward(Q, K, V, D, B, null, options) });
    this.#work = {
      forward,
      step: () => {
        const [dq, dk, dv, dg, db] = native.gatedDeltaBackward(Q, K, V, D, B, null, G, options);
        return { ...forward(), dq, dk, dv, dg, db };
      },
    };
  }

  /** The results of one call as f32, by name. */
  async check(what = 'step') {
    const results = {};
    for (const [name, handle] of Object.entries(this.#work[what]())) {
      if (handle === null) continue;
      const f32 = this.#native.unary('copy', 1, handle, 'f32');
      results[name] = new Float32Array(await this.#native.read(f32));
      for (const t of [f32, handle]) this.#native.release(t);
    }
    return results;
  }

  /** Seconds per call, `iterations` times: `batch` calls are queued back to back, as a model queues its layers. */
  async time(what, iterations, batch) {
    const work = this.#work[what];
    const seconds = [];
    for (let i = 0; i < iterations; i++) {
      const start = performance.now();
      for (let call = 0; call < batch; call++)
        for (const handle of Object.values(work())) if (handle !== null) this.#native.release(handle);
      await synchronize(this.#name);
      seconds.push((performance.now() - start) / 1000 / batch);
    }
    return seconds;
  }

  free() {
    for (const handle of this.#owned) this.#native.release(handle);
    this.#owned = [];
  }
}

/** { y0: …, y1: … } */
const named = (name, handles) => Object.fromEntries(handles.map((handle, i) => [name + i, handle]));
