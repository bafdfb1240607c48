import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { temporaryFolder } from '../support/temporary';

const root = resolve(__dirname, '../..');
const dir = temporaryFolder();

/** Runs a program in a process of its own with `native`, `path` (a file of "hello world") and helpers; its output. */
function run(program: string): string {
  const path = join(dir, 'mapped.bin');
  writeFileSync(path, 'hello world');
  const prelude = `
    const native = require('node-gyp-build')(${JSON.stringify(root)});
    const path = ${JSON.stringify(path)};
    const text = (buffer) => Buffer.from(buffer).toString();
    const mappings = () => require('node:fs').readFileSync('/proc/self/maps', 'utf8').split(path).length - 1;
    const rest = () => new Promise((done) => setTimeout(done, 20));
    const collect = async () => { for (let i = 0; i < 3; i++) { gc(); await rest(); } };
  `;
  const child = spawnSync(process.execPath, ['--expose-gc', '-e', `${prelude}(async () => {${program}})()`], {
    cwd: root,
    encoding: 'utf8',
  });
  expect(child.stderr).toBe('');
  expect([child.status, child.signal]).toEqual([0, null]);
  return child.stdout.trim();
}
const onLinux = process.platform === 'linux' ? test : test.skip;

onLinux('closing unmaps the file and empties its views', () => {
  const program = `
    const { file } = native.openFile(path);
    const views = [native.fileView(file, 0, 5), native.fileView(file, 0, 11), native.fileView(file, 11, 0)];
    console.log(text(views[0]), text(views[1]), mappings());
    native.closeFile(file);
    native.closeFile(file);
    await rest();
    console.log(views.map((v) => v.byteLength).join(), mappings());
  `;
  expect(run(program)).toBe('hello hello world 1\n0,0,0 0');
});

onLinux('a view outlives a file that was collected, and then unmaps it', () => {
  const program = `
    let view = (() => native.fileView(native.openFile(path).file, 6, 5))();
    await collect();
    console.log(text(view), mappings());
    view = undefined;
    await collect();
    console.log(mappings());
  `;
  expect(run(program)).toBe('world 1\n0');
});

onLinux('files that nobody closes do not pile up', () => {
  const program = `
    for (let i = 0; i < 1000; i++) native.fileView(native.openFile(path).file, i % 11, 1);
    await collect();
    console.log(mappings());
  `;
  expect(run(program)).toBe('0');
});

test('a worker ends with files open', () => {
  const program = `
    const { Worker } = require('node:worker_threads');
    const body = \`
      const native = require('node-gyp-build')(\${JSON.stringify(${JSON.stringify(root)})});
      globalThis.views = Array.from({ length: 20 }, () => native.fileView(native.openFile(\${JSON.stringify(path)}).file, 0, 5));
      require('node:worker_threads').parentPort.postMessage(Buffer.from(views[19]).toString());
    \`;
    const { file } = native.openFile(path);
    const view = native.fileView(file, 0, 11);
    const answers = await Promise.all([1, 2].map(() => new Promise((done, fail) => {
      const worker = new Worker(body, { eval: true });
      let answer;
      worker.on('message', (message) => { answer = message; }).on('error', fail).on('exit', () => done(answer));
    })));
    console.log(answers.join(), text(view));
  `;
  expect(run(program)).toBe('hello,hello hello world');
});

test('a bad range and a closed file are errors', () => {
  const program = `
    const { file, bytes } = native.openFile(path);
    const attempt = (...range) => { try { native.fileView(file, ...range); } catch (e) { console.log(e.code, e.message); } };
    attempt(3, 9); attempt(-1, 1); attempt(0.5, 1); attempt(NaN, 1); attempt(12, 0);
    native.closeFile(file);
    attempt(0, 1);
  `;
  expect(run(program)).toBe(
    [
      'ERR_ARGUMENT [fileView] expected length to be an integer from 0 to 8 but received 9',
      'ERR_ARGUMENT [fileView] expected offset to be an integer from 0 to 11 but received -1',
      'ERR_ARGUMENT [fileView] expected offset to be an integer from 0 to 11 but received 0.5',
      'ERR_ARGUMENT [fileView] expected offset to be a number but received NaN',
      'ERR_ARGUMENT [fileView] expected offset to be an integer from 0 to 11 but received 12',
      'ERR_DISPOSED [fileView] the file is closed',
    ].join('\n'),
  );
});
