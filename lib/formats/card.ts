/** Parts of model cards, README.md beside an adapter or a model, with the front matter that PEFT writes: the folder can be uploaded as it is. */
import { createHash } from 'node:crypto';
import { SavedFolder } from './file_group';
import { readText } from './json';
import { cardFile } from './model_files';

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

/** What the parts of a card are about. */
export interface CardSubject {
  /** The id of the base on the hub, or what may be shown in its place; undefined where neither is known. */
  readonly base: string | undefined;
  /** The library that opens the files. */
  readonly library: string;
  readonly relation: 'adapter' | 'finetune';
  readonly tags: readonly string[];
  /** The labels of a head of classes. */
  readonly labels?: readonly string[] | undefined;
}

/** What the hub reads. */
export const frontMatter = ({ base, library, relation, tags, labels }: CardSubject): string => `---
${base === undefined ? '' : `base_model: ${base}\n`}library_name: ${library}
pipeline_tag: ${labels ? 'text-classification' : 'text-generation'}
tags:
${base === undefined ? '' : `- base_model:${relation}:${base}\n`}${tags.map((tag) => `- ${tag}\n`).join('')}- lora-native
- transformers
---
`;

/** What a person has to add before others see the card. */
export const cardAdvice = ({ base }: CardSubject): string =>
  base?.includes('/')
    ? ''
    : 'Before you publish it: `base_model` above should be the id of the base model on the Hub, such as `org/name`, and a `license` belongs there too.';

/** How the files are used. */
export function usage({ base, library, relation, labels }: CardSubject): string {
  const shown = base ?? 'BASE_MODEL';
  const use = labels
    ? classifierUse(shown, relation, labels)
    : relation === 'adapter'
      ? adapterUse(shown)
      : modelUse;
  return `${use}
${library === 'peft' && !labels ? withPeft(shown) : ''}`;
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

/** The labels are in the metadata of the weights of an adapter, and in config.json of a model. */
function classifierUse(shown: string, relation: string, labels: readonly string[]): string {
  const names = JSON.stringify(labels);
  const isAdapter = relation === 'adapter';
  const open = isAdapter
    ? `const head = { type: 'classify', labels: ${names} };
const model = await CausalLM.fromPretrained('${shown}', { head });
await model.loadAdapter('ADAPTER');`
    : `const model = await CausalLM.fromPretrained('MODEL');`;
  return `It ends in a head of classes. With lora-native${isAdapter ? `, where \`${shown}\` is the folder of the base model and \`ADAPTER\` this one` : ''}:

\`\`\`js
import { CausalLM } from 'lora-native';

${open}
const [{ label, scores }] = await model.classify(['A text']);
\`\`\`

With transformers${isAdapter ? ' and PEFT' : ''}, \`AutoModelForSequenceClassification\`${isAdapter ? ` with \`num_labels=${labels.length}\`` : ''} opens it.`;
}

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
