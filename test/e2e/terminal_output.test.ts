/** What the commands print of names and texts that a stranger chose. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../../lib/index';
import { commandLine, jsonLines } from '../support/command_line';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();

test('what a stranger wrote into a file is shown, not obeyed by the terminal', async () => {
  const name = 'evil\u001b]0;title\u0007\u001b[2J\u009b31m\u202e\nnext\rline';
  const shown = 'evil\\u001b]0;title\\u0007\\u001b[2J\\u009b31m\\u202e\\u000anext\\u000dline';
  const path = join(dir, 'x.safetensors');
  const tensors = new Map([[name, { dtype: 'U8' as const, shape: [1], bytes: Uint8Array.of(1) }]]);
  await writeSafetensors(path, tensors, { [name]: name });
  const table = await commandLine(['inspect', path]);
  expect(table.out).toContain(`  ${shown}  U8  [1]\n`);
  const lines = await commandLine(['inspect', path, '--json']);
  const [report] = jsonLines(lines);
  expect(report).toMatchObject({ tensors: [{ name }], metadata: { [name]: name } });
  writeFileSync(join(dir, 'adapter_config.json'), JSON.stringify({ peft_type: name }));
  const failed = await commandLine(['inspect', dir]);
  expect(failed.status).toBe(1);
  const missing = await commandLine(['generate', '--model', join(dir, name), '--prompt', 'x']);
  expect(missing.err).toContain(shown.slice(0, 20));
  for (const { out, err } of [table, lines, failed, missing])
    // eslint-disable-next-line no-control-regex -- these are what must not come out
    expect(`${out}${err}`).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
});
