/** Files of options: what YAML they may hold, where what is wrong with them stands, and what comes first. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from '../../lib/cli/args';
import { commands } from '../../lib/cli/commands';
import { readConfig } from '../../lib/cli/config_file';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();
const serve = commands['serve']!;

function write(text: string, name = 'serve.yaml'): string {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
}

/** The values of a command line beside a file. */
async function valuesOf(path: string, ...argv: string[]): Promise<Readonly<Record<string, unknown>>> {
  return parse('serve', serve, argv, await readConfig(path)).values;
}

const yaml = `# what a server may hold
model: ./model
adapter:
  - sql=runs/sql
  - support=runs/support
allowedHost: chat.example   # one is a list, too
port: 9090
defaultTemperature: 0.5
page: false
logPrompts: true
apiKeyFile: ~
`;

test.each(['serve.yaml', 'serve.YML'])('%s says what flags do not say', async (name) => {
  const path = write(yaml, name);
  const said = {
    model: './model',
    adapter: ['sql=runs/sql', 'support=runs/support'],
    allowedHost: ['chat.example'],
    port: 9090,
    defaultTemperature: 0.5,
    page: false,
    logPrompts: true,
    host: '127.0.0.1',
  };
  const values = await valuesOf(path);
  expect(values).toMatchObject(said);
  expect(values['apiKeyFile']).toBe(undefined);
  expect(await valuesOf(path, '--port', '1', '--page', '--adapter', 'yo=runs/yo')).toMatchObject({
    ...said,
    port: 1,
    page: true,
    adapter: ['yo=runs/yo'],
  });
});

test('the same options as JSON', async () => {
  const path = write(
    JSON.stringify({ model: './model', adapter: ['sql=runs/sql'], port: 9090 }),
    'serve.json',
  );
  expect(await valuesOf(path)).toMatchObject({ model: './model', adapter: ['sql=runs/sql'], port: 9090 });
});

test.each<[text: string, line: number, sentence: string]>([
  ['model: m\nadapters: [a=b]\n', 2, "unknown option 'adapters'; did you mean 'adapter'?"],
  [
    'model: m\n\n# a port\nport: "80"\n',
    4,
    "expected port to be a whole number of at least 0 and at most 65535 but received '80'",
  ],
  ['page: yes\n', 1, "expected page to be true or false but received 'yes'"],
  [
    'model: m\nadapter: [a=b, 3]\n',
    2,
    "expected adapter to be a text or a list of texts but received ['a=b', 3]",
  ],
  [
    'adapter:\n  sql: runs/sql\n',
    1,
    'expected adapter to be a text or a list of texts but received an object',
  ],
  ['model: m\nconfig: other.yaml\n', 2, "unknown option 'config'; the options are model, "],
  ['model: m\n8080: port\n', 2, "unknown option '8080'; the options are model, "],
])('%j is wrong', async (text, line, sentence) => {
  const path = write(text);
  await expect(valuesOf(path)).rejects.toMatchObject({
    code: 'ERR_ARGUMENT',
    message: expect.stringContaining(`[${path}:${line}] ${sentence}`),
  });
});

test('a key that is no text has no line', async () => {
  const path = write('model: m\n? [a, b]\n: 1\n');
  await expect(valuesOf(path)).rejects.toMatchObject({
    message: expect.stringContaining(`[${path}] unknown option '[ a, b ]'`),
  });
});

test.each(['- a\n', 'text\n', ''])('%j is no object', async (text) => {
  const path = write(text);
  await expect(valuesOf(path)).rejects.toMatchObject({
    code: 'ERR_ARGUMENT',
    message: expect.stringContaining(`[${path}] expected an object of options but received`),
  });
});

test.each<[what: string, text: string, words: string]>([
  ['a list that does not end', 'model: m\nadapter: [a=b\n', ':3 is not valid YAML: '],
  [
    'a key that is there twice',
    'port: 1\nmodel: m\nport: 2\n',
    ':3 is not valid YAML: Map keys must be unique',
  ],
  ['two documents', 'port: 1\n---\nport: 2\n', ':2 is not valid YAML: Source contains multiple documents'],
  ['a tag that is not known', 'model: m\nport: !!js/function x\n', ':2 is not valid YAML: Unresolved tag'],
  ['an anchor that is not there', 'cors: *all\n', ' is not valid YAML: Unresolved alias'],
  [
    'names within names',
    `a: &a [x, x, x, x, x, x, x, x, x]\n${[...'bcdefgh']
      .map((name, i) => `${name}: &${name} [${Array(9).fill(`*${'abcdefgh'[i]}`).join(', ')}]\n`)
      .join('')}`,
    ' is not valid YAML: Excessive alias count',
  ],
  ['lists within lists', `adapter: ${'['.repeat(200)}${']'.repeat(200)}\n`, ' is nested'],
])('%s', async (_, text, words) => {
  const path = write(text);
  await expect(readConfig(path)).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: expect.stringContaining(`${path}${words}`),
  });
});
