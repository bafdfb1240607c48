// lora-native through its public API.
import { LoRALinear, noGrad, synchronize, tensor } from 'lora-native';

export class OursProvider {
  name = 'lora-native';
  #layer;
  #x;
  #g;

  load({ m, in: k, out: n, r, dtype }, { x, w, a, b, g, scale }) {
    this.#free();
    const weight = tensor(w, { shape: [n, k], dtype });
    this.#layer = new LoRALinear({ inFeatures: k, outFeatures: n, r, loraAlpha: scale * r, weight, dtype });
    weight.dispose();
    this.#layer.loadStateDict({
      up: tensor(a, { shape: [n, r] }),
      down: tensor(b, { shape: [r, k] }),
      forwards: 0,
    });
    this.#x = tensor(x, { shape: [m, k], dtype, requiresGrad: true });
    this.#g = tensor(g, { shape: [m, n], dtype });
  }

  #forward() {
    noGrad(() => this.#layer.forward(this.#x)).dispose();
  }

  #step() {
    const y = this.#layer.forward(this.#x);
    y.backward(this.#g);
    y.dispose();
    for (const t of [this.#x, this.#layer.up, this.#layer.down]) {
      t.grad?.dispose();
      t.grad = null;
    }
  }

  async check() {
    const y = this.#layer.forward(this.#x);
    y.backward(this.#g);
    const out = { y: await y.data() };
    for (const [name, t] of [
      ['dx', this.#x],
      ['da', this.#layer.up],
      ['db', this.#layer.down],
    ]) {
      out[name] = await t.grad.data();
      t.grad.dispose();
      t.grad = null;
    }
    y.dispose();
    return out;
  }

  /** Seconds per call, `iterations` times: `batch` calls are queued back to back, as a model queues its layers. */
  async time(what, iterations, batch) {
    const work = what === 'step' ? () => this.#step() : () => this.#forward();
    const seconds = [];
    for (let i = 0; i < iterations; i++) {
      const start = performance.now();
      for (let call = 0; call < batch; call++) work();
      await synchronize('cpu');
      seconds.push((performance.now() - start) / 1000 / batch);
    }
    return seconds;
  }

  #free() {
    this.#layer?.dispose();
    this.#x?.dispose();
    this.#g?.dispose();
  }
  stop() {
    this.#free();
  }
}
