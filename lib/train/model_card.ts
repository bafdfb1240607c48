/** README.md beside an adapter, with the front matter that PEFT writes, so that the folder can be uploaded as it is. */
import { createHash } from 'node:crypto';
import { version } from '../../package.json';
import { SavedFolder } from '../formats/file_group';
import { readText } from '../formats/json';
import { cardFile } from '../formats/model_files';
import { baseModelId, resultFacts, settingFacts, subjectFacts, type Fact, type RunFacts } from './facts';

const marker = /\n<!-- lora-native replaces this card while it is unchanged: ([0-9a-f]{64}) -->\n$/;
const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

/** A card with the mark by which a later save knows that nobody has changed it. */
export const signed = (text: string): string =>
  `${text}\n<!-- lora-native replaces this card while it is unchanged: ${digestOf(text)} -->\n`;

/** Whether a card is as a save of ours left it: one that somebody wrote or edited is theirs. */
export function isOurs(text: string): boolean {
  const found = marker.exec(text);
  return found !== null && found[1] === digestOf(text.slice(0, found.index));
}

/** Whether a save may put its card into a folder. What cannot be read is left alone. */
export async function mayWriteCard(dir: string): Promise<boolean> {
  const folder = await SavedFolder.find(dir);
  if (!folder?.has(cardFile)) return true;
  return isOurs(await readText(folder.file(cardFile)).catch(() => ''));
}

/** Markdown that shows a text as it is, in one line: nothing in a code span is a link, a tag or a mention. */
export function code(text: string): string {
  const line = text
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, ' ')
    .slice(0, 300)
    .trim();
  const longest = Math.max(0, ...(line.match(/`+/g) ?? []).map((run) => run.length));
  const fence = '`'.repeat(longest + 1);
  const pad = line === '' || line.startsWith('`') || line.endsWith('`') ? ' ' : '';
  return `${fence}${pad}${line}${pad}${fence}`;
}

const list = (facts: readonly Fact[]): string =>
  facts.map(([name, value]) => `- ${name}: ${code(value)}`).join('\n');

/** The card of a run as it stands. */
export function modelCard(run: RunFacts): string {
  const base = baseModelId(run.model.directory);
  const { title, library, relation, tags } = run.subject.facts;
  const shown = base ?? 'BASE_MODEL';
  const text = `---
${base === undefined ? '' : `base_model: ${base}\n`}library_name: ${library}
pipeline_tag: text-generation
tags:
${base === undefined ? '' : `- base_model:${relation}:${base}\n`}${tags.map((tag) => `- ${tag}\n`).join('')}- lora-native
- transformers
---

# ${title} of ${code(shown)}

Trained with lora-native ${version}. ${base?.includes('/') ? '' : 'Before you publish it: `base_model` above should be the id of the base model on the Hub, such as `org/name`, and a `license` belongs there too.'}

## What it was trained on

${list(subjectFacts(run))}

## Settings

${list(settingFacts(run))}

## Result

${list(resultFacts(run))}

## How to use it

${relation === 'adapter' ? adapterUse(shown) : modelUse}
${library === 'peft' ? withPeft(shown) : ''}`;
  return signed(text);
}

const adapterUse = (shown: string): string =>
  `With lora-native, where \`${shown}\` is the folder of the base model and \`ADAPTER\` this one:

\`\`\`js
import { CausalLM } from 'lora-native';

const model = await CausalLM.fromPretrained('${shown}');
await model.loadAdapter('ADAPTER');
const { text } = await model.generate('Once upon a time');
\`\`\``;

const modelUse = `It is a whole model. With lora-native, where \`MODEL\` is this folder:

\`\`\`js
import { CausalLM } from 'lora-native';

const model = await CausalLM.fromPretrained('MODEL');
const { text } = await model.generate('Once upon a time');
\`\`\`

With transformers:

\`\`\`python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("MODEL")
tokenizer = AutoTokenizer.from_pretrained("MODEL")
\`\`\``;

const withPeft = (shown: string): string => `
With PEFT:

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("${shown}")
tokenizer = AutoTokenizer.from_pretrained("${shown}")
model = PeftModel.from_pretrained(base, "ADAPTER")
\`\`\`
`;
