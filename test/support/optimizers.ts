/** What the tests of optimizers share: parameters with gradients, and the formulas as loops in double. */
import { parameter, tensor, type Device, type Parameter } from '../../lib/index';
import { values } from './numbers';

export const seededParameter = (
  seed: number,
  n: number,
  { device = 'cpu', name = '' }: { device?: Device; name?: string } = {},
): Parameter => parameter(tensor(values(n, seed), { device }), name);

export function setGrad(p: Parameter, g: readonly number[]): void {
  p.grad?.dispose();
  p.grad = tensor(g, { device: p.device });
}

/** With eps it is AdamW, with betas alone Lion, else PyTorch's SGD. */
export interface PlainSettings {
  lr: number;
  decay: number;
  momentum?: number;
  nesterov?: boolean;
  betas?: readonly [number, number];
  eps?: number;
}

/** An optimizer as its doc comment has it. */
export class PlainOptimizer {
  readonly #m: number[];
  readonly #v: number[];
  #steps = 0;

  constructor(
    readonly p: number[],
    readonly settings: PlainSettings,
  ) {
    this.#m = p.map(() => 0);
    this.#v = p.map(() => 0);
  }

  step(g: readonly number[], lr = this.settings.lr): void {
    this.#steps++;
    g.forEach((gi, i) => {
      this.p[i] = this.#element(i, this.p[i]!, gi, lr);
    });
  }

  #element(i: number, p: number, g: number, lr: number): number {
    const { decay, betas, eps, momentum = 0, nesterov = false } = this.settings;
    const m = this.#m[i]!;
    if (betas === undefined) {
      const d = g + decay * p;
      const velocity = (this.#m[i] = momentum * m + d);
      return p - lr * (nesterov ? d + momentum * velocity : velocity);
    }
    const [b1, b2] = betas;
    const kept = p * (1 - lr * decay);
    if (eps === undefined) {
      this.#m[i] = b2 * m + (1 - b2) * g;
      return kept - lr * Math.sign(b1 * m + (1 - b1) * g);
    }
    this.#m[i] = b1 * m + (1 - b1) * g;
    this.#v[i] = b2 * this.#v[i]! + (1 - b2) * g * g;
    const root = Math.sqrt(this.#v[i] / (1 - b2 ** this.#steps));
    return kept - ((lr / (1 - b1 ** this.#steps)) * this.#m[i]) / (root + eps);
  }
}
