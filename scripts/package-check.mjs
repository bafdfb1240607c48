// Packs the tarball with a prebuilt add-on, installs it in an empty folder and uses it there: from ESM, from CommonJS,
// and from TypeScript. Installing must run no script, and the add-on must find the libhwy that travels beside it.
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const scratch = mkdtempSync(join(tmpdir(), 'lora-package-'));
const prebuilds = join(root, 'prebuilds');
const platform = join(prebuilds, `${process.platform}-${process.arch}`);
const kept = existsSync(prebuilds);
const run = (command, args, cwd) =>
  execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

try {
  const built = join(root, 'build/Release');
  mkdirSync(platform, { recursive: true });
  for (const file of readdirSync(built))
    if (file === 'lora_native.node') copyFileSync(join(built, file), join(platform, 'lora-native.napi.node'));
    else if (file.includes('.so')) copyFileSync(join(built, file), join(platform, file));

  const [{ filename, unpackedSize, files }] = JSON.parse(
    run('npm', ['pack', '--json', '--pack-destination', scratch], root),
  );
  console.log(
    `${filename}: ${(statSync(join(scratch, filename)).size / 1e6).toFixed(2)} MB, ${(unpackedSize / 1e6).toFixed(2)} MB unpacked, ${files.length} files`,
  );
  const stray = files.filter(({ path }) => /\.test\.|node_modules|^test\/|native\/test\//.test(path));
  if (stray.length) throw new Error(`the tarball holds ${stray.map(({ path }) => path).join(', ')}`);

  const app = join(scratch, 'app');
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), '{"name":"app","private":true}');
  run('npm', ['install', '--no-audit', '--no-fund', join(scratch, filename)], app);

  const use = `
    const layer = new LoRALinear({ inFeatures: 8, outFeatures: 4, r: 2, loraAlpha: 4, seed: 0 });
    const y = layer.forward(tensor([[1, 2, 3, 4, 5, 6, 7, 8]]));
    if (y.shape.join() !== '1,4' || !y.dataSync().every(Number.isFinite)) throw new Error('wrong output');`;
  writeFileSync(
    join(app, 'a.mjs'),
    `import { LoRALinear, tensor } from 'lora-native';${use} console.log('ESM ok');`,
  );
  writeFileSync(
    join(app, 'b.cjs'),
    `const { LoRALinear, tensor } = require('lora-native');${use} console.log('CommonJS ok');`,
  );
  writeFileSync(
    join(app, 'c.cjs'),
    `import('lora-native').then((esm) => { if (esm.Tensor !== require('lora-native').Tensor) throw new Error('two sets of classes'); console.log('one set of classes'); });`,
  );
  for (const file of ['a.mjs', 'b.cjs', 'c.cjs']) process.stdout.write(run(process.execPath, [file], app));
  process.stdout.write(run(process.execPath, ['node_modules/.bin/lora-native', 'doctor'], app));

  // Types, for importers of both kinds.
  const program = `import { LoRALinear, Tensor } from 'lora-native';\nconst layer = new LoRALinear({ inFeatures: 2, outFeatures: 2, r: 1 });\nconst up: Tensor = layer.up;\nvoid up;\n`;
  writeFileSync(join(app, 'd.mts'), program);
  writeFileSync(join(app, 'e.cts'), program);
  run(
    process.execPath,
    [
      join(root, 'node_modules/typescript/bin/tsc'),
      '--noEmit',
      '--strict',
      '--module',
      'nodenext',
      '--target',
      'es2022',
      '--lib',
      'es2023,esnext.disposable,dom',
      '--types',
      'node',
      '--typeRoots',
      join(root, 'node_modules/@types'),
      'd.mts',
      'e.cts',
    ],
    app,
  );
  console.log('types ok for import and require');

  const [addon] = [
    join(
      app,
      'node_modules/lora-native/prebuilds',
      `${process.platform}-${process.arch}`,
      'lora-native.napi.node',
    ),
  ];
  if (process.platform === 'linux') {
    const line =
      run('ldd', [addon], app)
        .split('\n')
        .find((text) => text.includes('libhwy')) ?? '';
    if (!line.includes(dirname(addon)))
      throw new Error(`the add-on must find libhwy beside itself, but ldd says: ${line.trim()}`);
    console.log('libhwy is found beside the add-on');
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
  if (!kept) rmSync(prebuilds, { recursive: true, force: true });
}
