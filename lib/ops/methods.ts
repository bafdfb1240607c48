/** The ops as methods of Tensor, whose doc comments stand in its interface (../tensor/tensor.ts). */
import { deviceName } from '../native/device';
import { backward } from '../tensor/autograd';
import { handleOf, Tensor } from '../tensor/tensor';
import { checkOptions } from '../validate';
import { binary } from './binary';
import { cast, toDevice } from './cast';
import { compare, extreme } from './compare';
import { crossEntropyOf } from './cross_entropy';
import { reshape, transpose } from './layout';
import { matmul } from './matmul';
import { pow } from './power';
import { mean, sum } from './reduce';
import { argmax, max, softmax } from './row_max';
import { slice } from './slices';
import { gather, take } from './take';
import { unary } from './unary';

type Methods = Pick<
  Tensor,
  | 'to'
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'maximum'
  | 'minimum'
  | 'pow'
  | 'less'
  | 'greater'
  | 'equal'
  | 'square'
  | 'sqrt'
  | 'relu'
  | 'gelu'
  | 'silu'
  | 'exp'
  | 'log'
  | 'sigmoid'
  | 'tanh'
  | 'softmax'
  | 'logSoftmax'
  | 'max'
  | 'argmax'
  | 'sum'
  | 'mean'
  | 'reshape'
  | 'transpose'
  | 'permute'
  | 'slice'
  | 'take'
  | 'gather'
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
  maximum(other) {
    return extreme('maximum', this, other);
  },
  minimum(other) {
    return extreme('minimum', this, other);
  },
  pow(exponent) {
    return pow(this, exponent);
  },
  less(other) {
    return compare('less', this, other);
  },
  greater(other) {
    return compare('greater', this, other);
  },
  equal(other) {
    return compare('equal', this, other);
  },
  sqrt() {
    return unary('sqrt', this);
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
  tanh() {
    return unary('tanh', this);
  },
  softmax(options) {
    return softmax('softmax', this, options);
  },
  logSoftmax(options) {
    return softmax('logSoftmax', this, options);
  },
  max(options) {
    return max(this, options);
  },
  argmax(options) {
    return argmax(this, options);
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
  permute(perm) {
    return transpose(this, perm, 'permute');
  },
  slice(start, end, options) {
    return slice(this, start, end, options);
  },
  take(index, options) {
    return take(this, index, options);
  },
  gather(index, options) {
    return gather(this, index, options);
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
