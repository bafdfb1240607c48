// What the openai client says of two servers:  node test/support/openai_client.mjs FOLDER URL DRAWING
// FOLDER has it in node_modules. URL serves a model whose answer is known, DRAWING one that draws what it is held to, without an end.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, url, drawing] = process.argv.slice(2);
const { resolve } = createRequire(join(folder, 'package.json'));
const { OpenAI } = await import(pathToFileURL(resolve('openai')));

const clientOf = (base, apiKey) => new OpenAI({ baseURL: `${base}/v1`, apiKey, maxRetries: 0 });
const client = clientOf(url, 'secret');
const request = { model: 'base', messages: [{ role: 'user', content: 'Hi' }] };
const create = (more) => client.chat.completions.create({ ...request, ...more });
const refusal = (promise) =>
  promise.then(
    () => 'none',
    (error) => [error.constructor.name, error.status, error.code],
  );

const models = (await client.models.list()).data.map(({ id }) => id);
const chat = (await create({})).choices[0];
let streamed = '';
let usage;
for await (const event of await create({ stream: true, stream_options: { include_usage: true } })) {
  streamed += event.choices[0]?.delta.content ?? '';
  usage = event.usage ?? usage;
}
const helper = await client.chat.completions.stream(request).finalContent();
const completion = (await client.completions.create({ model: 'base', prompt: [259] })).choices[0].text;
const refused = [
  await refusal(create({ model: 'none' })),
  await refusal(create({ temperature: 9 })),
  await refusal(create({ tools: [{ type: 'function', function: { name: 'f' } }] })),
  await refusal(client.embeddings.create({ model: 'base', input: 'a', dimensions: 10_000 })),
  await refusal(clientOf(url, 'other').models.list()),
];

// The client asks for base64 unless it is told what to ask for.
const embedded = await Promise.all(
  [{}, { encoding_format: 'float' }, { dimensions: 4 }].map((more) =>
    client.embeddings.create({ model: 'base', input: ['Hi', 'Hello'], ...more }),
  ),
);
const [vectors, floats, short] = embedded.map(({ data }) => data.map(({ embedding }) => embedding));
const embeddings = {
  same: vectors.flat().every((x, i) => x === floats.flat()[i]),
  lengths: [...vectors, ...short].map(({ length }) => length),
  norms: vectors.map((vector) => Math.hypot(...vector).toFixed(4)),
  usage: embedded[0].usage,
};

const draw = (more, options) => {
  const drawn = { ...request, temperature: 1, seed: 1, max_tokens: 1000, ...more };
  return clientOf(drawing, 'secret').chat.completions.create(drawn, options);
};
const schema = {
  type: 'object',
  properties: { n: { enum: [1, 2] } },
  required: ['n'],
  additionalProperties: false,
};
const format = { type: 'json_schema', json_schema: { name: 'n', schema, strict: true } };
const object = JSON.parse((await draw({ response_format: format })).choices[0].message.content);
const tools = [{ type: 'function', function: { name: 'pick', parameters: schema } }];
const [{ message }] = (await draw({ tools, tool_choice: 'required' })).choices;
const [{ function: called }] = message.tool_calls;

// Two ways to leave a text that would go on: the loop's end closes the connection, and so does the signal.
const endless = { stream: true, max_tokens: 90_000, ignore_eos: true };
let events = 0;
for await (const event of await draw(endless)) if (event && ++events === 2) break;
const stop = new AbortController();
for await (const event of await draw(endless, { signal: stop.signal })) if (event) stop.abort();
console.log(
  JSON.stringify({
    ...{ models, chat, streamed, usage, helper, completion, refused, embeddings, object, called, events },
  }),
);
