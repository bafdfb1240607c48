// Conversations as data: the chat template writes them, and only the answers count.
//
//   node examples/chat.mjs [MODEL_DIR] [STEPS]
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CausalLM, loadDataset, Trainer } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '60'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const { tokenizer } = model;

// The bundled model has no chat template; a chat model brings its own, and chatTemplate is left out then.
const chatTemplate = tokenizer.hasChatTemplate
  ? undefined
  : `{% for message in messages %}{{ '<|' + message.role + '|>' }}{% if message.role == 'assistant' %}{% generation %}{{ message.content + '\\n' }}{% endgeneration %}{% else %}{{ message.content + '\\n' }}{% endif %}{% endfor %}`;

// A file as programs for chats write it: one conversation on each line.
const scratch = mkdtempSync(join(tmpdir(), 'chat-'));
const file = join(scratch, 'chat.jsonl');
const lines = readFileSync(new URL('data/train.jsonl', import.meta.url), 'utf8')
  .trim()
  .split('\n')
  .slice(0, 100);
const conversations = lines.map((line) => {
  const [question, answer] = JSON.parse(line).text.split(' -> ');
  return {
    messages: [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ],
  };
});
writeFileSync(file, conversations.map((row) => JSON.stringify(row)).join('\n'));

const data = await loadDataset(file, { tokenizer, maxLength: 256, chatTemplate });
console.log(`${data.length} conversations, ${data.tokens} tokens count`);
const [{ inputIds, labels }] = data;
const said = (counts) => tokenizer.decode(inputIds.filter((_, i) => (labels[i] !== -100) === counts)).trim();
console.log(`${said(false)} [[${said(true)}]]`);

model.addAdapter({ r: 8, loraAlpha: 16 });
const before = await model.evaluate(data);
await new Trainer({ model, data, maxSteps: Number(steps), lr: 5e-3 }).run();
const after = await model.evaluate(data);
console.log(`loss of the answers: ${before.loss.toFixed(3)} before, ${after.loss.toFixed(3)} after`);
await model.dispose();
rmSync(scratch, { recursive: true });
