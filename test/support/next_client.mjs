// Calls the route of examples/next.mjs as Next.js does, and says as JSON what came of it:
//   MODEL_DIR=… ADAPTERS=… node test/support/next_client.mjs ROUTE
import { pathToFileURL } from 'node:url';

const { POST } = await import(pathToFileURL(process.argv[2]));

/** What DefaultChatTransport of useChat() sends. */
const asked = (body, init = {}) =>
  new Request('http://localhost/api/chat', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      id: 'chat',
      trigger: 'submit-message',
      messages: [{ id: 'one', role: 'user', parts: [{ type: 'text', text: 'Hi' }] }],
      ...body,
    }),
    ...init,
  });
const eventsOf = (text) => [...text.matchAll(/^data: (\{.*\})$/gm)].map(([, json]) => JSON.parse(json));
const answered = async (body) => {
  const response = await POST(asked(body));
  const events = eventsOf(await response.text());
  const text = events.filter(({ type }) => type === 'text-delta').map(({ delta }) => delta);
  return {
    status: response.status,
    type: response.headers.get('content-type'),
    text: text.join(''),
    last: events.at(-1),
  };
};

const adapter = await answered({ model: 'yo' });
const again = await Promise.all([answered({}), answered({ model: 'yo' })]);
const refused = await POST(asked({ model: 'nobody' }));
const model = await globalThis.loraNativeModel;

/** Leaves an answer that goes on, and says how it ended. */
async function left() {
  const gone = new AbortController();
  const before = model.engineStats().tokens;
  const response = await POST(asked({ maxOutputTokens: 500_000 }, { signal: gone.signal }));
  const reader = response.body.getReader();
  let text = '';
  while (!text.includes('text-delta')) text += new TextDecoder().decode((await reader.read()).value);
  gone.abort();
  while (model.engineStats().running > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  return model.engineStats().tokens - before;
}
const aborted = await left();
console.log(JSON.stringify({ adapter, again, refused: [refused.status, await refused.json()], aborted }));
await model.dispose();
