// LangChain on a model of this process: a stream, a chain, and an object under a schema. No server, no HTTP.
//   npm install @langchain/core @mlc-ai/web-xgrammar
//   node examples/langchain.mjs MODEL_DIR [ADAPTER_DIR]
import { StringOutputParser } from '@langchain/core/output_parsers';
import { ChatPromptTemplate } from '@langchain/core/prompts';
import { CausalLM } from 'lora-native';
import { ChatLoraNative } from 'lora-native/langchain';

const [dir, adapter] = process.argv.slice(2);
if (!dir) throw new Error('usage: node examples/langchain.mjs MODEL_DIR [ADAPTER_DIR]');
const model = await CausalLM.fromPretrained(dir);
if (adapter) await model.loadAdapter(adapter, { name: 'mine' });
const chat = new ChatLoraNative({ model, adapter: adapter && 'mine', temperature: 0, maxNewTokens: 200 });

let text = '';
for await (const { content } of await chat.stream('Hello')) text += content;
console.log(`text: ${JSON.stringify(text)}`);

const chain = ChatPromptTemplate.fromMessages([['human', '{word}']])
  .pipe(chat)
  .pipe(new StringOutputParser());
console.log(`chain: ${JSON.stringify(await chain.invoke({ word: 'Hello' }))}`);

const schema = {
  type: 'object',
  properties: { count: { type: 'integer', minimum: 1, maximum: 9 } },
  required: ['count'],
  additionalProperties: false,
};
const base = new ChatLoraNative({ model, temperature: 1, seed: 1, maxNewTokens: 200 });
console.log(`object: ${JSON.stringify(await base.withStructuredOutput(schema).invoke('Hello'))}`);
await model.dispose();
