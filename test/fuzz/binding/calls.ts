/** For each function of the binding, calls that it accepts. */
import type { NativeBinding } from '../../../lib/native/binding';
import type { Dice } from '../random';
import { deltaTable, device, Draw, guard, storedDtypes, weightFormats, type Act, type Builder } from './draw';
import { ops } from './op_calls';
import type { Call, Spec } from './plan';

/** A step that a program may have. */
const step = (d: Draw): Call => ({ fn: 'fill', args: [d.f32(d.size()), 1] });
const beginRecording: Call = { fn: 'beginRecording', args: [device] };
const file: Spec = { $: 'file' };
const none: Builder = () => [];
const onDevice: Builder = () => [device];
const onTensor: Builder = (d) => [d.tensor(d.dice.pick(storedDtypes), d.shape())];

const others: Partial<Record<keyof NativeBinding, Builder>> = {
  setErrorFactory: () => [{ $: 'factory' }],
  setTag: (d) => [d.dice.below(99)],
  openDevice: (d) => [d.dice.pick(['cpu', 'reference'])],
  openDeviceLater: (d) => [d.dice.pick(['cpu', 'reference'])],
  devices: none,
  cudaUnavailableReason: none,
  cudaFacts: none,
  requireF16: () => [device, 'attention'],
  cpuInfo: none,
  setThreads: (d) => [1 + d.dice.below(4)],
  memoryUsage: none,
  watchPeak: none,
  watchedPeakBytes: none,
  synchronize: onDevice,
  synchronizeSync: onDevice,
  freeBytes: onDevice,
  copiedBytes: (d) => [d.dice.pick(['f32', 'bf16']), d.size(), [d.size(), d.size()]],
  trim: onDevice,
  roomInQueue: onDevice,
  alloc: (d) => [device, d.dice.pick(storedDtypes), d.shape()],
  fromBytes: (d) => {
    const [dtype, shape] = [d.dice.pick(['f32', 'i32', 'bf16', 'i8']), d.shape()];
    return [device, dtype, shape, { $: 'bytes', dtype, shape }];
  },
  writeBytes: (d) => {
    const [dtype, shape] = [d.dice.pick(['f32', 'i32', 'bf16']), d.shape()];
    return [d.tensor(dtype, shape), { $: 'bytes', dtype, shape }];
  },
  view: (d) => {
    const [whole, part] = [d.some(), d.size()];
    const [most, least] = [Math.max(whole, part), Math.min(whole, part)];
    return [d.tensor(d.dice.pick(storedDtypes), [most]), d.dice.below(most - least + 1), [1, least]];
  },
  toDevice: (d) => [...(onTensor(d) as Spec[]), { $: 'device', on: d.dice.pick(['cpu', 'reference']) }],
  read: onTensor,
  readSync: onTensor,
  info: onTensor,
  release: onTensor,
  beginRecording: onDevice,
  endRecording: (d) => ({ before: [beginRecording, step(d)], args: [device] }),
  abandonRecording: (d) => ({ before: [beginRecording, step(d)], args: [device] }),
  runProgram: (d) => [{ $: 'program', steps: [step(d), step(d)] as never }],
  reads: (d) => [device, d.dice.pick(weightFormats), d.float()],
  readsDeltas: (d) => [device, d.float()],
  createDeltaTable: (d) => [
    device,
    [
      [d.size(), d.size()],
      [3, 5],
    ],
    d.some(),
    d.some(),
    'f32',
  ],
  setDeltaSlot: (d) => {
    const dtype: Act = d.dice.once(8) ? 'bf16' : 'f32';
    const table = deltaTable(
      d,
      [
        { out: d.size(), inner: d.size() },
        { out: 3, inner: 5 },
      ],
      dtype,
    );
    const [slot, changes] = d.dice.pick(table['changes'] as [number, Spec][]);
    return [{ ...table, changes: [] }, slot, changes];
  },
  createGuard: none,
  checkGuard: () => [guard],
  clearGuard: () => [guard],
  openFile: () => [process.execPath],
  fileView: (d) => [file, d.dice.below(99), d.size()],
  fileBytes: (d) => [file, d.dice.below(99), d.size()],
  closeFile: () => [file],
  lockFile: () => [{ $: 'lockable' }],
  unlockFile: () => [{ $: 'lock' }],
  activity: onDevice,
  startProfile: onDevice,
  endProfile: (d) => ({ before: [{ fn: 'startProfile', args: [device] }, step(d)], args: [device] }),
  liveObjects: none,
  injectFailure: (d) => [d.dice.pick(['fill', 'binary', '']), 'was asked for'],
  injectOutOfMemory: (d) => [d.dice.below(9)],
  setQueueLimits: (d) => [{ commands: d.some(), bytes: 1000 + d.dice.below(9999) }],
};

export const builders: Readonly<Record<string, Builder>> = { ...others, ...ops };

/** Arguments that the function accepts, and what is called before. */
export function validCall(fn: string, dice: Dice): { args: Spec[]; before: Call[] } {
  const built = builders[fn]!(new Draw(dice));
  return Array.isArray(built) ? { args: built, before: [] } : built;
}
