/** lora-native chat as a person at a terminal has it. */
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { temporaryFolder } from '../support/temporary';
import { tmuxMissing, TmuxShell } from '../support/tmux';

const cli = join(__dirname, '../../dist/cli.js');
const dir = temporaryFolder();
const skipped = tmuxMissing === undefined ? '' : ` (skipped: ${tmuxMissing})`;
const inTmux = tmuxMissing === undefined ? test : test.skip;
let shell: TmuxShell;
let models: string[] = [];
beforeAll(async () => {
  if (!existsSync(cli)) throw new Error('dist/cli.js is missing: npm run build:js');
  models = [
    await answeringModel('Hi!'),
    await answeringModel('Oh', { endless: true, config: { max_position_embeddings: 1_000_000 } }),
  ];
  await answeringAdapter(models[0]!, 'Yo.', join(dir, 'yo'));
});
afterAll(() => models.forEach((model) => rmSync(model, { recursive: true })));
beforeEach(() => {
  if (tmuxMissing === undefined) shell = new TmuxShell(dir);
});
afterEach(() => {
  if (tmuxMissing === undefined) shell.end();
});

const chat = (model: string, flags = ''): string =>
  `${process.execPath} ${cli} chat --model ${model} --device cpu --temperature 0 ${flags}`;

/** The exit code of what ran last, and the settings of the terminal, which `label` marks on the screen. */
async function settings(label: string): Promise<{ code: string; terminal: string }> {
  shell.type(`echo "${label} $? $(stty -g | cksum | cut -d" " -f1) end"`, 'Enter');
  const shown = new RegExp(`^${label} (\\d+) (\\d+) end`, 'm');
  const [, code, terminal] = shown.exec(await shell.until(shown))!;
  return { code: code!, terminal: terminal! };
}

inTmux(`a conversation with an adapter and without it, edited, and ended by Ctrl-D${skipped}`, async () => {
  await shell.until(/\$ $|\$$/);
  const { terminal } = await settings('before');
  shell.type(chat(models[0]!, '--adapter yo'), 'Enter');
  await shell.until(/^yo>$/m);
  shell.type('Hellp', 'BSpace');
  shell.type('o', 'Enter');
  await shell.until(/^yo> Hello\nYo\.\nyo>$/m);
  shell.type('/base', 'Enter');
  await shell.until(/^base>$/m);
  shell.type('', 'Up', 'Up', 'Enter'); // the history of lines
  await shell.until(/^base> Hello\nHi!\nbase>$/m);
  shell.type('', 'C-d');
  await shell.until(/^\$$/m);
  expect(await settings('after')).toEqual({ code: '0', terminal });
});

inTmux(`Ctrl-C stops an answer, the next one ends, and the terminal is as it was${skipped}`, async () => {
  await shell.until(/\$ $|\$$/);
  const { terminal } = await settings('before');
  shell.type(chat(models[1]!, '--max-new-tokens 900000'), 'Enter');
  await shell.until(/^>$/m);
  shell.type('Hello', 'Enter');
  await shell.until(/^Ohhhh/m); // while it is being written
  shell.type('', 'C-c');
  await shell.until(/h\n\(stopped\)\n>$/);
  shell.type('draft', 'C-c');
  await shell.until(/> draft\^C\n>$/);
  shell.type('', 'C-c');
  await shell.until(/\^C\n>\n\$$/);
  expect(await settings('after')).toEqual({ code: '130', terminal });
});
