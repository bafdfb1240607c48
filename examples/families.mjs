// What is a model? Prints its family, what its layers attend to, what adapters change, and the memory to train and to serve it.
//
//   node examples/families.mjs [MODEL]      a folder, a GGUF file, or a name of the hub
import { CausalLM, estimateMemory } from 'lora-native';

const [name = new URL('base-model', import.meta.url)] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(name);
const { modelType, textOf, layers, maxPositionEmbeddings: context } = model.config;
console.log(`family: ${modelType}${textOf ? ` (the text model of a ${textOf})` : ''}, ${context} positions`);

function attends({ kvHeads, headDim, window, rope, keysOf }) {
  const sees = window > 0 ? `a window of ${window} tokens` : 'all tokens';
  const turns = rope.scaling.type === 'none' ? 'no rotation' : `rope ${rope.scaling.type}`;
  const keys = keysOf === undefined ? '' : `, those of layer ${keysOf}`;
  return `${sees}, ${kvHeads} key heads of ${headDim}${keys}, ${turns}`;
}

/** A layer that keeps as much of a long text as of a short one. */
function keeps({ states }) {
  const sizes = Object.entries(states).map(([name, shape]) => `${name} [${shape.join(', ')}]`);
  return `no attention, but ${sizes.join(' and ')} for each text`;
}

/** Layers of one kind, and how many of them there are. */
const kinds = new Map();
for (const layer of layers) {
  const kind = layer.kind === 'attention' ? attends(layer) : keeps(layer);
  kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
}
for (const [kind, count] of kinds) console.log(`${count} layers: ${kind}`);

const adapter = model.addAdapter(); // of all linear layers of the blocks
const names = new Set(adapter.targets.map((path) => path.split('.').at(-1)));
console.log(`adapters: ${[...names].join(', ')}`);

const memory = (options) => `${(estimateMemory(model.config, options).total / 1e9).toFixed(2)} GB`;
console.log(`training: ${memory({ length: 512 })} for a sequence of 512 tokens`);
console.log(`serving: ${memory({ length: 512, streams: 8 })} for eight of them`);
await model.dispose();
