// A route of Next.js with a model in its own process: useChat() of @ai-sdk/react gets its answers, each by the adapter that it asks for.
// Copy this file to app/api/chat/route.js. A route is a function from a Request to a Response, so that other programs can call it too.
//
//   npm install next react react-dom ai @ai-sdk/react lora-native         next.config.mjs: serverExternalPackages: ['lora-native']
//   MODEL_DIR=… ADAPTERS='{"sql":"runs/sql"}' npx next dev                 useChat({ transport: new DefaultChatTransport({ body: { model: 'sql' } }) })
import { convertToModelMessages, streamText } from 'ai';
import { CausalLM } from 'lora-native';
import { createLoraNative } from 'lora-native/ai-sdk';

async function load() {
  const { MODEL_DIR, ADAPTERS = '{}' } = process.env;
  const model = await CausalLM.fromPretrained(MODEL_DIR);
  for (const [name, path] of Object.entries(JSON.parse(ADAPTERS))) await model.loadAdapter(path, { name });
  return model;
}

// When a request first needs it: next build also runs this file, and next dev runs it again after every change.
const loaded = () => (globalThis.loraNativeModel ??= load());

export async function POST(request) {
  const { messages, model: name = 'base', maxOutputTokens = 256 } = await request.json();
  const model = await loaded();
  if (name !== 'base' && !model.adapters.has(name))
    return Response.json({ error: `there is no adapter ${JSON.stringify(name)}` }, { status: 404 });
  const answer = streamText({
    model: createLoraNative({ model })(name),
    messages: await convertToModelMessages(messages),
    maxOutputTokens,
    abortSignal: request.signal, // aborted when the client leaves
  });
  return answer.toUIMessageStreamResponse();
}
