// What llama.cpp makes of a GGUF file, through node-llama-cpp, which lies where the first argument says:
//   node llama_cpp_program.mjs PATH_OF_NODE_LLAMA_CPP MODEL.gguf COUNT LORA.gguf|none < a JSON list of texts
// Prints { tokens: ids of each text, greedy: COUNT ids after the first text }.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [library, modelPath, count, lora] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(library).href);
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', progressLogs: false });
const model = await llama.loadModel({ modelPath });
// One thread: several wait for each other where others use the machine.
const adapter = lora === 'none' ? {} : { lora };
const context = await model.createContext({ contextSize: 256, threads: 1, ...adapter });
const texts = JSON.parse(readFileSync(0, 'utf8'));
const tokens = texts.map((text) => [...model.tokenize(text, false)]);
const bos = model.tokens.shouldPrependBosToken ? [model.tokens.bos] : [];
const greedy = [];
for await (const token of context
  .getSequence()
  .evaluate([...bos, ...tokens[0]], { temperature: 0, yieldEogToken: true })) {
  if (greedy.push(token) >= Number(count)) break;
}
process.stdout.write(JSON.stringify({ tokens, greedy }));
await llama.dispose();
