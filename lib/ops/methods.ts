/** The ops as methods of Tensor, whose doc comments stand in its interface (../tensor/tensor.ts). */
import { deviceName } from '../native/device';
import { backward } from '../tensor/autograd';
import { handleOf, Tensor } from '../tensor/tensor';
import { checkOptions } from '../validate';
import { binary } from './binary';
import { cast, toDevice } from './cast';
import { crossEntropyOf } from './cross_entropy';
import { reshape, transpose } from './layout';
import { matmul } from './matmul';
import { mean, sum } from './reduce';
import { unary } from './unary';

type Methods = Pick<
  Tensor,
  | 'to'
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'square'
  | 'relu'
  | 'gelu'
  | 'silu'
  | 'exp'
  | 'log'
  | 'sigmoid'
  | 'sum'
  | 'mean'
  | 'reshape'
  | 'transpose'
  | 'matmul'
  | 'crossEntropy'
  | 'backward'
>;

const methods: Methods & ThisType<Tensor> = {
  to(options) {
    checkOptions('to', options, ['dtype', 'device']);
    const { dtype = this.dtype, device = this.device } = options;
    handleOf(this, 'to');
    if (deviceName('to', device) === this.device) return cast(this, dtype);
    const narrow = cast(this, dtype);
    const moved = toDevice(narrow, device);
    narrow.dispose();
    return moved;
  },
  add(other) {
    return binary('add', this, other);
  },
  sub(other) {
    return binary('sub', this, other);
  },
  mul(other) {
    return binary('mul', this, other);
  },
  div(other) {
    return binary('div', this, other);
  },
  square() {
    return unary('square', this);
  },
  relu() {
    return unary('relu', this);
  },
  exp() {
    return unary('exp', this);
  },
  log() {
    return unary('log', this);
  },
  sigmoid() {
    return unary('sigmoid', this);
  },
  gelu() {
    return unary('gelu', this);
  },
  silu() {
    return unary('silu', this);
  },
  sum(options) {
    return sum(this, options);
  },
  mean(options) {
    return mean(this, options);
  },
  reshape(shape) {
    return reshape(this, shape);
  },
  transpose(perm) {
    return transpose(this, perm);
  },
  matmul(other) {
    return matmul(this, other);
  },
  crossEntropy(labels, options) {
    return crossEntropyOf(this, labels, options);
  },
  backward(g) {
    backward(this, g);
  },
};

for (const [name, value] of Object.entries(methods)) {
  Object.defineProperty(Tensor.prototype, name, { value, writable: true, configurable: true });
}
