// What the Vercel AI SDK says of two servers, as openai_client.mjs has them:  node test/support/ai_sdk_client.mjs FOLDER URL DRAWING
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, url, drawing] = process.argv.slice(2);
const { resolve } = createRequire(join(folder, 'package.json'));
const load = (name) => import(pathToFileURL(resolve(name)));
const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible');
const { cosineSimilarity, embedMany, generateObject, jsonSchema, streamText } = await load('ai');

const modelOf = (base) => {
  const settings = { supportsStructuredOutputs: true, includeUsage: true };
  return createOpenAICompatible({ name: 'lora', baseURL: `${base}/v1`, apiKey: 'secret', ...settings })(
    'base',
  );
};
const result = streamText({ model: modelOf(url), prompt: 'Hi' });
let text = '';
for await (const piece of result.textStream) text += piece;
const { inputTokens, outputTokens } = await result.usage;
const finishReason = await result.finishReason;

const embedder = createOpenAICompatible({ name: 'lora', baseURL: `${url}/v1`, apiKey: 'secret' });
const { embeddings, usage: spent } = await embedMany({
  model: embedder.textEmbeddingModel('base'),
  values: ['Hi', 'Hi', 'Hello'],
});
const embedded = {
  lengths: embeddings.map(({ length }) => length),
  cosine: cosineSimilarity(embeddings[0], embeddings[1]).toFixed(4),
  tokens: spent.tokens,
};

const schema = {
  type: 'object',
  properties: { n: { enum: [1, 2] } },
  required: ['n'],
  additionalProperties: false,
};
const drawn = { prompt: 'Hi', temperature: 1, seed: 1, maxOutputTokens: 1000 };
const { object } = await generateObject({ model: modelOf(drawing), schema: jsonSchema(schema), ...drawn });
console.log(JSON.stringify({ text, inputTokens, outputTokens, finishReason, embedded, object }));
