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

onLinux('closing empties the views, and unmaps the file once nothing holds them', () => {
  const program = `
    const { file } = native.openFile(path);
    let views = [native.fileView(file, 0, 5), native.fileView(file, 0, 11), native.fileView(file, 11, 0)];
    console.log(text(views[0]), text(views[1]), text(native.fileBytes(file, 4, 3)), mappings());
    native.closeFile(file);
    native.closeFile(file);
    console.log(views.map((v) => v.byteLength).join());
    await collect();
    console.log(mappings());
    views = undefined;
    await collect();
    console.log(mappings());
  `;
  expect(run(program)).toBe('hello hello world o w 1\n0,0,0\n1\n0');
});

onLinux('a file without views is unmapped when it is closed', () => {
  const program = `
    const { file } = native.openFile(path);
    native.fileBytes(file, 0, 5);
    console.log(mappings());
    native.closeFile(file);
    console.log(mappings());
  `;
  expect(run(program)).toBe('1\n0');
});

test('what reads a view on another thread goes on when the file is closed', () => {
  const program = `
    const { gzip, gunzipSync } = require('node:zlib');
    const content = require('node:crypto').randomBytes(2 ** 24);
    require('node:fs').writeFileSync(path, content);
    const { file, bytes } = native.openFile(path);
    const view = new Uint8Array(native.fileView(file, 0, bytes));
    // One call of zlib on its thread: between two, Node.js itself looks at the length of its input.
    const zipped = new Promise((done, fail) =>
      gzip(view, { chunkSize: 2 ** 25 }, (error, result) => (error ? fail(error) : done(result))));
    await rest();
    native.closeFile(file);
    console.log(view.length, gunzipSync(await zipped).equals(content));
  `;
  expect(run(program)).toBe('0 true');
});

onLinux('memory that was moved to another ArrayBuffer stays mapped for as long as that is there', () => {
  const program = `
    const moved = {};
    await (async () => {
      const { file } = native.openFile(path);
      const view = native.fileView(file, 6, 5);
      const stream = new ReadableStream({ type: 'bytes', start: (c) => c.enqueue(new Uint8Array(view)) });
      ({ value: moved.bytes } = await stream.getReader().read());
      console.log(view.byteLength);
      native.closeFile(file);
    })();
    await collect();
    console.log(text(moved.bytes), mappings());
    delete moved.bytes;
    await collect();
    console.log(mappings());
  `;
  expect(run(program)).toBe('0\nworld 1\n0');
});

onLinux('opening and closing in a loop that only awaits stays bounded', () => {
  const program = `
    let most = 0;
    for (let i = 0; i < 70_000; i++) {
      const { file } = native.openFile(path);
      native.fileView(file, 0, 5);
      native.closeFile(file);
      await null;
      if (i % 1000 === 0) most = Math.max(most, mappings());
    }
    console.log(most < 8192 || most);
  `;
  expect(run(program)).toBe('true');
});

test('too many open files are an error while the process still has mappings', () => {
  const program = `
    const files = [];
    try { for (;;) files.push(native.openFile(path)); } catch (e) { console.log(files.length, e.code, e.message); }
    native.closeFile(files[0].file);
    console.log(native.openFile(path).bytes);
  `;
  expect(run(program)).toBe(
    `32768 ERR_OUT_OF_MEMORY cannot open ${join(dir, 'mapped.bin')}: 32768 files are open already\n11`,
  );
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
