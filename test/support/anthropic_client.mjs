// What Anthropic's client says of two servers:  node test/support/anthropic_client.mjs FOLDER URL DRAWING
// FOLDER has it in node_modules. URL serves a model whose answer is known, DRAWING one that draws what it is held to.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, url, drawing] = process.argv.slice(2);
const { resolve } = createRequire(join(folder, 'package.json'));
const { Anthropic } = await import(pathToFileURL(resolve('@anthropic-ai/sdk')));

const clientOf = (baseURL, apiKey) => new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const { messages } = clientOf(url, 'secret');
const drawn = clientOf(drawing, 'secret').messages;
const request = { model: 'base', max_tokens: 100, messages: [{ role: 'user', content: 'Hi' }] };
const refusal = (promise) =>
  promise.then(
    () => 'none',
    (error) => [error.constructor.name, error.status, error.error?.error?.type],
  );

const whole = await messages.create(request);
const counted = await messages.countTokens({ model: 'base', messages: request.messages });
let streamed = '';
const types = [];
for await (const event of await messages.create({ ...request, stream: true })) {
  types.push(event.type);
  if (event.delta?.type === 'text_delta') streamed += event.delta.text;
}
const helper = await messages.stream(request).finalMessage();

const input_schema = {
  type: 'object',
  properties: { n: { enum: [1, 2] } },
  required: ['n'],
  additionalProperties: false,
};
const tools = [{ name: 'pick', description: 'a number', input_schema }];
const calling = { ...request, temperature: 1, max_tokens: 1000, tools, tool_choice: { type: 'any' } };
const called = await drawn.create(calling);
const streamedCall = await drawn.stream(calling).finalMessage();
const [use] = called.content;
const conversation = [
  ...request.messages,
  { role: 'assistant', content: called.content },
  { role: 'user', content: [{ type: 'tool_result', tool_use_id: use.id, content: '2' }] },
];
const further = await drawn.create({ ...request, messages: conversation, tools, max_tokens: 3 });
const refused = [
  await refusal(messages.create({ ...request, model: 'none' })),
  await refusal(messages.create({ ...request, mcp_servers: [{ type: 'url', url: 'x', name: 'x' }] })),
  await refusal(clientOf(url, 'other').messages.create(request)),
];

const told = ({ content, stop_reason, usage }) => ({ content, stop_reason, usage });
const calls = [called, streamedCall].map(({ content: [{ type, name, input }], stop_reason }) => [
  type,
  name,
  input,
  stop_reason,
]);
console.log(
  JSON.stringify({
    ...{ whole: told(whole), helper: told(helper), counted, streamed, types, calls },
    ...{ cut: further.stop_reason, refused },
  }),
);
