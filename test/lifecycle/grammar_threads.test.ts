/** Threads of grammars do not hold up the process that they are in. */
import { rmSync } from 'node:fs';
import { childReport } from '../support/child';
import { tinyModel } from '../support/tiny_model';

let dir: string;
beforeAll(async () => {
  dir = await tinyModel();
});
afterAll(() => rmSync(dir, { recursive: true }));

/** Runs a program with `model`, which ends without dispose(). */
const program = (body: string): unknown =>
  childReport(`
    const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)});
    ${body}
  `);

test('a process ends after a text under a schema', () => {
  const body = `
    const { text } = await model.generate([1, 2], { jsonSchema: { type: 'null' } });
    report(text);`;
  expect(program(body)).toBe('null');
});

test('a process goes on until a schema is compiled, and the text is there', () => {
  const body = `
    model.generate([1, 2], { jsonSchema: { type: 'null' } }).then(({ text }) => report(text));`;
  expect(program(body)).toBe('null');
});

test('a schema that takes minutes to compile holds up nobody: others go on, an abort ends it, and so does the process', () => {
  const body = `
    const anyOf = Array.from({ length: 2000 }, (_, i) => ({ type: 'array', minItems: i, maxItems: 4096 - i }));
    const controller = new AbortController();
    const slow = model.generate([1, 2], { jsonSchema: { anyOf }, signal: controller.signal });
    const failed = slow.then(() => 'done', (error) => error.message);
    const { text } = await model.generate([1, 2], { jsonSchema: { type: 'null' } });
    controller.abort(new Error('enough'));
    report([text, await failed]);`;
  expect(program(body)).toEqual(['null', 'enough']);
});

const onLinux = process.platform === 'linux' ? test : test.skip;
onLinux('under a limit on addresses (ulimit -v) a schema is ERR_UNSUPPORTED, and other texts go on', () => {
  // Threads start in 4 GB, in which WebAssembly cannot reserve its memory.
  const body = `
    const size = /VmSize:\\s+(\\d+)/.exec(require('node:fs').readFileSync('/proc/self/status', 'utf8'))[1];
    const most = (Number(size) + 4 * 1024 * 1024) * 1024;
    const { status } = require('node:child_process').spawnSync('prlimit', ['--pid', process.pid, '--as=' + most]);
    const refused = await model.generate([1, 2], { jsonSchema: { type: 'null' } }).then(
      ({ text }) => text,
      ({ code, message }) => [code, message],
    );
    const { ids } = await model.generate([1, 2], { maxNewTokens: 3, ignoreEos: true });
    report([status, refused, ids.length]);`;
  expect(program(body)).toEqual([
    0,
    ['ERR_UNSUPPORTED', expect.stringMatching(/^\[generate\] web-xgrammar cannot follow the schema: /)],
    3,
  ]);
});
