// What the openai client says of a server:  node test/support/openai_client.mjs URL FOLDER   (FOLDER has it in node_modules)
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [url, folder] = process.argv.slice(2);
const { resolve } = createRequire(join(folder, 'package.json'));
const { OpenAI } = await import(pathToFileURL(resolve('openai')));

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'secret', maxRetries: 0 });
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
let events = 0;
for await (const event of await create({ stream: true })) if (event && ++events === 2) break; // which closes the connection
const completion = (await client.completions.create({ model: 'base', prompt: [259] })).choices[0].text;
const refused = [
  await refusal(create({ model: 'none' })),
  await refusal(create({ temperature: 9 })),
  await refusal(create({ tools: [{ type: 'function', function: { name: 'f' } }] })),
  await refusal(client.embeddings.create({ model: 'base', input: 'a' })),
  await refusal(new OpenAI({ baseURL: `${url}/v1`, apiKey: 'other', maxRetries: 0 }).models.list()),
];
console.log(JSON.stringify({ models, chat, streamed, usage, helper, events, completion, refused }));
