/** What a recorded program must do, on any device. */
import { setThreads, tensor, tidy, type Device, type DType, type Tensor } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import {
  addRmsNorm,
  attentionPaged,
  embedding,
  loraLinearGroup,
  pageAppend,
  poolShape,
  positions,
  rmsNorm,
  sample,
  splitColumns,
} from '../../lib/ops';
import { gated } from '../../lib/ops/gated';
import { writeBytes } from '../../lib/tensor/create';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { recordProgram } from '../../lib/tensor/program';
import { rawCast, rawFilled } from '../../lib/tensor/raw';
import { temporaries } from '../../lib/tensor/scope';
import { alias } from '../../lib/tensor/tensor';
import { expectReject, expectThrow } from './errors';
import { bits, list, seeded } from './numbers';
import { rowsOf } from './sampling';

const rows = 3;
const [vocab, hidden, inner, heads, headDim, places] = [50, 32, 48, 4, 8, 64];

/** A decode step in small: inputs, and a function from them to the logits and the next ids. */
function decoder(device: Device, dtype: DType, layers: number) {
  const seed = (
    (n) => () =>
      ++n
  )(0);
  const activations = (...shape: number[]) => seeded(shape, seed(), { device, dtype });
  const factor = (...shape: number[]) => seeded(shape, seed(), { device });
  const branch = (out: number, input: number) => ({
    weight: FrozenWeight.pack(activations(out, input).mul(0.2).to({ dtype })),
    up: factor(out, 4),
    down: factor(4, input),
    scale: 0.1,
  });
  // Two tables below one another, of a part of a head.
  const table = { cos: factor(2 * places, headDim / 4), sin: factor(2 * places, headDim / 4) };
  const norm = activations(hidden);
  const stack = Array.from({ length: layers }, () => ({
    qkv: [branch(3 * hidden, hidden)],
    out: branch(hidden, hidden),
    gate: [branch(inner, hidden), branch(inner, hidden)],
    down: branch(hidden, inner),
    k: rawFilled(poolShape(rows, heads, headDim), 0, dtype, device),
    v: rawFilled(poolShape(rows, heads, headDim), 0, dtype, device),
  }));
  const tokens = FrozenWeight.pack(activations(vocab, hidden));
  const learned = FrozenWeight.pack(activations(places, hidden));
  const head = branch(vocab, hidden);
  const ids = tensor(new Int32Array(rows), { shape: [rows, 1], device });
  const pages = tensor(
    Int32Array.from({ length: rows }, (_, i) => i),
    { shape: [rows, 1], device },
  );
  const lengths = tensor(new Int32Array(rows).fill(1), { shape: [rows], device });
  const starts = tensor(Int32Array.of(0, places, 0), { shape: [rows], device });
  const draws = rowsOf(
    [0.8, 0, 1.2].map((temperature, row) => ({
      temperature,
      topK: 10,
      topP: 0.9,
      minP: 0.01,
      seed: 5,
      step: row,
    })),
    device,
  );
  const layer = (x: Tensor, { qkv, out, gate, down, k, v }: (typeof stack)[number]): Tensor => {
    const normed = rmsNorm(x, norm, 1e-5);
    const fused = loraLinearGroup(normed, qkv)[0]!;
    const split = splitColumns(fused, [hidden, hidden, hidden]).map((t) =>
      t.reshape([rows, 1, heads, headDim]),
    );
    const q = pageAppend(split[0]!, split[1]!, split[2]!, table, { k, v }, pages, lengths, starts);
    const options = { scale: 0.3, phase: 'decode' } as const;
    const y = attentionPaged(q, k, v, pages, lengths, options).reshape([rows, 1, hidden]);
    const [middle, normed2] = addRmsNorm(x, loraLinearGroup(y, [out])[0]!, norm, 1e-5);
    const [g, u] = loraLinearGroup(normed2, gate) as [Tensor, Tensor];
    return middle.add(loraLinearGroup(gated(g, u, 'silu'), [down])[0]!);
  };
  const step = (): Tensor[] => {
    let x = tidy(() => embedding(tokens, ids).add(embedding(learned, positions(lengths, 1))));
    for (const one of stack) {
      const next = tidy(() => layer(x, one));
      x.dispose();
      x = next;
    }
    const logits = loraLinearGroup(x.reshape([rows, hidden]), [head])[0]!;
    const next = sample(logits, ...draws);
    return [logits, next];
  };
  const fill = (values: readonly number[], at: readonly number[]): void => {
    writeBytes(ids, new Uint8Array(Int32Array.from(values).buffer));
    writeBytes(starts, new Uint8Array(Int32Array.from(at, (position) => (position % 2) * places).buffer));
    writeBytes(lengths, new Uint8Array(Int32Array.from(at, (position) => position + 1).buffer));
  };
  return { step, fill };
}

/** The tests of one device; `declare` is `test` or skips. */
export function programCases(
  device: Device,
  declare: (title: string, body: () => Promise<void>) => void,
  dtypes: readonly DType[] = ['f32', 'bf16'],
): void {
  const on = { device };

  declare(`a program on ${device} gives the bits of enqueued ops, from changing inputs`, async () => {
    for (const dtype of dtypes) {
      const { step, fill } = decoder(device, dtype, 2);
      const program = recordProgram(device, step);
      const seen = new Set<string>();
      for (let i = 0; i < 3; i++) {
        fill([i, 7 * i, 49 - i], [i, 0, 3]);
        program.run();
        const recorded = bits(...program.outputs);
        expect(recorded).toBe(bits(...temporaries(() => step().map(alias))));
        seen.add(recorded);
      }
      expect(seen.size).toBe(3);
      program.dispose();
    }
    return Promise.resolve();
  });

  declare(`a failure on ${device} stays with what depends on it, and with its run`, async () => {
    const table = FrozenWeight.pack(tensor([[1], [2], [3]], on));
    const [ids, x] = [tensor(new Int32Array(2), on), tensor([1, 2], on)];
    const program = recordProgram(device, () => {
      const found = embedding(table, ids).reshape([2]);
      return [found.mul(x).square(), x.mul(x).square()];
    });
    const [dependent, other] = program.outputs as [Tensor, Tensor];
    const run = (...values: number[]): void => {
      writeBytes(ids, new Uint8Array(Int32Array.from(values).buffer));
      program.run();
    };
    run(2, 3); // there is no id 3
    const failure = await expectReject(dependent.data(), 'ERR_DATA', /^\[embedding\] .* 3/);
    expect(failure.stack).toContain('program_cases'); // where run() was called
    expect(await list(other)).toEqual([1, 16]);
    run(2, 1);
    expect(await list(dependent)).toEqual([9, 16]);
    binding().injectFailure('binary', '[mul] injected');
    run(2, 1);
    run(0, 0);
    expect(await list(dependent)).toEqual([1, 4]);
    binding().injectFailure('binary', '[mul] injected');
    run(2, 1);
    await expectReject(dependent.data(), 'ERR_ARGUMENT', /injected/);
    expect(await list(other)).toEqual([1, 16]);
    program.dispose();
  });

  declare(`a program on ${device} may be disposed while its runs are queued`, async () => {
    const x = seeded([64], 1, on);
    const weight = FrozenWeight.pack(seeded([64, 64], 2, on));
    const program = recordProgram(device, () => {
      let y = x;
      for (let i = 0; i < 8; i++) y = loraLinearGroup(y.reshape([1, 64]), [{ weight }])[0]!.mul(0.1);
      return [y];
    });
    program.run();
    const want = bits(program.outputs[0]!);
    let last: Promise<Uint8Array> | undefined;
    for (let i = 0; i < 50; i++) {
      program.run();
      last = program.outputs[0]!.bytes();
    }
    program.dispose();
    program.dispose();
    weight.dispose();
    x.dispose();
    // Takes the memory at once.
    const others = Array.from({ length: 20 }, (_, i) => rawFilled([64, 64], i, 'f32', device));
    expect(Buffer.from(await last!).toString('hex')).toBe(want);
    expectThrow(() => program.run(), 'ERR_DISPOSED', '[program] program was disposed');
    for (const [i, other] of others.entries()) expect((await other.data())[77]).toBe(i);
  });

  declare(`what is no op cannot be recorded on ${device}`, async () => {
    const [x, matrix] = [tensor([1, 2], on), seeded([2, 2], 1, on)];
    const record = (fn: () => unknown) => () => recordProgram(device, fn as () => Tensor[]);
    const refused = (what: string) =>
      `[${what}] cannot be part of a program, which is being recorded on ${device}: make inputs before the recording, and read outputs after a run`;
    const unsupported = (what: string, fn: () => unknown): void => {
      expectThrow(record(fn), 'ERR_UNSUPPORTED', refused(what));
    };
    unsupported('tensor', () => tensor([1], on));
    unsupported('read', () => x.dataSync());
    unsupported('write', () => writeBytes(x, new Uint8Array(8)));
    unsupported('pack', () => FrozenWeight.pack(matrix));
    const elsewhere = device === 'cpu' ? 'reference' : 'cpu';
    unsupported('to', () => x.to({ device: elsewhere }));
    const away = tensor([1], { device: elsewhere });
    unsupported('to', () => away.to(on));
    const inner = recordProgram(device, () => [x.mul(2)]);
    unsupported('program', () => inner.run());
    let read: Promise<unknown> | undefined;
    recordProgram(device, () => ((read = x.data()), [x.mul(2)])).dispose();
    await expectReject(read!, 'ERR_UNSUPPORTED', refused('read'));
    expectThrow(
      record(() => [recordProgram(device, () => [])]),
      'ERR_ARGUMENT',
      `[program] expected one program at a time on ${device} but another is being recorded`,
    );
    expectThrow(
      record(() => x),
      'ERR_ARGUMENT',
      /^\[record\] expected the function to return a list of tensors/,
    );
    expectThrow(
      record(() => Promise.resolve([x])),
      'ERR_ARGUMENT',
      /list of tensors but received an instance of Promise/,
    );
    expectThrow(
      record(() => [away]),
      'ERR_ARGUMENT',
      /expected output 0 on/,
    );
    // Nothing of that is left: ops are enqueued again.
    expect(await list(x.mul(2))).toEqual([2, 4]);
    inner.run();
    expect(await list(inner.outputs[0]!)).toEqual([2, 4]);
    inner.dispose();
  });

  declare(`an error inside a recording on ${device} ends it`, async () => {
    const x = tensor([1, 2], on);
    let leaked: Tensor | undefined;
    expect(() =>
      recordProgram(device, () => {
        leaked = alias(x.mul(2));
        throw new RangeError('mine');
      }),
    ).toThrow(RangeError);
    await expectReject(
      leaked!.data(),
      'ERR_ARGUMENT',
      '[program] the recording that made this tensor was abandoned',
    );
    leaked!.dispose();
    const program = recordProgram(device, () => [x.mul(2)]);
    await expectReject(
      program.outputs[0]!.data(),
      'ERR_ARGUMENT',
      '[program] this tensor has no value before the program has run',
    );
    program.dispose();
  });

  declare(`a program on ${device} follows the number of threads`, async () => {
    const x = rawCast(seeded([7, 256], 1, on), 'bf16');
    const weight = FrozenWeight.pack(rawCast(seeded([300, 256], 2, on), 'bf16'));
    const fn = () => [loraLinearGroup(x, [{ weight }])[0]!, x.sum({ dim: 1 })];
    const program = recordProgram(device, fn);
    try {
      for (const threads of [1, 3, 2]) {
        setThreads(threads);
        program.run();
        expect(bits(...program.outputs)).toBe(bits(...fn()));
      }
    } finally {
      setThreads(binding().cpuInfo().threads);
    }
    program.dispose();
    return Promise.resolve();
  });
}
