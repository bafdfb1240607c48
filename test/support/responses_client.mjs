// What the openai client says of /v1/responses:  node test/support/responses_client.mjs FOLDER URL DRAWING
// FOLDER has it in node_modules. URL serves a model whose answer is known, DRAWING one that draws what it is held to.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, url, drawing] = process.argv.slice(2);
const { resolve } = createRequire(join(folder, 'package.json'));
const { OpenAI } = await import(pathToFileURL(resolve('openai')));

const clientOf = (base) => new OpenAI({ baseURL: `${base}/v1`, apiKey: 'secret', maxRetries: 0 });
const { responses } = clientOf(url);
const drawn = clientOf(drawing).responses;
const request = { model: 'base', input: 'Hi' };

const { output_text: text, status, usage } = await responses.create(request);
let streamed = '';
const types = [];
for await (const event of await responses.create({ ...request, stream: true })) {
  types.push(event.type);
  if (event.type === 'response.output_text.delta') streamed += event.delta;
}
const helper = (await responses.stream(request).finalResponse()).output_text;

const schema = {
  type: 'object',
  properties: { n: { enum: [1, 2] } },
  required: ['n'],
  additionalProperties: false,
};
const draws = { ...request, temperature: 1, max_output_tokens: 1000 };
const format = { type: 'json_schema', name: 'n', schema, strict: true };
const object = (await drawn.parse({ ...draws, text: { format } })).output_parsed;
const tools = [{ type: 'function', name: 'pick', parameters: schema, strict: true }];
const calling = { ...draws, tools, tool_choice: 'required' };
const { output } = await drawn.create(calling);
const called = await drawn.stream(calling).finalResponse();
const input = [
  { role: 'user', content: 'Hi' },
  ...output,
  { type: 'function_call_output', call_id: output[0].call_id, output: '2' },
];
const further = await drawn.create({ ...draws, input, tools, max_output_tokens: 3 });
const refused = await responses.create({ ...request, previous_response_id: 'resp_1' }).then(
  () => 'none',
  (error) => [error.constructor.name, error.status, error.code, error.param],
);

const calls = [output, called.output].map(([{ type, name, arguments: given }]) => [type, name, given]);
const cut = [further.status, further.incomplete_details?.reason];
console.log(JSON.stringify({ text, status, usage, streamed, types, helper, object, calls, cut, refused }));
