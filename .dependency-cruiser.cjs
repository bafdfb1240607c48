// The layers of lib/: a folder imports from itself, from those above it in this list, and from errors.ts, handle.ts and validate.ts.
// `npm run lint` fails on an arrow against the order and on a circle, of types too; docs/internals/architecture.md says what each holds.
const order = [
  'native',
  'tensor',
  'ops',
  'formats',
  'hub',
  'options',
  'distributed',
  'optim',
  'linear',
  'text',
  'data',
  'peft',
  'layers',
  'grammar',
  'engine',
  'tasks',
  'models',
  'chat',
  'convert',
  'train',
  'serve',
  'ai-sdk',
  'langchain',
  'compare',
  'cli',
];

// The same for the folders in lib/models; the files beside them import from all.
const orderOfModels = ['config', 'families', 'files', 'quantized', 'inputs', 'core', 'running'];

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    { name: 'circle', severity: 'error', from: {}, to: { circular: true } },
    ...order.slice(0, -1).map((folder, i) => ({
      name: `above ${folder}`,
      severity: 'error',
      from: { path: `^lib/${folder}/` },
      to: { path: `^lib/(${order.slice(i + 1).join('|')})/` },
    })),
    ...orderOfModels.map((folder, i) => ({
      name: `above models/${folder}`,
      severity: 'error',
      from: { path: `^lib/models/${folder}/` },
      to: {
        path: `^lib/models/(${[...orderOfModels.slice(i + 1).map((one) => `${one}/`), '[^/]+\\.ts$'].join('|')})`,
      },
    })),
    { name: 'above all', severity: 'error', from: { path: '^lib/' }, to: { path: '^lib/index\\.ts$' } },
    {
      name: 'below all',
      severity: 'error',
      from: { path: '^lib/(errors|handle|validate)\\.ts$' },
      to: { path: '^lib/.+/' },
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: 'node_modules' },
  },
};
