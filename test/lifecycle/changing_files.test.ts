/** Files that others write while they are read: the process goes on, and what it gets is right or an error. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runChild } from '../support/child';

const onPosix = process.platform === 'win32' ? test.skip : test;
let dir: string;
beforeAll(() => (dir = mkdtempSync(join(tmpdir(), 'changing-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Statements that copy `from` over `to` in another process until it is killed, or this one ends. */
const copying = `
  const copier = require('node:child_process').spawn('sh', ['-c', 'while kill -0 "$2"; do cp "$0" "$1"; done', from, to, process.pid]);
  const until = performance.now() + 1500;
`;

onPosix('cp over the weights of an adapter beside readAdapter', () => {
  const program = `
    const dir = ${JSON.stringify(dir)} + '/adapter';
    const value = (i) => i % 251;
    const bytes = Uint8Array.from({ length: 3 << 20 }, (_, i) => value(i));
    await lora.writeAdapter(dir, {
      config: { peft_type: 'LORA', r: 1 },
      tensors: new Map([['w', { dtype: 'U8', shape: [bytes.length], bytes }]]),
    });
    const to = dir + '/adapter_model.safetensors';
    const from = dir + '/copy';
    require('node:fs').copyFileSync(to, from);
    ${copying}
    const counts = {};
    let wrong = 0;
    while (performance.now() < until) {
      const outcome = await lora.readAdapter(dir).then(
        ({ tensors }) => {
          if (Buffer.compare(tensors.get('w').bytes, bytes) !== 0) wrong++;
          return 'read';
        },
        (error) => (error instanceof lora.LoRAError ? error.code : String(error)),
      );
      counts[outcome] = (counts[outcome] ?? 0) + 1;
    }
    copier.kill('SIGKILL');
    report({ outcomes: Object.keys(counts).sort(), wrong, tries: Object.values(counts).reduce((a, b) => a + b) > 20 });
  `;
  const { signal, report } = runChild(program);
  expect(signal).toBeNull();
  const { outcomes, wrong, tries } = report as { outcomes: string[]; wrong: number; tries: boolean };
  expect({ wrong, tries }).toEqual({ wrong: 0, tries: true });
  expect(outcomes.filter((outcome) => !['read', 'ERR_FILE', 'ERR_SAFETENSORS'].includes(outcome))).toEqual(
    [],
  );
});

onPosix(
  'cp over the weights of a model beside fromPretrained, and over a checkpoint beside loadCheckpoint',
  () => {
    const program = `
    const base = require('node:path').resolve('examples/base-model');
    const dir = ${JSON.stringify(dir)};
    const fs = require('node:fs');
    fs.cpSync(base, dir + '/model', { recursive: true });
    await lora.saveCheckpoint(dir, { values: new Float32Array(1 << 20), step: 1 });
    fs.copyFileSync(dir + '/checkpoint.safetensors', dir + '/copy');
    const outcomes = new Set();
    const note = (call) => call.then(() => outcomes.add('read'), (e) => outcomes.add(e instanceof lora.LoRAError ? e.code : String(e)));
    for (const [from, to, load] of [
      [base + '/model.safetensors', dir + '/model/model.safetensors', async () => (await lora.CausalLM.fromPretrained(dir + '/model')).dispose()],
      [dir + '/copy', dir + '/checkpoint.safetensors', () => lora.loadCheckpoint(dir)],
    ]) {
      ${copying}
      while (performance.now() < until) await note(load());
      copier.kill('SIGKILL');
    }
    report([...outcomes].sort());
  `;
    const { signal, report, stderr } = runChild(program);
    expect({ signal, stderr }).toEqual({ signal: null, stderr: '' });
    expect(
      (report as string[]).filter((outcome) => !['read', 'ERR_FILE', 'ERR_SAFETENSORS'].includes(outcome)),
    ).toEqual([]);
  },
);

test('a file that is closed while its tensors are written ends the write, not the process', () => {
  const program = `
    const dir = ${JSON.stringify(dir)};
    const bytes = new Uint8Array(256 << 20);
    await lora.writeSafetensors(dir + '/big', new Map([['w', { dtype: 'U8', shape: [bytes.length], bytes }]]));
    const codes = new Set();
    for (let i = 0; i < 8; i++) {
      const file = await lora.openSafetensors(dir + '/big');
      const writing = lora.writeSafetensors(dir + '/out', file.tensors).then(() => 'written', (e) => e.code);
      setTimeout(() => file.close(), i);
      codes.add(await writing);
    }
    report([...codes]);
  `;
  const codes = runChild(program).report as string[];
  // When the close comes late, the single call that writes the tensor has begun, and the memory stays until it ends.
  expect(codes.filter((code) => code !== 'written')).toEqual(['ERR_DISPOSED']);
});
