// What LangChain's ChatOpenAI says of two servers, as openai_client.mjs has them:  node test/support/langchain_client.mjs FOLDER URL DRAWING
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, url, drawing] = process.argv.slice(2);
const { resolve } = createRequire(join(folder, 'package.json'));
const { ChatOpenAI, OpenAIEmbeddings } = await import(pathToFileURL(resolve('@langchain/openai')));

const chatOf = (base, more) =>
  new ChatOpenAI({
    ...{ model: 'base', apiKey: 'secret', maxRetries: 0, configuration: { baseURL: `${base}/v1` } },
    ...more,
  });
const chat = chatOf(url);
const { content, usage_metadata: usage } = await chat.invoke('Hi');
let streamed = '';
for await (const piece of await chat.stream('Hi')) streamed += piece.content;
const refused = await chatOf(url, { model: 'none' })
  .invoke('Hi')
  .catch(({ status, code }) => [status, code]);

const configuration = { baseURL: `${url}/v1` };
const embeddings = new OpenAIEmbeddings({ model: 'base', apiKey: 'secret', maxRetries: 0, configuration });
const documents = await embeddings.embedDocuments(['Hi', 'Hello']);
const query = await embeddings.embedQuery('Hi');
const embedded = [documents.length, query.every((x, i) => Math.abs(x - documents[0][i]) < 1e-5)];

const schema = {
  title: 'n',
  type: 'object',
  properties: { n: { enum: [1, 2] } },
  required: ['n'],
  additionalProperties: false,
};
const drawn = chatOf(drawing, { temperature: 1, maxTokens: 1000 });
const object = await drawn.withStructuredOutput(schema, { method: 'jsonSchema' }).invoke('Hi');
const tool = { type: 'function', function: { name: 'pick', parameters: schema } };
const { tool_calls: calls } = await drawn.bindTools([tool], { tool_choice: 'required' }).invoke('Hi');
console.log(
  JSON.stringify({
    content,
    usage,
    streamed,
    refused,
    embedded,
    object,
    calls: calls.map(({ name, args }) => [name, args]),
  }),
);
